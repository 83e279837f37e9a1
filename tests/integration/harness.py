"""The processes of the integration tests. Loopback only; every wait has an end.

    OdinTestCase   one Odin for all tests of a class, and the clients of a test (see `clients`)
    Odin, Nats     a process: its output, its end

trial runs no setUpClass: the Odin of a class starts with its first test, and ends when another
class wants its own, or at exit.
"""

import atexit
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import jwt
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.integration.clients import PATIENCE_S, TEXT, Client, Response, Wire

SECRET = "integration-0123456789-abcdefghijklmnopqrstuvwxyz"
MEMORY = ("--nats-url", "memory://")
_RECENT = frozenset(("/health", "/stats", "/metrics"))  # made anew once in an interval only
_ROOT = Path(__file__).resolve().parent.parent.parent
_OURS = re.compile(r"(SERVER|WEBSOCKET|NATS|AUTH|METRICS|LIMITS|DELIVERY|JWT|ODIN)_|REQUIRE_AUTH")
_T = TypeVar("_T")


def eventually(look: Callable[[], _T], what: str = "it", within_s: float = PATIENCE_S) -> _T:
    """The first true value of `look()`; fails if none came in time.

    Looks less and less often, so that servers which have to answer are not kept busy by it.
    """
    stop_at = time.monotonic() + within_s
    pause_s = 0.01
    while not (value := look()):
        if time.monotonic() > stop_at:
            raise AssertionError(f"{what} did not happen; the last look gave {value!r}")
        time.sleep(pause_s)
        pause_s = min(0.05, pause_s * 1.2)
    return value


def program(name: str) -> str:
    """The path of a program, beside this Python or on PATH; else the test is skipped."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise SkipTest(f"{name} is not installed")
    return found


def free_port() -> int:
    """A port that nobody listens on, for a server that must come back to it.

    Below those that the system gives to others in the meantime (ip_local_port_range).
    """
    while True:
        port = random.randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def sign(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """A token that is valid for an hour, unless `claims` say otherwise (None leaves one out)."""
    everything = {"sub": "alice", "exp": int(time.time()) + 3600} | claims
    present = {name: value for name, value in everything.items() if value is not None}
    return jwt.encode(present, secret, algorithm=algorithm)


class Process:
    """A program that runs until the test ends, and all it printed."""

    def __init__(
        self,
        arguments: list[str],
        environment: Mapping[str, str] | None = None,
        *,
        family: bool = False,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        """`family`: it has children, which must end with it."""
        inherited = {name: value for name, value in os.environ.items() if not _OURS.match(name)}
        self._file = tempfile.TemporaryFile()
        self._popen = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            cwd=_ROOT,
            env=inherited | dict(environment or {}),
            process_group=0 if family else None,
            pass_fds=pass_fds,
        )
        self._family = family
        atexit.register(self.stop)

    def output(self) -> str:
        """Everything printed so far."""
        size = os.fstat(self._file.fileno()).st_size
        return os.pread(self._file.fileno(), size, 0).decode()  # the file's offset is the child's

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def pid(self) -> int:
        return self._popen.pid

    def peak(self) -> int:
        """The most bytes that it has been resident with."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) << 10

    def says(self, pattern: str) -> re.Match[str]:
        """Wait until the output matches."""

        def look() -> re.Match[str] | bool | None:
            match = re.search(pattern, self.output())
            if match is None and not self.running:
                raise AssertionError(f"ended without {pattern!r}:\n{self.output()}")
            return match

        found = eventually(look, f"{pattern!r} in the output")
        assert isinstance(found, re.Match)
        return found

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def wait(self) -> int:
        """The exit status, once it has ended."""
        return self._popen.wait(PATIENCE_S)

    def stop(self) -> None:
        """End it at once, whatever it does."""
        if self._file.closed:
            return
        atexit.unregister(self.stop)
        if self.running:
            self._popen.kill()
            self._popen.wait()
        if self._family:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self._file.close()


