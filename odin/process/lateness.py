"""Whether this process itself stood still, asked before anybody else is judged by the time.

SIGSTOP, a paused container or virtual machine, a debugger, a swapped-out process: when it goes on,
every deadline has passed, and what others sent meanwhile has not been read yet. A judge that asks
here first gives everybody a new period instead.
"""

from collections.abc import Callable
from typing import Final

_TOLERANCE_S: Final = 1.0  # a busy event loop is late by less


class Lateness:
    """Measures how late a periodic look is.

    `stood_still` is called once a look; looks are `period_s` apart when all is well.
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
