"""The requests of a client that wait for the ones before them."""

from collections import deque
from typing import Final

from odin.errors import LimitExceeded
from odin.wire.messages import AnyRequest, Auth, Subscribe, Unsubscribe

MOST: Final = 64  # requests of one client
_MOST_BYTES: Final = 256 << 10  # that they take, but for the only one
_NAME_BYTES: Final = 64  # of a name, beside its characters


class Line:
    """Requests that wait for their turn; there is a line only while one is under way."""

    __slots__ = ("_size", "_waiting", "asking")

    def __init__(self) -> None:
        self.asking = False  # whether the one before them waits for the broker
        self._waiting: deque[AnyRequest] = deque()
        self._size = 0

    @property
    def head(self) -> AnyRequest | None:
        """The next one; None if there is none."""
        return self._waiting[0] if self._waiting else None

    def add(self, request: AnyRequest) -> None:
        """Put a request behind the others. Raises: LimitExceeded."""
        waiting, size = self._waiting, self._size + _size(request)
        if len(waiting) >= MOST or (waiting and size > _MOST_BYTES):
            raise LimitExceeded("too many requests wait for the ones before them")
        waiting.append(request)
        self._size = size

    def pop(self) -> AnyRequest:
        """Take the next one out."""
        request = self._waiting.popleft()
        self._size -= _size(request)
        return request


def _size(request: AnyRequest) -> int:
    """About how many bytes a request takes."""
    if isinstance(request, Subscribe | Unsubscribe):
        channels = request.data.channels
        return sum(map(len, channels)) + _NAME_BYTES * len(channels)
    return len(request.token) if isinstance(request, Auth) else 0
