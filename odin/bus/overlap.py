"""The arithmetic of a take-over: which messages of the broker have been relayed as well?

Both ways bring the same messages, at different times and not always in the same order. They are
compared by a digest of what they say, and by how often: two that say the same are two.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Final

_SIZE: Final = 12  # bytes

Item = tuple[str, bytes]  # subject, payload


def digest_of(subject: str, payload: bytes) -> bytes:
    name = subject.encode(errors="surrogateescape")
    return blake2b(name + b"\0" + payload, digest_size=_SIZE).digest()


def digests(joined: bytes) -> Iterator[bytes]:
    """Those that were joined to one text."""
    return (joined[at : at + _SIZE] for at in range(0, len(joined), _SIZE))


class Overlap:
    """What came from the broker and was not relayed yet, and the other way round."""

    def __init__(self) -> None:
        self._before: Counter[bytes] = Counter()  # of the broker, before the fence
        self._own: deque[tuple[bytes, Item]] = deque()
        self._waiting: Counter[bytes] = Counter()  # those of `_own` that were not relayed
        self._late: Counter[bytes] = Counter()  # those of `_own` that came long after the fence
        self._ahead: Counter[bytes] = Counter()  # relayed, and not here from the broker

    @property
    def expected(self) -> bool:
        """Whether the broker still owes messages that were relayed."""
        return bool(self._ahead)

    def known(self, digest: bytes) -> bool:
        """Whether this one of the broker was relayed before it came."""
        return _spend(self._ahead, digest)

    def keep(self, digest: bytes, item: Item, *, late: bool) -> None:
        """One of the broker that was not relayed yet."""
        self._own.append((digest, item))
        self._waiting[digest] += 1
        if late:
            self._late[digest] += 1

    def fence(self) -> None:
        """What came until now counts as sent by the other one, or as never to come from it."""
        self._before = self._waiting
        self._waiting = Counter()
        self._own.clear()
        self._late.clear()

    def begin(self, before: Iterable[bytes], after: Iterable[bytes]) -> None:
        """Compare with what the other one has received before the fence, and after it.

        Two connections may see the fence at slightly different places among the messages of
        others: what one had before it and the other after it is found here.
        """
        theirs = Counter(before)
        earlier = self._before - theirs
        for digest in after:
            if not _spend(earlier, digest):
                self.relayed(digest)
        waiting, late = self._waiting, self._late
        for digest, count in (theirs - self._before).items():
            for _ in range(min(count, waiting.get(digest, 0) - late.get(digest, 0))):
                _spend(waiting, digest)
        self._before.clear()
        late.clear()

    def relayed(self, digest: bytes) -> None:
        """One was relayed: the same one of the broker is not to be sent."""
        if not _spend(self._waiting, digest):
            self._ahead[digest] += 1
            return
        own = self._own
        while own and own[0][0] not in self._waiting:
            own.popleft()

    def drop(self) -> None:
        """The broker was lost here: what came from it until now is not to be sent any more."""
        self._own.clear()

    def rest(self, *, unbroken: bool) -> list[Item]:
        """Those of the broker that were never relayed, in order: of several that say the same,
        the last.

        Unless both have received everything (`unbroken`), only those behind the last one that was
        relayed: what came before it may be old.
        """
        found = []
        while self._own:
            digest, item = self._own.pop()
            if _spend(self._waiting, digest):
                found.append(item)
            elif not unbroken:
                break
        return found[::-1]

    def forget(self) -> None:
        """The broker owes nothing any more."""
        self._ahead.clear()


def _spend(counts: "Counter[bytes]", digest: bytes) -> bool:
    count = counts.get(digest, 0)
    if count <= 0:
        return False
    if count == 1:
        del counts[digest]
    else:
        counts[digest] = count - 1
    return True
