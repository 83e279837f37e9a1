"""The processes of a measurement: broker, server under test, load and publisher."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_ROOT = Path(__file__).resolve().parent.parent


def program(name: str) -> str:
    """A command of this environment, or of the PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise SystemExit(f"{name} is missing: pip install -e .[test]")
    return found


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Server:
    """One server with a broker of its own, both fresh."""

    def __init__(self, name: str, log: Path) -> None:
        self.name, self.port, self.nats_port = name, free_port(), free_port()
        self._log = log.open("ab")
        self._broker = self._start(program("nats-server"), "-a", "127.0.0.1", "-p", self.nats_port)
        _wait_for(self.nats_port)
        url = f"nats://127.0.0.1:{self.nats_port}"
        if name == "odin":
            self._process = self._start(
                program("twistd"), "-n", "--pidfile=", "odin", "--host", "127.0.0.1",
                "--port", self.port, "--nats-url", url,
            )  # fmt: skip
        else:
            self._process = self._start(
                sys.executable, "-m", "benchmarks.baseline", "--port", self.port, "--nats", url
            )
        _wait_for(self.port)
        time.sleep(0.5)

    def _start(self, *command: object) -> "subprocess.Popen[bytes]":
        environment = os.environ | {"LIMITS_MESSAGES_PER_SECOND": "0"}
        words = [str(each) for each in command]
        return subprocess.Popen(
            words, cwd=_ROOT, env=environment, stdout=self._log, stderr=self._log
        )

    def stop(self) -> None:
        for process in (self._process, self._broker):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(12)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._log.close()

    def cpu_s(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    def rss(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * _PAGE


@contextlib.contextmanager
def server(name: str, log: Path) -> Iterator[Server]:
    """A server for the length of a block."""
    under_test = Server(name, log)
    try:
        yield under_test
    finally:
        under_test.stop()


class Load:
    """A running load client."""

    def __init__(self, under_test: Server, **options: object) -> None:
        words = [f"--{name}={value}" for name, value in options.items()]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load", f"--port={under_test.port}", *words],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ready = self._line("ready")

    def result(self) -> dict[str, Any]:
        return self._line("result")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _line(self, event: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        message: dict[str, Any] = json.loads(line) if line else {}
        if message.get("event") != event:
            self.stop()
            raise RuntimeError(f"the load client ended before {event}")
        return message


def publish(under_test: Server, **options: object) -> float:
    """Publish; returns the messages per second that were reached."""
    words = [f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.publish", f"--port={under_test.nats_port}", *words],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    rate: float = json.loads(done.stdout)["rate"]
    return rate


def _wait_for(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")
