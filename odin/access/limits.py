"""Token buckets: how many messages a client, how many connections an address.

A bucket is one number, the theoretical arrival time (TAT) of the generic cell rate algorithm
(ITU-T I.371): it says when the bucket will be full again. A resting client keeps the shared 0.0.
"""

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
