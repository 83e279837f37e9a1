"""The window that drops duplicates: each nonce once in ten minutes, in constant time."""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

Nonce = str | int
_MAX_KEPT: Final = 64  # characters; a longer nonce is kept as its digest
_MAX_BITS: Final = 63  # of a number; a larger one, too


class NonceWindow:
    """The nonces of the last `seconds`, at most `limit` of them (the oldest go first).

    Two generations instead of a time stamp each: a nonce is remembered for at least `seconds`, and
    for less than three times that; memory is bounded by `limit` in all. O(1) per message, nothing
    to sweep.
    """

    def __init__(self, seconds: float, limit: int) -> None:
        self._seconds = seconds
        self._half = max(1, limit // 2)
        self._young: set[Nonce | bytes] = set()
        self._old: set[Nonce | bytes] = set()
        self._turned_at = 0.0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def add(self, nonce: Nonce, now: float) -> bool:
        """Remember `nonce`; False if it was in the window. `now`: seconds, monotonic."""
        if self.seen(nonce, now):
            return False
        if len(self._young) >= self._half:
            self._turn(now)
        self._young.add(_key(nonce))
        return True

    def seen(self, nonce: Nonce, now: float) -> bool:
        """Whether `nonce` is in the window."""
        if now - self._turned_at >= self._seconds:
            self._turn(now)
        key = _key(nonce)
        return key in self._young or key in self._old

    def contents(self) -> tuple[list[Nonce | bytes], list[Nonce | bytes], float]:
        """What `refill` takes, in another process."""
        return list(self._young), list(self._old), self._turned_at

    def refill(
        self, young: Iterable[Nonce | bytes], old: Iterable[Nonce | bytes], turned_at: float
    ) -> None:
        """Go on as another window was."""
        self._young, self._old, self._turned_at = set(young), set(old), turned_at

    def _turn(self, now: float) -> None:
        stale = now - self._turned_at >= 2 * self._seconds
        self._old = set() if stale else self._young
        self._young = set()
        self._turned_at = now


def _key(nonce: Nonce) -> Nonce | bytes:
    if isinstance(nonce, str) and len(nonce) > _MAX_KEPT:
        return blake2b(nonce.encode(errors="surrogatepass"), digest_size=16).digest()
    if isinstance(nonce, int) and nonce.bit_length() > _MAX_BITS:
        return blake2b(hex(nonce).encode(), digest_size=16).digest()
    return nonce
