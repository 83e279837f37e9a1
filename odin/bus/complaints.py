"""Errors that come again and again: each of them is logged once in a while."""

from collections.abc import Callable
from typing import Any, Final

from twisted.logger import Logger, LogLevel

_MOST: Final = 64  # different ones that are remembered, and so the most lines in one period
_KEPT: Final = 300  # characters of each


class Complaints:
    """Log each distinct text at most once in `every_s`, however many others come between.

    `forget` begins anew: the next of each kind is logged at once.
    """

    def __init__(self, log: Logger, every_s: float, clock: Callable[[], float]) -> None:
        self._log = log
        self._every_s = every_s
        self._clock = clock
        self._said_at: dict[str, float] = {}  # the oldest first

    def say(self, text: str, *, level: Any = LogLevel.warn, **fields: Any) -> None:
        """Log `text`, whose {names} stand for `fields`, unless it was logged a short time ago."""
        key, now, said_at = text.format(**fields)[:_KEPT], self._clock(), self._said_at
        while said_at and now - next(iter(said_at.values())) >= self._every_s:
            del said_at[next(iter(said_at))]
        if key not in said_at and len(said_at) < _MOST:
            said_at[key] = now
            self._log.emit(level, text, **fields)

    def forget(self) -> None:
        """What was wrong is over."""
        self._said_at.clear()
