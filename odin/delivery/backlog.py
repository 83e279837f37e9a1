"""What waits for a slow client: order kept for trades, newest wins for prices.

Up to CONFLATE_AFTER bytes everything waits in order, so that a hiccup costs nothing. From there on
a message of a channel that may be conflated replaces the one before it of the same channel, and
takes the place of the newer. Whatever happens, what is left is in the order of the feed: no stale
price ever follows a newer one.

    [ chunks: replays, shared bytes | entries: messages in feed order ]
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

from odin.delivery.message import Message, notice
from odin.wire.frames import text_frame
from odin.wire.messages import Conflated, encode

CONFLATE_AFTER: Final = 64 << 10  # bytes waiting
TAKE_BYTES: Final = 64 << 10


class Backlog:
    """The messages of one client that the kernel did not take yet."""

    __slots__ = (
        "_after", "_chunks", "_entries", "_from", "_names", "_number", "_to", "conflating",
        "size", "skipped",
    )  # fmt: skip

    def __init__(self, most: int) -> None:
        """`most`: bytes that may wait before its owner gives up; merging begins well before."""
        self.size = 0  # bytes of the entries
        self.skipped = 0  # messages that were replaced since the last notice of it
        self.conflating = False
        self._after = min(CONFLATE_AFTER, most // 2)
        self._chunks: deque[bytes] = deque()
        self._entries: dict[str | int, Message] = {}  # by channel when conflated, else by number
        self._number = 0
        self._names: set[str] = set()
        self._from = self._to = 0

    def __bool__(self) -> bool:
        return bool(self._chunks or self._entries)

    def __len__(self) -> int:
        """How many messages wait, replays not counted."""
        return len(self._entries)

    @property
    def replaying(self) -> int:
        """Bytes of replays; they are shared between clients."""
        return sum(map(len, self._chunks))

    def add(self, messages: Iterable[Message]) -> int:
        """Take messages in; returns how many others they replaced."""
        before = self.skipped
        for message in messages:
            self._put(message)
        if not self.conflating and self.size > self._after:
            self.conflating = True
            entries, self._entries, self.size = self._entries, {}, 0
            for message in entries.values():
                self._put(message)
        return self.skipped - before

    def append(self, frame: bytes) -> None:
        """A frame for this client alone, behind what waits."""
        self._put(notice(frame))

    def extend(self, chunks: Iterable[bytes]) -> None:
        """A replay: whole frames in shared chunks, behind what waits."""
        while self._entries:
            self._chunks.append(self._taken())
        self._chunks.extend(chunks)

    def forget_feed(self) -> None:
        """Drop what a replay brings anyway; notices stay."""
        notices = [each for each in self._entries.values() if not each.channel]
        self._chunks.clear()
        self._entries, self.size, self.skipped = {}, 0, 0
        self._names.clear()
        for each in notices:
            self._put(each)

    def state(
        self,
    ) -> tuple[list[bytes], list[tuple[str, int, bytes, bool]], bool, int, list[str], int, int]:
        """(chunks, entries, and what `conflate` takes behind a flag): all that there is to it."""
        entries = [
            (each.channel, each.offset, each.frame, each.conflate)
            for each in self._entries.values()
        ]
        told = (self.conflating, self.skipped, list(self._names), self._from, self._to)
        return (list(self._chunks), entries, *told)

    def conflate(self, skipped: int, names: Iterable[str], from_: int, to: int) -> None:
        """Go on as a backlog that has replaced `skipped` messages already; see `state`."""
        self.add(())
        if not self.conflating:
            self.conflating = True
            entries, self._entries, self.size = self._entries, {}, 0
            for message in entries.values():
                self._put(message)
        self.skipped += skipped
        if skipped:
            self._names.update(names)
            self._from, self._to = from_, to

    def take(self) -> bytes:
        """The next bytes to send, whole frames, at most TAKE_BYTES and one frame."""
        return self._chunks.popleft() if self._chunks else self._taken()

    def _put(self, message: Message) -> None:
        key: str | int
        if self.conflating and message.conflate:
            key = message.channel
            replaced = self._entries.pop(key, None)
            if replaced is not None:
                self._note(replaced)
        else:
            key = self._number = self._number + 1
        self._entries[key] = message
        self.size += len(message.frame)

    def _note(self, replaced: Message) -> None:
        self.size -= len(replaced.frame)
        if not self.skipped:
            self._from = self._to = replaced.offset
        self.skipped += 1
        self._from = min(self._from, replaced.offset)
        self._to = max(self._to, replaced.offset)
        self._names.add(replaced.channel)

    def _taken(self) -> bytes:
        entries, frames, size = self._entries, [], 0
        if self.skipped:
            told = Conflated(
                channels=len(self._names), skipped=self.skipped, from_=self._from, to=self._to
            )
            frames.append(text_frame(encode(told)))
            self.skipped = 0
            self._names.clear()
        while entries and size < TAKE_BYTES:
            message = entries.pop(next(iter(entries)))
            frames.append(message.frame)
            size += len(message.frame)
        self.size -= size
        return b"".join(frames)
