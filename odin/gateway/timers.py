"""The wheel: every connection's next deadline, in one structure, driven by one timer.

A connection always waits for exactly one thing: the handshake, the next ping, a pong, the answer
to a close frame. Twisted's DelayedCall costs 650 to 1000 bytes and a heap operation for each of
them; here a deadline is one entry of a set.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from odin.process.lateness import Lateness

TICK_S: Final = 0.25
_SLICE_S: Final = 0.002


class Timed(Protocol):
    """What can be in the wheel."""

    bucket: "set[Any] | None"

    def due(self) -> None:
        """The deadline has come. The wheel has forgotten it already."""


class Wheel(Service):
    """Calls `due` of everything whose time has come, to the next tick (TICK_S), never early."""

    _log = Logger()

    def __init__(self, reactor: Any, soon: Callable[[Callable[[], None]], object]) -> None:
        self._clock = reactor.seconds
        self._soon = soon
        self._buckets: dict[int, set[Timed]] = {}
        self._turned_to = int(self._clock() / TICK_S)
        self._lateness = Lateness(TICK_S, self._clock)
        self._due: deque[Timed] = deque()
        self._loop = LoopingCall(self._turn)
        self._loop.clock = reactor
        self._working = False

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values())) + len(self._due)

    def startService(self) -> None:
        super().startService()
        self._turned_to = int(self._clock() / TICK_S)
        self._lateness.restart()
        self._loop.start(TICK_S, now=False)

    def stopService(self) -> None:
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        self._buckets.clear()
        self._due.clear()

    def set(self, item: Timed, after_s: float) -> None:
        """Give `item` a deadline, instead of the one it had."""
        self.clear(item)
        tick = max(int((self._clock() + after_s) / TICK_S) + 1, self._turned_to + 1)
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = set()
        bucket.add(item)
        item.bucket = bucket

    def clear(self, item: Timed) -> None:
        """Take back the deadline of `item`, if it has one."""
        bucket = item.bucket
        if bucket is not None:
            bucket.discard(item)
            item.bucket = None

    def _turn(self) -> None:
        tick = int(self._clock() / TICK_S)
        late_s = self._lateness.stood_still()
        if late_s:
            # The pongs that came meanwhile are not read yet: let them be, before anybody is called
            # too late.
            self._log.warn("the event loop stood still for {late:.1f} s", late=late_s)
            self._shift(tick)
            return
        buckets = self._buckets
        for each in range(self._turned_to + 1, tick + 1):
            bucket = buckets.pop(each, None)
            if bucket:
                for item in bucket:
                    item.bucket = None
                self._due.extend(bucket)
        self._turned_to = tick
        if self._due and not self._working:
            self._working = True
            self._work()

    def _shift(self, tick: int) -> None:
        """Turn to `tick`; what was due until then becomes due at the tick after."""
        overdue: list[Timed] = []
        for each in range(self._turned_to + 1, tick + 1):
            overdue.extend(self._buckets.pop(each, ()))
        self._turned_to = tick
        bucket = self._buckets.setdefault(tick + 1, set())
        bucket.update(overdue)
        for item in overdue:
            item.bucket = bucket

    def _work(self) -> None:
        """Call what is due, for one slice of time."""
        stop_at = self._clock() + _SLICE_S
        due = self._due
        while due:
            item = due.popleft()
            if item.bucket is None:  # else it was given a new deadline meanwhile
                try:
                    item.due()
                except Exception:
                    self._log.failure("a deadline failed")
            if self._clock() >= stop_at:
                break
        self._working = bool(due)
        if due:
            self._soon(self._work)
