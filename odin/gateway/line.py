"""The requests of a client that wait for the ones before them."""

from collections import deque
from typing import Final

from odin.errors import LimitExceeded
from odin.gateway.costs import size
from odin.wire.messages import AnyRequest

_MOST: Final = 512  # requests of one client


class Line:
    """Requests that wait for their turn; there is a line only while one is under way."""

    __slots__ = ("_size", "_waiting", "asking", "resting")

    def __init__(self) -> None:
        self.asking = False  # whether the one before them waits for the broker
        self.resting = False  # whether the one before them was carried out in this turn
        self._waiting: deque[AnyRequest] = deque()
        self._size = 0

    @property
    def head(self) -> AnyRequest | None:
        """The next one; None if there is none."""
        return self._waiting[0] if self._waiting else None

    def add(self, request: AnyRequest, room: int) -> None:
        """Put a request behind the others, which may take `room` bytes, but for the only one.

        Raises: LimitExceeded.
        """
        waiting, taken = self._waiting, self._size + size(request)
        if len(waiting) >= _MOST or (waiting and taken > room):
            raise LimitExceeded("too many requests wait for the ones before them")
        waiting.append(request)
        self._size = taken

    def pop(self) -> AnyRequest:
        """Take the next one out."""
        request = self._waiting.popleft()
        self._size -= size(request)
        return request
