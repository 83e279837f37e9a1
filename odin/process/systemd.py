"""What systemd offers a service: readiness, a watchdog, sockets that are there already.

Each is a few bytes in the environment or on a socket (sd_notify(3)): less than a
library for them. Without systemd nothing happens.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.task import LoopingCall

from odin.process.lateness import Lateness

_FIRST_DESCRIPTOR: Final = 3
_NOTIFY_S: Final = 0.2
RELOADING: Final = "RELOADING=1"


def notify(*states: str, environment: MutableMapping[str, str] = os.environ) -> bool:
    """Tell systemd a state, `READY=1` for example; whether there was somebody to tell."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    if RELOADING in states:
        states = (*states, f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(_NOTIFY_S)  # whoever should listen does not always
        sock.sendto("\n".join(states).encode(), address)
        return True
    return False


def inherited_sockets() -> list[socket.socket]:
    """The listening sockets of a socket unit (LISTEN_FDS); children will not see them.

    Twisted takes LISTEN_FDS out of the environment when its endpoints are imported, so it is read
    from the environment that the process was started with. Linux only, as systemd is.
    """
    found: list[socket.socket] = []
    try:
        with open("/proc/self/environ", "rb") as file:
            given = dict(each.partition(b"=")[::2] for each in file.read().split(b"\0"))
    except OSError:
        return found
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    count = given.get(b"LISTEN_FDS", b"")
    if given.get(b"LISTEN_PID") != b"%d" % os.getpid() or not count.isdigit():
        return found
    for descriptor in range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count)):
        sock = socket.socket(fileno=descriptor)
        sock.set_inheritable(False)
        sock.setblocking(False)
        found.append(sock)
    return found


def watchdog_interval_s(environment: MutableMapping[str, str] = os.environ) -> float | None:
    """How often `WATCHDOG=1` is to be told: twice in the time that systemd allows; None = never."""
    allowed, owner = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID")
    if not allowed.isdigit() or owner not in (None, str(os.getpid())):
        return None
    return int(allowed) / 2e6 or None


class Announcer(Service):
    """Tells systemd of the start and of the end; start it after everything that must be there."""

    def startService(self) -> None:
        super().startService()
        notify("READY=1")

    def stopService(self) -> None:
        super().stopService()
        notify("STOPPING=1")


class Watchdog(Service):
    """Tells systemd that all is well, as long as `well` says so."""

    def __init__(self, reactor: Any, well: Callable[[], bool]) -> None:
        self._well = well
        self._interval_s = watchdog_interval_s()
        self._loop = LoopingCall(self._tell)
        self._loop.clock = reactor
        self._lateness = Lateness(self._interval_s or 0.0, reactor.seconds)

    def startService(self) -> None:
        super().startService()
        if self._interval_s is not None:
            self._lateness.restart()
            self._loop.start(self._interval_s)

    def stopService(self) -> None:
        super().stopService()
        if self._loop.running:
            self._loop.stop()

    def _tell(self) -> None:
        # a process that stood still has not heard yet what others told it meanwhile
        if self._lateness.stood_still() or self._well():
            notify("WATCHDOG=1")
