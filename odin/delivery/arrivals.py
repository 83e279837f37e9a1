"""When the messages that wait in a hub arrived, and how many bytes they are."""

from collections import deque
from typing import NamedTuple


class _Mark(NamedTuple):
    """The first message of a round."""

    offset: int
    arrived: float
    size: int  # of all messages before it


class Arrivals:
    """Marks the first message of each round, until no message of that round waits any more.

    A group may lag rounds behind others; the marks that are kept begin at the round of the oldest
    message that waits in any. A look costs nothing per message, so it is exact to a round.
    """

    def __init__(self) -> None:
        self.size = 0  # bytes of all messages that ever came; the hub counts
        self._marks: deque[_Mark] = deque()
        self._oldest = 0  # the lowest offset that is left over in this round
        self._some = False  # whether anything is

    @property
    def waiting(self) -> int:
        """Bytes of the messages that wait, each counted once however many groups wait for it."""
        return self.size - self._marks[0].size if self._marks else 0

    def mark(self, offset: int, arrived: float) -> None:
        """The first message for the next round came, and is not counted in `size` yet."""
        marks = self._marks
        if marks and offset <= marks[-1].offset:
            marks.clear()  # another numbering
        marks.append(_Mark(offset, arrived, self.size))

    def left(self, offset: int) -> None:
        """A group has messages from `offset` on that wait for the next round (0: notices)."""
        if offset and (not self._some or offset < self._oldest or not self._oldest):
            self._oldest = offset
        self._some = True

    def clear(self) -> None:
        """Nothing waits."""
        self._marks.clear()
        self._oldest, self._some = 0, False

    def end_round(self, *, new: bool) -> float | None:
        """Forget what was sent; returns when the oldest message that waits arrived.

        `new`: whether messages for the next round have come since this one began.
        """
        marks, oldest = self._marks, self._oldest
        if not self._some:
            while len(marks) > new:
                marks.popleft()
        elif oldest:
            while len(marks) > 1 and marks[1].offset <= oldest:
                marks.popleft()
        self._oldest, self._some = 0, False
        return marks[0].arrived if marks else None
