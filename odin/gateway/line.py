"""The requests of a client that wait for the ones before them."""

from collections import deque
from typing import Final

from odin.errors import LimitExceeded
from odin.wire.messages import AnyRequest

MOST: Final = 64  # requests of one client
_MOST_BYTES: Final = 256 << 10  # of their texts; decoded they take up to 12 times as much


class Line:
    """Requests that wait for their turn; there is a line only while one is under way."""

    __slots__ = ("_size", "_waiting", "asking")

    def __init__(self) -> None:
        self.asking = False  # whether the one before them waits for the broker
        self._waiting: deque[tuple[AnyRequest, int]] = deque()
        self._size = 0

    @property
    def head(self) -> AnyRequest | None:
        """The next one; None if there is none."""
        return self._waiting[0][0] if self._waiting else None

    def add(self, request: AnyRequest, size: int) -> None:
        """Put a request of `size` bytes behind the others. Raises: LimitExceeded."""
        waiting = self._waiting
        if len(waiting) >= MOST or (waiting and self._size + size > _MOST_BYTES):
            raise LimitExceeded("too many requests wait for the ones before them")
        waiting.append((request, size))
        self._size += size

    def pop(self) -> AnyRequest:
        """Take the next one out."""
        request, size = self._waiting.popleft()
        self._size -= size
        return request
