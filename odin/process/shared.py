"""Memory that all workers of a server see: how many connections each has, and whose.

    [ SEATS cells of 8 bytes: open WebSockets, one cell per process | the table of addresses ]

A cell has one writer, and reading them all takes a microsecond: a total that is true at once, for
the price of an addition. (Asking the supervisor for each handshake would be a round trip, a share
for each worker would refuse some while others have room.)
"""

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SEATS: Final = 128  # for workers, their successors, and those who are about to end
ADDRESS_SETS: Final = 16_384  # of four addresses each
_TRIES: Final = 1000
_SEATS_BYTES: Final = SEATS * 8
_BYTES: Final = _SEATS_BYTES + ADDRESS_SETS * 4 * 16


class SharedMemory:
    """A mapping of it. `descriptor` is what other processes map it by."""

    def __init__(self, descriptor: int | None = None) -> None:
        """Without a descriptor: made anew, all zeros."""
        if descriptor is None:
            descriptor = os.memfd_create("odin-shared")
            os.ftruncate(descriptor, _BYTES)
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, _BYTES)
        view = memoryview(self._map)
        self.seats = view[:_SEATS_BYTES].cast("q")
        self.addresses = view[_SEATS_BYTES:]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep the other processes out of here; not for longer than some microseconds.

        One that was stopped in there is not waited for. One that dies there keeps nobody out.
        """
        for _ in range(_TRIES):
            try:
                fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                os.sched_yield()
        try:
            yield
        finally:
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN)
