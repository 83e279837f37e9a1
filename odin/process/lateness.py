"""Whether this process itself stood still, asked before anybody else is judged by the time.

SIGSTOP, a paused container or virtual machine, a debugger, a swapped-out process: when it goes on,
every deadline has passed, and what others sent meanwhile has not been read yet. A judge that asks
here first gives everybody a new period instead.
"""

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.task import LoopingCall

_TOLERANCE_S: Final = 1.0  # a busy event loop is late by less
_TICK_S: Final = 0.25


class Lateness:
    """Measures how late a periodic look is.

    `stood_still` is called with each look, at least every `period_s` when all is well.
    """

    def __init__(self, period_s: float, clock: Callable[[], float]) -> None:
        """`clock`: seconds, monotonic."""
        self._period_s = period_s
        self._clock = clock
        self._looked_at = clock()

    def restart(self) -> None:
        """The next look is one period from now."""
        self._looked_at = self._clock()

    def stood_still(self) -> float:
        """How many seconds this look is late; 0.0 while that is no more than a busy loop is."""
        now = self._clock()
        late_s = now - self._looked_at - self._period_s
        self._looked_at = now
        return late_s if late_s > _TOLERANCE_S else 0.0


class Limit:
    """How long to wait for another process. Starts anew whenever this one stood still.

    Used as a context manager, or cancelled, so that nothing happens after the wait.
    """

    def __init__(
        self, reactor: Any, limit_s: float, expired: Callable[[], object] | None = None
    ) -> None:
        """`expired` is called once, when the time is over; up to a quarter of a second later."""
        self.passed = False
        self._limit_s = limit_s
        self._expired = expired
        self._clock: Callable[[], float] = reactor.seconds
        self._began_at: float = self._clock()
        self._lateness = Lateness(_TICK_S, self._clock)
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor
        self._loop.start(_TICK_S, now=False)

    @property
    def ran_s(self) -> float:
        """How long the wait has lasted, since this process stood still if it did."""
        now = self._clock()
        if self._lateness.stood_still():
            self._began_at = now
        return now - self._began_at

    def cancel(self) -> None:
        """The wait is over. Idempotent."""
        if self._loop.running:
            self._loop.stop()

    def __enter__(self) -> "Limit":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.cancel()

    def _look(self) -> None:
        if self.ran_s >= self._limit_s:
            self.passed = True
            self.cancel()
            if self._expired is not None:
                self._expired()
