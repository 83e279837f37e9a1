"""How much: token buckets for messages and connections, and seats for connections.

A bucket is one number, the theoretical arrival time (TAT) of the generic cell rate algorithm
(ITU-T I.371): it says when the bucket will be full again. A resting client keeps the shared 0.0.

Several workers that are one server share memory for the connections: each address has one bucket
for all, looked at by one worker at a time; and each worker sees how many seats the others have
taken. Seats are not locked, so workers that decide at the same instant may let in one too many
each: of a limit L with N workers never more than L + N - 1.
"""

import struct
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from hashlib import blake2b
from typing import Final, NamedTuple

from odin.errors import RateLimited


class RateLimit(NamedTuple):
    """`rate` per second with bursts of `burst`; a rate of 0 switches the limit off."""

    rate: float
    burst: int

    def take(self, tat: float, now: float) -> float:
        """The bucket after one more; `tat` is its value before, `now` seconds (monotonic).

        Raises: RateLimited, with the time until the next one; the bucket stays as it was.
        """
        rate = self.rate
        if not rate:
            return tat
        earliest = tat if tat > now else now
        wait = earliest - now - (self.burst - 1) / rate
        if wait > 1e-9:
            raise RateLimited("too many messages", wait)
        return earliest + 1.0 / rate

    def charge(self, tat: float, count: int, now: float) -> float:
        """The bucket after `count` more than were taken, which may be more than it holds.

        The debt is a burst at most; who has one waits longer for the next.
        """
        if not self.rate:
            return tat
        return max(tat, now) + min(count, self.burst) / self.rate


class AddressLimit:
    """New connections per second for each client address, bursts of one second's worth.

    Holds only addresses seen in the last second or so: `forget(now)` drops the others and is
    called when the table has doubled, so each call costs O(1) on average.
    """

    _MIN_TABLE: Final = 1024

    def __init__(self, per_second: float) -> None:
        self._limit = RateLimit(per_second, max(1, round(per_second)))
        self._tats: dict[str, float] = {}
        self._forget_at = self._MIN_TABLE

    @property
    def active(self) -> bool:
        """Whether there is a limit at all."""
        return bool(self._limit.rate)

    def take(self, address: str, now: float) -> None:
        """Count one connection. Raises: RateLimited."""
        if not self._limit.rate:
            return
        self._tats[address] = self._limit.take(self._tats.get(address, 0.0), now)
        if len(self._tats) >= self._forget_at:
            self.forget(now)

    def forget(self, now: float) -> None:
        """Drop the addresses whose bucket is full again."""
        self._tats = {address: tat for address, tat in self._tats.items() if tat > now}
        self._forget_at = max(self._MIN_TABLE, 2 * len(self._tats))

    def __len__(self) -> int:
        return len(self._tats)


class SharedAddressLimit(AddressLimit):
    """The same for several workers: the buckets are in a table that all of them see.

    The table is sets of four (digest of the address, TAT). An address whose set is full takes the
    place of the one that has rested longest.
    """

    _ENTRY: Final = struct.Struct("=Qd")
    _WAYS: Final = 4

    def __init__(
        self,
        per_second: float,
        table: memoryview,
        key: bytes,
        alone: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """`key`: the same for all workers, unknown to clients, so that nobody can aim at a set.
        `alone`: keeps the other workers out while a bucket is looked at and changed."""
        super().__init__(per_second)
        self._alone = alone
        self._table = table
        self._key = key
        self._sets = len(table) // (self._WAYS * self._ENTRY.size)

    def take(self, address: str, now: float) -> None:
        if not self._limit.rate:
            return
        digest = int.from_bytes(blake2b(address.encode(), digest_size=8, key=self._key).digest())
        entry, table = self._ENTRY, self._table
        start = digest % self._sets * self._WAYS * entry.size
        places = range(start, start + self._WAYS * entry.size, entry.size)
        with self._alone():
            known = [(*entry.unpack_from(table, at), at) for at in places]
            tat, at = next(((tat, at) for name, tat, at in known if name == digest), (None, 0))
            if tat is None:
                tat, at = 0.0, min(known, key=lambda each: each[1])[2]
            entry.pack_into(table, at, digest, self._limit.take(tat, now))


class Seats:
    """How many WebSockets are open, here and in all, and whether there is room for one more."""

    def __init__(
        self, here: int, in_all: int = 0, cells: memoryview | None = None, mine: int = 0
    ) -> None:
        """`here`: room in this process. `in_all`: in all workers together, 0 for any number.
        `cells`: a count for each worker; `mine` is this one's index."""
        self.taken = 0
        self._here = here
        self._in_all = in_all
        self._cells = cells
        self._mine = mine

    def change(self, by: int) -> None:
        """Take a seat (1) or give it back (-1)."""
        self.taken += by
        if self._cells is not None:
            self._cells[self._mine] = self.taken

    @property
    def full(self) -> bool:
        if self.taken >= self._here:
            return True
        return bool(self._cells is not None and self._in_all and sum(self._cells) >= self._in_all)
