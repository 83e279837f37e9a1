"""Odin with workers and its broker, the load processes around it, and what it all takes."""

import contextlib
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

from benchmarks.processes import free_port, program

_ROOT = Path(__file__).resolve().parent.parent
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")
_PER_PROCESS = 17_000  # of 20,000 descriptors
_START_S = 20
_STOP_S = 20
_DRAIN_S = 8


class Memory(NamedTuple):
    """Bytes of several processes; PSS counts what they share once."""

    rss: int
    pss: int


class Cluster:
    """A fresh broker and Odin: one process with `workers` children, or 0 for a plain one."""

    def __init__(self, workers: int, log: Path, tree: Path = _ROOT) -> None:
        """`tree`: the source to run."""
        self.workers = workers
        self._tree = tree
        self.port, self.nats_port, self.metrics_port = free_port(), free_port(), free_port()
        self._log = log.open("wb")
        self._broker: subprocess.Popen[bytes] | None = None
        self._odin: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._broker = self._start(
                program("nats-server"), "-a", "127.0.0.1", "-p", self.nats_port
            )
            _wait_until(lambda: _listens(self.nats_port), "the broker")
            self._odin = self._start(
                program("twistd"), "-n", "--pidfile=", "odin", "--host", "127.0.0.1",
                "--port", self.port, "--nats-url", f"nats://127.0.0.1:{self.nats_port}",
                *(("--workers", self.workers) if self.workers else ()),
            )  # fmt: skip
            _wait_until(lambda: bool(self.pids) and _listens(self.port), "Odin")
            _wait_until(lambda: len(self.balance()) == self.workers, "the workers")
            time.sleep(1)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop()

    def _start(self, *command: object) -> "subprocess.Popen[bytes]":
        environment = os.environ | {
            "LIMITS_MESSAGES_PER_SECOND": "0",
            "METRICS_PORT": str(self.metrics_port),
            "PYTHONPATH": str(self._tree),  # this one, whichever is installed
        }
        return subprocess.Popen(
            [str(each) for each in command], cwd=_ROOT, env=environment, stdin=subprocess.DEVNULL,
            stdout=self._log, stderr=self._log, start_new_session=True,
        )  # fmt: skip

    def _stop(self) -> None:
        for process in (self._odin, self._broker):
            if process is None:
                continue
            with contextlib.ExitStack() as stack:
                handles = []
                for pid in _family(process.pid):
                    with contextlib.suppress(ProcessLookupError):
                        handles.append(os.pidfd_open(pid))
                        stack.callback(os.close, handles[-1])
                process.terminate()
                try:
                    process.wait(_STOP_S)
                except subprocess.TimeoutExpired:
                    print(f"{process.args[0]} does not stop", file=sys.stderr)  # type: ignore[index]
                    process.kill()
                    process.wait()
                for handle in handles:
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(handle, signal.SIGKILL)
        self._log.close()

    @property
    def pids(self) -> list[int]:
        """Odin's process and all below it."""
        assert self._odin is not None
        if self._odin.poll() is not None:
            raise RuntimeError(f"Odin has ended, see {self._log.name}")
        return _family(self._odin.pid)

    def memory(self) -> Memory:
        """Of all Odin's processes."""
        rss = pss = 0
        for pid in self.pids:
            rss += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            pss += int(rollup.split("\nPss:", 1)[1].split(None, 1)[0]) * 1024
        return Memory(rss, pss)

    def cpu_s(self) -> float:
        """User and system time of all Odin's processes so far."""
        return sum(map(cpu_s, self.pids))

    def stats(self) -> dict[str, Any]:
        """The whole of /stats."""
        url = f"http://127.0.0.1:{self.metrics_port}/stats"
        with urllib.request.urlopen(url, timeout=5) as answer:
            stats: dict[str, Any] = json.load(answer)
        return stats

    def upgrade(self) -> dict[str, Any]:
        """Have all connections handed over to new workers; how that went."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.metrics_port}/upgrade", b"", method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                result: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            result = json.load(error)
        return result

    def balance(self) -> list[int]:
        """The connections of each worker, as /stats has them; [] for a plain process."""
        workers = self.stats()["workers"] if self.workers else []
        return [each["connections"] for each in sorted(workers, key=lambda each: each["worker"])]

    def settled_balance(self, clients: int) -> list[int]:
        """The same, once they sum up to so many, or do not within 10 s."""
        if self.workers:
            with contextlib.suppress(RuntimeError):
                _wait_until(lambda: sum(self.balance()) >= clients, "the count", 10)
        return self.balance()


class Helper:
    """A process that takes commands and answers in JSON lines: see `crowd` and `prober`."""

    def __init__(self, module: str, **options: object) -> None:
        words = [f"--{name}={value}" for name, value in options.items()]
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", *words],
            cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def tell(self, *words: object) -> None:
        """Send a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
        self._process.stdin.flush()

    def hear(self, event: str, within_s: float = 60) -> dict[str, Any]:
        """Wait for an answer. Raises: RuntimeError if it does not come."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], within_s)
        line = self._process.stdout.readline() if ready else b""
        answer: dict[str, Any] = json.loads(line) if line else {}
        if answer.get("event") != event:
            raise RuntimeError(f"no {event} from a {self._process.args[2]}")  # type: ignore[index]
        return answer

    def cpu_s(self) -> float:
        """User and system time so far."""
        return cpu_s(self._process.pid)


def crowds(
    stack: contextlib.ExitStack,
    port: int,
    path: str,
    clients: int,
    least: int = 1,
    first: int = 0,
    nap: float = 0,
) -> list[Helper]:
    """As few load processes as can hold the clients (but `least`), with even shares of them."""
    count = max(least, -(-clients // _PER_PROCESS))
    ends = [clients * each // count for each in range(count + 1)]
    return [
        stack.enter_context(
            Helper("crowd", port=port, path=path, clients=end - start, first=first + start, nap=nap)
        )
        for start, end in itertools.pairwise(ends)
    ]


def asked(helpers: list[Helper], event: str, *words: object, within_s: float = 60) -> list[Any]:
    """Tell all of them the same at once, then hear all of them."""
    for each in helpers:
        each.tell(*words)
    until = time.monotonic() + within_s
    return [each.hear(event, max(0.0, until - time.monotonic())) for each in helpers]


def drained(helpers: list[Helper], expected: int) -> None:
    """Wait until so many messages came to crowds, or none within some seconds."""
    before, since = -1, time.monotonic()
    while before < expected and time.monotonic() - since < _DRAIN_S:
        received = sum(each["received"] for each in asked(helpers, "count", "count"))
        if received > before:
            before, since = received, time.monotonic()
        time.sleep(0.5)


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICK if fields else 0.0


def end_on_sigterm() -> None:
    """Let SIGTERM (of `timeout`, say) unwind, so that all processes are stopped."""

    def end(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(143)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)


def _family(pid: int) -> list[int]:
    """A process, its descendants, and orphans of its session."""
    parents, sessions = {}, {}
    for each in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
        if fields := _stat(each):
            parents[each], sessions[each] = int(fields[1]), int(fields[3])
    family = {pid} | {each for each, session in sessions.items() if session == pid}
    while more := {each for each, parent in parents.items() if parent in family} - family:
        family |= more
    return sorted(family & parents.keys())


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return []


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False


def _wait_until(there: Callable[[], bool], what: str, within_s: float = _START_S) -> None:
    """Raises: RuntimeError."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        with contextlib.suppress(OSError, KeyError):
            if there():
                return
        time.sleep(0.1)
    raise RuntimeError(f"{what} is not there after {within_s} s")
