"""What waits for a slow client: order kept for trades, newest wins for prices.

Up to CONFLATE_AFTER bytes everything waits in order, so that a hiccup costs nothing. From there on
a message of a channel that may be conflated replaces the one before it of the same channel, and
takes the place of the newer. Whatever happens, what is left is in the order of the feed: no stale
price ever follows a newer one.

    [ played: messages of the past, and what waited before them | parts: messages in feed order ]

A message costs 8 bytes beside the message itself, which others hold as well; batches in which
nothing is merged are shared like the messages in them.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from odin.delivery.message import Message, notice
from odin.delivery.playback import Playback
from odin.wire.frames import text_frame
from odin.wire.messages import Conflated, encode

CONFLATE_AFTER: Final = 64 << 10  # bytes waiting
TAKE_BYTES: Final = 16 << 10
_SHARE: Final = 16  # messages; shorter batches are copied
_PART: Final = 256  # messages in a part of our own
_HOLES: Final = 64  # that need not be closed, beside as many as there are messages


class _Own(list["Message | None"]):
    """A part that is this backlog's alone; None where a message was replaced, or is sent."""


class Backlog:
    """The messages of one client that the kernel did not take yet."""

    __slots__ = (
        "_after", "_at", "_count", "_from", "_holes", "_names", "_newest", "_parts", "_played",
        "_seen", "_takes", "_to", "conflating", "size", "skipped",
    )  # fmt: skip

    def __init__(self, most: int) -> None:
        """`most`: bytes that may wait before its owner gives up; merging begins well before."""
        self.size = 0  # bytes of the messages
        self.skipped = 0  # messages that were replaced since the last notice of it
        self.conflating = False
        self._after = min(CONFLATE_AFTER, most // 2)
        self._played: deque[bytes | Playback] = deque()
        self._takes = self._seen = 0
        self._parts: deque[_Own | list[Message]] = deque()
        self._at = 0  # index in the first part
        self._count = 0  # messages
        self._holes = 0
        self._newest: dict[str, tuple[_Own, int]] = {}  # channel -> where it is, once conflating
        self._names: set[str] = set()
        self._from = self._to = 0

    def __bool__(self) -> bool:
        return bool(self._played or self._count)

    def __len__(self) -> int:
        """How many messages wait, those that are played not counted."""
        return self._count

    def __iter__(self) -> Iterator[Message]:
        """The messages, those that are played not counted."""
        at = self._at
        for part in self._parts:
            yield from [each for each in part[at:] if each is not None]
            at = 0

    @property
    def replaying(self) -> bool:
        """Whether something that was played is not taken yet."""
        return bool(self._played)

    @property
    def replay_size(self) -> int:
        """Bytes of what is played, as far as that is known before it is made."""
        return sum([len(each) if isinstance(each, bytes) else each.size for each in self._played])

    @property
    def making(self) -> bool:
        """Whether a snapshot is still to be made."""
        return any(isinstance(each, Playback) and not each.raw for each in self._played)

    @property
    def makes_next(self) -> bool:
        """Whether what `take` gives next is still to be made, which costs time."""
        first = self._played[0] if self._played else None
        return isinstance(first, Playback) and not first.raw

    def moved(self) -> bool:
        """Whether anything was taken since this was asked last."""
        seen, self._seen = self._seen, self._takes
        return seen != self._takes

    def relax(self) -> None:
        """Its client does not read: keep nothing that can be made again."""
        for each in self._played:
            if isinstance(each, Playback):
                each.relax()

    def weight(self, holds: Callable[[Message], bool]) -> int:
        """About how many bytes there are for this client alone; see `Playback.weight`."""
        played = [
            len(each) if isinstance(each, bytes) else each.weight(holds) for each in self._played
        ]
        return self.size + sum(played)

    def add(self, messages: list[Message]) -> int:
        """Take messages in; returns how many others they replaced.

        The list may be kept as it is: nobody may change it.
        """
        before = self.skipped
        if self.conflating:
            self._merge(messages)
            return self.skipped - before
        self._keep(messages)
        if self.size > self._after:
            self._begin_conflating()
        return self.skipped - before

    def append(self, frame: bytes) -> None:
        """A frame for this client alone, behind what waits."""
        self._keep([notice(frame)])

    def extend(self, playback: Playback) -> None:
        """Messages of the past, behind what waits; joined when it is their turn to be taken."""
        while self._count:
            self._played.append(self._taken())
        self._played.append(playback)

    def state(
        self,
    ) -> tuple[list[bytes], list[tuple[str, int, bytes, bool]], bool, int, list[str], int, int]:
        """(chunks, entries, and what `conflate` takes behind a flag): all that there is to it."""
        entries = [(each.channel, each.offset, each.frame, each.conflate) for each in self]
        told = (self.conflating, self.skipped, list(self._names), self._from, self._to)
        chunks: list[bytes] = []
        for each in self._played:
            if isinstance(each, bytes):
                chunks.append(each)
            else:
                while each:
                    chunks.append(each.take())
        self._played = deque(chunks)
        return (chunks, entries, *told)

    def conflate(self, skipped: int, names: Iterable[str], from_: int, to: int) -> None:
        """Go on as a backlog that has replaced `skipped` messages already; see `state`."""
        if not self.conflating:
            self._begin_conflating()
        self.skipped += skipped
        if skipped:
            self._names.update(names)
            self._from, self._to = from_, to

    def take(self) -> bytes:
        """The next bytes to send: whole frames, a chunk or TAKE_BYTES and one frame; maybe none."""
        self._takes += 1
        played = self._played
        while played:
            first = played[0]
            if isinstance(first, bytes):
                played.popleft()
                return first
            if first:
                data = first.take()
                if not first:
                    played.popleft()
                return data
            played.popleft()
        return self._taken()

    def _keep(self, messages: list[Message]) -> None:
        """Put messages behind the others, merging nothing."""
        self._count += len(messages)
        self.size += sum([len(each.frame) for each in messages])
        if len(messages) >= _SHARE:
            self._parts.append(messages)
        else:
            self._own().extend(messages)

    def _begin_conflating(self) -> None:
        parts, at = self._parts, self._at
        self.conflating = True
        self.size = 0
        self._clear()
        for part in parts:
            if isinstance(part, _Own):
                self._merge([each for each in part[at:] if each is not None])
            else:
                self._merge(part[at:] if at else part)
            at = 0

    def _merge(self, messages: list[Message]) -> None:
        """Put messages behind the others; each replaces the one before it of its channel."""
        if not any(each.conflate for each in messages):
            self._keep(messages)
            return
        for message in messages:
            if message.conflate:
                place = self._newest.get(message.channel)
                if place is not None:
                    self._replace(*place)
            self._put(message)
            self.size += len(message.frame)
        self._count += len(messages)
        if self._holes > _HOLES + self._count:
            self._close_holes()

    def _put(self, message: Message) -> None:
        own = self._own()
        if message.conflate:
            self._newest[message.channel] = (own, len(own))
        own.append(message)

    def _own(self) -> _Own:
        """The last part, one that may be added to."""
        parts = self._parts
        if parts and isinstance(last := parts[-1], _Own) and len(last) < _PART:
            return last
        own = _Own()
        parts.append(own)
        return own

    def _replace(self, own: _Own, index: int) -> None:
        replaced = own[index]
        assert replaced is not None
        own[index] = None
        self._holes += 1
        self._count -= 1
        self.size -= len(replaced.frame)
        if not self.skipped:
            self._from = self._to = replaced.offset
        self.skipped += 1
        self._from = min(self._from, replaced.offset)
        self._to = max(self._to, replaced.offset)
        self._names.add(replaced.channel)

    def _close_holes(self) -> None:
        parts, at, count = self._parts, self._at, self._count
        self._clear()
        self._count = count
        for part in parts:
            if isinstance(part, _Own):
                for each in part:
                    if each is not None:
                        self._put(each)
            else:
                self._parts.append(part[at:] if at else part)
            at = 0

    def _clear(self) -> None:
        self._parts = deque()
        self._at = self._count = self._holes = 0
        self._newest = {}

    def _taken(self) -> bytes:
        parts, frames, size = self._parts, [], 0
        if self.skipped:
            told = Conflated(
                channels=len(self._names), skipped=self.skipped, from_=self._from, to=self._to
            )
            frames.append(text_frame(encode(told)))
            self.skipped = 0
            self._names.clear()
        while self._count and size < TAKE_BYTES:
            part, at = parts[0], self._at
            message = part[at]
            if isinstance(part, _Own):
                part[at] = None
            self._at = at + 1
            if self._at == len(part):
                parts.popleft()
                self._at = 0
            if message is None:
                continue
            if message.conflate and self.conflating:
                del self._newest[message.channel]
            self._count -= 1
            frames.append(message.frame)
            size += len(message.frame)
        self.size -= size
        if not self._count:
            self._clear()
        return b"".join(frames)
