"""The ground that attacks are fought on.

    class FrameAttacks(Field):
        def test_ping_flood(self) -> None:
            with self.attack("A2 ping flood", cost=2000, peak_mb=4):
                self.hostile().pour(frame(PING) * 20_000)

An attack ends when the server is quiet again. Its cost is the CPU time of the server, in
heartbeats: what one `heartbeat` and its answer cost this server, on this machine, before.
"""

import atexit
import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.integration.clients import CLOSE, HANDSHAKE, TEXT, Wire, frame
from tests.integration.harness import Odin, OdinTestCase, eventually

SECONDS = float(os.environ.get("ATTACK_SECONDS", "1"))  # how long an attack lasts that has no end
TURN: Final = 350  # heartbeats: some 10 ms, twice what a turn of the loop should take at most
_HERE = Path(__file__).parent
PROBE: Final = {"PYTHONPATH": str(_HERE / "probe"), "LOOP_TURNS": tempfile.gettempdir()}
_MB = 1 << 20
_HEARTBEATS = 80  # that measure what one costs; fewer than limits.messageBurst
_QUIET = 0.25  # of a core, and less, is quiet
_LOOK_S = 0.1
_PATIENCE_S = 45.0  # for a server to be quiet again


@dataclass
class Figures:
    """What one attack did."""

    name: str
    cpu_s: float = 0.0
    cost: float = 0.0  # heartbeats
    turn: float = 0.0  # of the longest turn of the loop, heartbeats
    turn_ms: float = 0.0  # its CPU time
    peak_mb: float = 0.0
    kept_mb: float = 0.0
    trips_ms: list[float] = field(default_factory=list)  # of the neighbour, sorted
    verdict: str = "held"

    def row(self) -> list[str]:
        def at(share: float) -> str:
            trips = self.trips_ms
            return f"{trips[min(len(trips) - 1, int(share * len(trips)))]:.1f}" if trips else "-"

        numbers = (f"{self.cpu_s:.2f}", f"{self.cost:.0f}", f"{self.turn_ms:.1f}")
        memory = (f"{self.peak_mb:.1f}", f"{self.kept_mb:.1f}")
        return [self.name, *numbers, *memory, at(0.5), at(0.99), at(1.0), self.verdict]


COLUMNS = (
    "attack", "CPU s", "cost", "turn ms", "peak MB", "kept MB", "p50", "p99", "max ms", "verdict",
)  # fmt: skip
RECORDS: list[Figures] = []  # of this process, for `make attack`
_grounds: "dict[int, tuple[Victim, Neighbour]]" = {}  # by process


def table(records: list[Figures]) -> str:
    """The figures of attacks, to be read."""
    rows = [list(COLUMNS), *(each.row() for each in records)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS) - 1)]
    lines = []
    for row in rows:
        first = row[0].ljust(widths[0])
        numbers = (cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:], strict=True))
        lines.append("  ".join((first, *numbers, row[-1])).rstrip())
    return "\n".join(lines)


class Victim:
    """A server process, watched from outside."""

    def __init__(self, odin: Odin) -> None:
        self.odin = odin
        turns = Path(PROBE["LOOP_TURNS"], f"odin-turns-{odin.pid}")
        self._turns = turns
        self._most_mb = 0.0
        self._clock = (~odin.pid << 3) | 2  # CLOCK_PROCESS_CPUTIME_ID of another process
        atexit.register(turns.unlink, missing_ok=True)
        self.heartbeat_s = self._heartbeat()

    @property
    def cpu_s(self) -> float:
        """The CPU time of all its threads."""
        return time.clock_gettime(self._clock)

    @property
    def memory_mb(self) -> float:
        return self._status("VmRSS")

    @property
    def peak_mb(self) -> float:
        """The most memory since `forget`."""
        return self._status("VmHWM")

    def all_time_peak_mb(self) -> float:
        """The most memory since it began."""
        return max(self._most_mb, self.peak_mb)

    def forget(self) -> None:
        """Begin anew with what is the most."""
        self._most_mb = self.all_time_peak_mb()
        Path(f"/proc/{self.odin.pid}/clear_refs").write_text("5")
        with self._turns.open("r+b") as file:  # not cut off: the server has it mapped
            file.write(bytes(24))

    def longest_turn_s(self) -> float:
        """CPU time of the longest turn of its event loop since `forget`."""
        return int.from_bytes(self._turns.read_bytes()[8:16], sys.byteorder) / 1e9

    def quiet(self) -> None:
        """Wait until it has nothing to do. An attack that works can take a while."""
        stop_at = time.monotonic() + _PATIENCE_S
        while time.monotonic() < stop_at:
            cpu_s, at = self.cpu_s, time.monotonic()
            time.sleep(_LOOK_S)
            if (self.cpu_s - cpu_s) / (time.monotonic() - at) < _QUIET:
                return

    def _status(self, name: str) -> float:
        lines = Path(f"/proc/{self.odin.pid}/status").read_text().splitlines()
        found = next((each for each in lines if each.startswith(name)), None)
        if found is None:
            raise AssertionError(f"the server ended with {self.odin.wait()}")
        return int(found.split()[1]) / 1024

    def _heartbeat(self) -> float:
        """What one costs: the CPU time of a number of them, each asked after the last answer."""
        client = Hostile(self.odin.host)
        client.open("?channels=none")
        self.quiet()
        cpu_s = self.cpu_s
        for _ in range(_HEARTBEATS):
            client.ask({"type": "heartbeat"})
        cost_s = (self.cpu_s - cpu_s) / _HEARTBEATS
        client.close()
        return cost_s


