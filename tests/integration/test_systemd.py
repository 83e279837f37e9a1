"""What systemd would do: hold the port, hear of the start, the watchdog and the end."""

import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.clients import Wire
from tests.integration.harness import MEMORY, SECRET, OdinTestCase, Process, eventually, program

_ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
names = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "odin.socket"}
os.execve(sys.argv[2], sys.argv[2:], os.environ | names)
"""


class Unit(Process):
    """`twistd -n odin` as systemd starts it: with a socket to tell things to, and maybe a port."""

    def __init__(self, *options: str, port: socket.socket | None = None) -> None:
        self.notices: list[str] = []
        self._told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._told.settimeout(0)
        where = Path(tempfile.mkdtemp(), "notify")
        self._told.bind(str(where))
        environment = {
            "JWT_SECRET": SECRET, "NOTIFY_SOCKET": str(where), "WATCHDOG_USEC": "400000",
            "SERVER_SHUTDOWN_TIMEOUT": "5",
        }  # fmt: skip
        command = [program("twistd"), "-n", "--pidfile=", "odin", "--host", "127.0.0.1", *options]
        if port is not None:
            command = [sys.executable, "-c", _ACTIVATE, str(port.fileno()), *command]
        super().__init__(
            command,
            environment,
            family=True,
            pass_fds=(port.fileno(),) if port else (),
        )

    def told(self, what: str) -> bool:
        """Whether it has told this so far."""
        try:
            while True:
                self.notices += self._told.recv(4096).decode().split("\n")
        except BlockingIOError:
            return what in self.notices

    def stop(self) -> None:
        super().stop()
        self._told.close()


@contextmanager
def held_port() -> Iterator[socket.socket]:
    """A port that somebody else has opened."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as port:
        yield port


class SystemdTestCase(OdinTestCase):
    """One life of a unit."""

    def unit(self, *options: str, port: socket.socket | None = None) -> Unit:
        unit = Unit(*MEMORY, *options, port=port)
        self.addCleanup(unit.stop)
        return unit

    def life(self, unit: Unit) -> None:
        """From READY to STOPPING."""
        eventually(lambda: unit.told("READY=1"), "READY=1")
        self.assertFalse(unit.told("STOPPING=1"))
        unit.notices.clear()
        eventually(lambda: unit.told("WATCHDOG=1"), "WATCHDOG=1")

    def end(self, unit: Unit, *clients: Wire) -> None:
        unit.signal(signal.SIGTERM)
        for client in clients:
            self.assertEqual(client.closed()[0], 1012)
            client.close()
        self.assertEqual(unit.wait(), 0)
        self.assertTrue(unit.told("STOPPING=1"))
        self.check(unit)


class NotifyTests(SystemdTestCase):
    """Type=notify and WatchdogSec."""

    def test_alone(self) -> None:
        """One process, which listens when it says that it is ready."""
        unit = self.unit("--port", "0")
        self.life(unit)
        unit.says("Odin listens on")
        self.end(unit)

    def test_supervisor(self) -> None:
        """With workers: ready when they listen; a reload is told, too; no worker tells anything."""
        unit = self.unit("--port", "0", "--workers", "1")
        self.life(unit)
        unit.says("Odin listens on")
        unit.signal(signal.SIGHUP)
        eventually(lambda: unit.told("RELOADING=1"), "RELOADING=1")
        self.assertTrue(any(each.startswith("MONOTONIC_USEC=") for each in unit.notices))
        eventually(lambda: unit.told("READY=1"), "READY=1")
        unit.says("handed over 0 clients")
        self.end(unit)


class ActivationTests(SystemdTestCase):
    """A port that systemd opened, and keeps."""

    def test_alone(self) -> None:
        """Who came before the start is served; who comes after the end waits for the next start."""
        self.comes_and_goes()

    def test_supervisor(self) -> None:
        """The same with workers."""
        self.comes_and_goes("--workers", "1")

    def comes_and_goes(self, *options: str) -> None:
        with held_port() as port:
            name = f"127.0.0.1:{port.getsockname()[1]}"
            for _ in range(2):
                early = Wire(name)
                self.addCleanup(early.close)
                unit = self.unit("--port", "1", *options, port=port)
                self.assertEqual(early.upgrade().status, 101)
                self.life(unit)
                late = Wire(name)
                self.addCleanup(late.close)
                self.assertEqual(late.upgrade().status, 101)
                self.end(unit, early, late)
