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
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tests.hostile.client import SECONDS, Hostile
from tests.hostile.victim import PROBE, Neighbour, Victim
from tests.integration.harness import Odin, OdinTestCase

__all__ = ["SECONDS", "TURN", "Field", "Hostile", "ground"]

TURN: Final = 700  # heartbeats: some 16 ms; a turn of the loop should take 5 ms at most


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
            heartbeat_s = victim.heartbeat_s()
            figures.cost = figures.cpu_s / heartbeat_s
            figures.turn = figures.turn_ms / 1e3 / heartbeat_s
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
