"""The window that drops duplicates: each nonce of a channel once in ten minutes, in constant time.

A nonce counts with its channel: nobody can use up the nonces of a channel by what is published on
another one.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Final

Nonce = str | int
Kept = Nonce | bytes
_MAX_KEPT: Final = 64  # characters; a longer nonce is kept as its digest
_MAX_BITS: Final = 63  # of a number; a larger one, too
_SHARES: Final = 8  # of the limit; who has more than one makes room for the others
_CHANNEL_COST: Final = 3  # nonces: the memory of an empty set and its place


class NonceWindow:
    """The nonces of the last `seconds` by channel, at most `limit` of them (the oldest go first).

    Two generations instead of a time stamp each: a nonce is remembered for at least `seconds`, and
    for less than three times that. Memory is bounded by `limit` in all, in which each channel
    counts as _CHANNEL_COST more. When that is full and a channel has more than an eighth of it, the
    channel that has most forgets its own oldest, and the others nothing. O(1) per message as a
    rule, nothing to sweep.
    """

    def __init__(self, seconds: float, limit: int) -> None:
        self._seconds = seconds
        self._limit = limit
        self._half = max(1, limit // 2)
        self._share = max(1, limit // _SHARES)
        self._young = _Generation()
        self._old = _Generation()
        self._room = self._measured = self._half  # nonces that the young one may take
        self._turned_at = 0.0

    def __len__(self) -> int:
        return sum(len(each) for kept in (self._young, self._old) for each in kept.values())

    def add(self, channel: str, nonce: Nonce, now: float) -> bool:
        """Remember `nonce`; False if it was in the window. `now`: seconds, monotonic."""
        if now - self._turned_at >= self._seconds:
            self._turn(now)
        key = nonce if type(nonce) is str and len(nonce) <= _MAX_KEPT else _key(nonce)
        own = self._young.get(channel)
        if own is not None and key in own:
            return False
        older = self._old.get(channel)
        if older is not None and key in older:
            return False
        if own is None or self._room <= 0:
            own = self._make_room(channel, now)
        own.add(key)
        self._room -= 1
        return True

    def seen(self, channel: str, nonce: Nonce, now: float) -> bool:
        """Whether `nonce` is in the window."""
        if now - self._turned_at >= self._seconds:
            self._turn(now)
        key = _key(nonce)
        return key in self._young.get(channel, ()) or key in self._old.get(channel, ())

    def contents(self) -> tuple[dict[str, list[Kept]], dict[str, list[Kept]], float]:
        """What `refill` takes, in another process."""
        return self._young.lists(), self._old.lists(), self._turned_at

    def refill(
        self,
        young: Mapping[str, Iterable[Kept]],
        old: Mapping[str, Iterable[Kept]],
        turned_at: float,
    ) -> None:
        """Go on as another window was."""
        self._young, self._old, self._turned_at = _Generation(young), _Generation(old), turned_at
        self._measure()

    def _make_room(self, channel: str, now: float) -> set[Kept]:
        """The young nonces of a channel, with room for one more."""
        if self._room <= 0:
            self._make_room_in_largest()
        if self._room <= 0:
            self._turn(now)
        own = self._young.get(channel)
        if own is None:
            self._count()
            own = set()
            self._young.put(channel, own)
            self._measure()
        return own

    def _make_room_in_largest(self) -> None:
        young = self._young
        largest = max(young, key=lambda channel: len(young[channel]), default=None)
        if largest is not None and len(young[largest]) >= self._share:
            self._count()
            self._old.put(largest, young[largest])
            young.put(largest, set())
            self._measure()

    def _turn(self, now: float) -> None:
        self._count()
        stale = now - self._turned_at >= 2 * self._seconds
        self._old = _Generation() if stale else self._young
        self._young = _Generation()
        self._turned_at = now
        self._measure()

    def _measure(self) -> None:
        young = self._young.size
        room = min(self._half - young, self._limit - young - self._old.size)
        self._room = self._measured = room

    def _count(self) -> None:
        """Count what was added since the last measure: cheaper than at each nonce."""
        self._young.size += self._measured - self._room
        self._measured = self._room


class _Generation(dict[str, set[Kept]]):
    """Nonces by channel; `size`: what they count as."""

    def __init__(self, nonces: Mapping[str, Iterable[Kept]] | None = None) -> None:
        super().__init__()
        self.size = 0
        for channel, each in (nonces or {}).items():
            self.put(channel, set(each))

    def put(self, channel: str, nonces: set[Kept]) -> None:
        """Have these, instead of what was there."""
        before = self.get(channel)
        self.size += len(nonces) - (len(before) if before is not None else -_CHANNEL_COST)
        self[channel] = nonces

    def lists(self) -> dict[str, list[Kept]]:
        return {channel: list(nonces) for channel, nonces in self.items()}


def _key(nonce: Nonce) -> Kept:
    if isinstance(nonce, str) and len(nonce) > _MAX_KEPT:
        return blake2b(nonce.encode(errors="surrogatepass"), digest_size=16).digest()
    if isinstance(nonce, int) and nonce.bit_length() > _MAX_BITS:
        return blake2b(hex(nonce).encode(), digest_size=16).digest()
    return nonce