class Odin(Process):
    """The real server: `twistd -n odin` on a port of the system's choice."""

    _interval_s = 0.05  # metrics.updateInterval

    def __init__(self, *options: str, **environment: str) -> None:
        interval = environment.setdefault("METRICS_UPDATE_INTERVAL", str(self._interval_s))
        self._interval_s = float(interval)
        fixed = ["--port", "0", "--host", "127.0.0.1", "--log-format=json"]
        super().__init__(
            [program("twistd"), "-n", "--pidfile=", "odin", *fixed, *options],
            {"JWT_SECRET": SECRET} | environment,
            family="--workers" in options or "--embedded-nats" in options,
        )
        self._port = 0

    @property
    def port(self) -> int:
        """Where it listens; waits for it."""
        if not self._port:
            self._port = int(self.says(r"Odin listens on [\d.]+:(\d+)")[1])
        return self._port

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> Response:
        """One HTTP request on a connection of its own; `User_Agent="x"` is a header.

        The figures of a page that is made once in an interval are not older than the call.
        """
        if path in _RECENT:
            time.sleep(self._interval_s)
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            with contextlib.suppress(ConnectionError):  # refused early: the answer is there
                connection.request(method, path, body, named)
            response = connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Response(response.status, fields, response.read())

    def get(self, path: str, **headers: str) -> Response:
        return self.request("GET", path, None, **headers)

    def publish(self, subject: str, payload: object) -> Response:
        """Put a message on the bus, with a token that permits it; bytes go as they are."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        token = sign(publish=[">"])
        return self.request(
            "POST", f"/publish?subject={subject}", body, Authorization=f"Bearer {token}"
        )

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name with labels, as the text has it."""
        lines = self.get("/metrics").body.decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def metric(self, name: str) -> float:
        return self.metrics().get(name, 0.0)

    def clients(self) -> int:
        """Open WebSockets."""
        return int(self.get("/health").json()["services"]["websocket"]["clients"])


class Nats(Process):
    """A real nats-server."""

    def __init__(self, *options: str, port: int = -1) -> None:
        super().__init__([program("nats-server"), "-a", "127.0.0.1", "-p", str(port), *options])
        self.port = int(self.says(r"Listening for client connections on 127.0.0.1:(\d+)")[1])

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def publish(self, subject: str, *payloads: bytes) -> None:
        """Put messages on the broker, as a foreign publisher does it."""
        self.publish_each(*((subject, payload) for payload in payloads))

    def publish_each(self, *messages: tuple[str, bytes]) -> None:
        """Put (subject, payload) on the broker, in this order, on one connection."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE_S) as sock:
            stream = sock.makefile("rwb")
            for subject, payload in messages:
                name = subject.encode(errors="surrogateescape")
                stream.write(b"PUB %b %d\r\n%b\r\n" % (name, len(payload), payload))
            stream.write(b"PING\r\n")
            stream.flush()
            while (line := stream.readline()) != b"PONG\r\n":
                assert line and not line.startswith(b"-ERR"), line


class OdinTestCase(SynchronousTestCase):
    """Tests against one server, which must be well after each of them."""

    options: ClassVar[tuple[str, ...]] = MEMORY
    environment: ClassVar[dict[str, str]] = {}
    timeout = 120

    @property
    def odin(self) -> Odin:
        """The server of this class."""
        return _shared(type(self))

    def start(self, *options: str, **environment: str) -> Odin:
        """A server for this test alone."""
        odin = Odin(*(options or MEMORY), **environment)
        self.addCleanup(odin.stop)
        self.addCleanup(self.check, odin)
        return odin

    def client(self, path: str = "/ws", odin: Odin | None = None, **options: Any) -> Client:
        client = Client((odin or self.odin).host, path, **options)
        self.addCleanup(client.close)
        return client

    def wire(self, odin: Odin | None = None, receive_buffer: int = 0) -> Wire:
        wire = Wire((odin or self.odin).host, receive_buffer)
        self.addCleanup(wire.close)
        return wire

    def websocket(self, extra: str = "", odin: Odin | None = None) -> Wire:
        """A WebSocket by hand, its welcome read."""
        wire = self.wire(odin)
        self.assertEqual(wire.upgrade(extra).status, 101)
        self.assertEqual(wire.receive()[0], TEXT)
        return wire

    def check(self, odin: Process) -> None:
        """No exception may ever reach a log."""
        self.assertNotRegex(odin.output(), 'Traceback|"failure"')

    def tearDown(self) -> None:
        if type(self) in _running:
            self.assertTrue(self.odin.running, "the server ended")
            self.check(self.odin)


_running: dict[type, Odin] = {}


def _shared(owner: type[OdinTestCase]) -> Odin:
    odin = _running.get(owner)
    if odin is None:
        while _running:
            _running.popitem()[1].stop()
        odin = _running[owner] = Odin(*owner.options, **owner.environment)
    return odin