class Neighbour:
    """The other client: a process of its own, and what it has printed."""

    def __init__(self, port: int) -> None:
        self._file = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-IS", str(_HERE / "neighbour.py"), str(port)],
            stdin=subprocess.PIPE,
            stdout=self._file,
            stderr=subprocess.DEVNULL,
        )

    def trips(self) -> list[tuple[float, float]]:
        """(when, how long) of each heartbeat so far, in seconds."""
        size = os.fstat(self._file.fileno()).st_size
        lines = os.pread(self._file.fileno(), size, 0).decode().rpartition("\n")[0].splitlines()
        pairs = (each.split() for each in lines)
        return [(float(when), float(took)) for when, took in pairs]

    def answered_since(self, when: float) -> None:
        """Wait until a heartbeat that was sent after `when` has its answer."""
        eventually(
            lambda: not self.alive or any(sent >= when for sent, _took in self.trips()[-2:]),
            "an answer for the neighbour",
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._process.communicate(timeout=1)
        self._process.kill()
        self._process.wait()
        self._file.close()


class Hostile(Wire):
    """A client that can do anything; nothing that it does takes longer than it says."""

    def __init__(self, host: str, receive_buffer: int = 0) -> None:
        super().__init__(host, receive_buffer)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def open(self, query: str = "", extra: str = "") -> Any:
        """Become a WebSocket; the welcome."""
        self.send(HANDSHAKE.replace("{path}", f"/ws{query}") + extra + "\r\n")
        answer = self.response()
        assert answer.status == 101, answer
        return self.message()

    def open_with(self, data: bytes) -> Any:
        """The same, with data in one segment with the request."""
        self.send(self.filled(HANDSHAKE + "\r\n").encode() + data)
        assert self.response().status == 101
        return self.message()

    def say(self, message: object) -> None:
        self.send(frame(TEXT, json.dumps(message).encode()))

    def message(self) -> Any:
        """The next message; None at the end."""
        while (received := self.receive())[0] not in (TEXT, CLOSE, -1):
            pass
        return json.loads(received[1]) if received[0] == TEXT else None

    def ask(self, message: object) -> Any:
        """Send a message; the next one that is an answer, and no feed message or notice."""
        self.say(message)
        while (answer := self.message()) is not None:
            if "channel" not in answer and answer.get("type") not in ("feedStatus", "conflated"):
                break
        return answer

    def paced(self, requests: Sequence[object], batch: int = 40) -> list[Any]:
        """Send requests, so many at a time, and wait for the answers to them."""
        answers: list[Any] = []
        for first in range(0, len(requests), batch):
            some = requests[first : first + batch]
            self.send(b"".join(frame(TEXT, json.dumps(each).encode()) for each in some))
            for _ in some:
                answer = self.message()
                while answer is not None and "channel" in answer:
                    answer = self.message()
                if answer is None:
                    return answers
                answers.append(answer)
        return answers

    def pour(self, data: bytes, seconds: float = SECONDS, *, read: bool = True) -> int:
        """Send for so long, throwing away what comes; how much the server has taken."""
        view, sent = memoryview(data), 0
        stop_at = time.monotonic() + seconds
        self.socket.setblocking(False)
        try:
            while sent < len(view) and (left := stop_at - time.monotonic()) > 0:
                asked = [self.socket] if read else []
                readable, writable, _ = select.select(asked, [self.socket], [], left)
                if readable and not self.socket.recv(1 << 18):
                    break
                if writable:
                    sent += self.socket.send(view[sent : sent + (1 << 18)])
        except OSError:
            pass
        finally:
            self.socket.settimeout(60)
        return sent

    def drain(self, seconds: float) -> bytes:
        """What comes until the end, or for so long."""
        got = bytearray()
        stop_at = time.monotonic() + seconds
        with contextlib.suppress(OSError):
            while (left := stop_at - time.monotonic()) > 0:
                if not select.select([self.socket], [], [], left)[0]:
                    break
                more = self.socket.recv(1 << 18)
                if not more:
                    break
                got += more
        return bytes(got)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


class Field(OdinTestCase):
    """Attacks on the server of this class, or on one that a test starts."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.environment = PROBE | cls.environment

    def start(self, *options: str, **environment: str) -> Odin:
        return super().start(*options, **(PROBE | environment))

    def hostile(self, odin: Odin | None = None, receive_buffer: int = 0) -> Hostile:
        """A connection that is nothing yet."""
        client = Hostile((odin or self.odin).host, receive_buffer)
        self.addCleanup(client.close)
        return client

    def opened(self, query: str = "?channels=none", odin: Odin | None = None) -> Hostile:
        """A WebSocket, welcomed."""
        client = self.hostile(odin)
        client.open(query)
        return client

    @contextlib.contextmanager
    def unwatched(self, name: str) -> Iterator[Figures]:
        """An attack on a server that has no room for a neighbour, or ends by it."""
        figures = Figures(name)
        RECORDS.append(figures)
        try:
            yield figures
        except BaseException as error:
            figures.verdict = _why(error)
            raise

    @contextlib.contextmanager
    def attack(
        self,
        name: str,
        *,
        odin: Odin | None = None,
        cost: float | None = None,
        turn: float | None = None,
        peak_mb: float | None = None,
        kept_mb: float | None = None,
    ) -> Iterator[Figures]:
        """What is done inside is an attack. It fails for what is raised in it, or above a limit.

        `cost`, `turn`: heartbeats, in all and in the longest turn of the loop. `peak_mb`,
        `kept_mb`: memory, at most and at the end, with all that the attacker still holds open.
        """
        victim, neighbour = ground(odin or self.odin)
        figures = Figures(name)
        RECORDS.append(figures)
        victim.quiet()
        victim.forget()
        memory_mb, cpu_s, began = victim.memory_mb, victim.cpu_s, time.monotonic()
        try:
            yield figures
        except BaseException as error:
            figures.verdict = _why(error)
            raise
        finally:
            ended = time.monotonic()
            victim.quiet()
            neighbour.answered_since(ended)
            figures.cpu_s = victim.cpu_s - cpu_s
            figures.turn_ms = victim.longest_turn_s() * 1e3
            figures.peak_mb = max(0.0, victim.peak_mb - memory_mb)
            figures.kept_mb = max(0.0, victim.memory_mb - memory_mb)
            figures.cost = figures.cpu_s / victim.heartbeat_s
            figures.turn = figures.turn_ms / 1e3 / victim.heartbeat_s
            trips = (took * 1e3 for when, took in neighbour.trips() if when >= began)
            figures.trips_ms = sorted(trips)
        wanted = {"cost": cost, "turn": turn, "peak_mb": peak_mb, "kept_mb": kept_mb}
        over = [
            f"{what} {getattr(figures, what):.0f} > {limit:.0f}"
            for what, limit in wanted.items()
            if limit is not None and getattr(figures, what) > limit
        ]
        if over:
            figures.verdict = f"SUCCEEDS: {', '.join(over)}"
            self.fail(f"{name}: {', '.join(over)}")


def _why(error: BaseException) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return f"SUCCEEDS: {lines[0][:60]}"


def ground(odin: Odin) -> tuple[Victim, Neighbour]:
    """What watches a server, from its first attack on."""
    found = _grounds.get(odin.pid)
    if found is None:
        victim = Victim(odin)
        found = _grounds[odin.pid] = victim, Neighbour(odin.port)
        atexit.register(found[1].stop)
        found[1].answered_since(0)
    return found
