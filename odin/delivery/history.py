"""What was sent: a ring of the last messages, and the last message of each channel.

The ring holds every message of the feed whose offset is above `floor`, up to `head`; a client that
missed some gets exactly those, or an honest no. Of messages that have left the ring the last offset
of each channel is known, down to `base`: a client whose channels were quiet has missed nothing,
however long ago its offset was.

Frames are the ones that went out: a replay is joined once for all clients that ask for the same.
"""

from bisect import bisect_right
from collections.abc import Iterator
from typing import Final, NamedTuple

from odin.delivery.message import Message, chunked
from odin.wire.frames import payload_of, text_frame
from odin.wire.messages import snapshot_message
from odin.wire.subjects import EVERYTHING, PatternSet

_SHARED_FOR_S: Final = 5.0  # how long replays are kept for the next who asks for the same
_SHARED_BYTES: Final = 32 << 20
_MAX_GONE: Final = 65_536  # channels whose last forgotten offset is known
_MOST_LOOKS: Final = 4096  # at channels, for patterns with wildcards: about 2 ms
_COMPACT_AT: Final = 1024
_FORGOTTEN: Final = Message("", 0, b"")
_CHUNK_BYTES: Final = 64 << 10  # of a snapshot, made at a time
_CHUNK_LOOKS: Final = 512  # at channels, for a chunk of it
_SLACK: Final = 64


class Bounds(NamedTuple):
    """What the history may hold."""

    messages: int
    size: int  # bytes
    age_s: float
    channels: int  # with a last value
    channels_size: int


class Replay(NamedTuple):
    """Frames of so many `messages` up to offset `head`, in chunks for one send each."""

    chunks: tuple[bytes, ...]
    messages: int
    head: int


class History:
    """The messages of one numbering. Offsets grow; there may be gaps between them."""

    def __init__(self, bounds: Bounds) -> None:
        self.floor = self.head = self.base = 0
        self.size = 0  # bytes of the frames in the ring
        self.last_size = 0  # and of the last values
        self._bounds = bounds
        self._ring: list[Message] = []
        self._times: list[float] = []  # parallel to the ring
        self._first = 0  # index of the oldest message that still counts
        self._last: dict[str, Message] = {}  # by channel, the least recently changed first
        self._snapshots: dict[str, Message] = {}
        self._replays: dict[tuple[frozenset[str], int], Replay] = {}
        self._replayed_at = 0.0
        self._replay_bytes = 0
        self._gone: dict[str, int] = {}  # channel -> offset of its newest forgotten message

    def __len__(self) -> int:
        return len(self._ring) - self._first

    @property
    def held(self) -> int:
        """All that is held, in bytes of frames (last values may be in the ring, too)."""
        return self.size + self.last_size + self._replay_bytes

    @property
    def last(self) -> Message | None:
        """The newest message."""
        return self._ring[-1] if len(self) else None

    def begin(self, offset: int) -> None:
        """A new numbering: forget everything; the next message comes after `offset`."""
        self.floor = self.head = self.base = offset
        self._gone.clear()
        self.size = self.last_size = self._first = 0
        self._ring, self._times = [], []
        self._last.clear()
        self._snapshots.clear()
        self._forget_replays()

    def add(self, message: Message, now: float) -> None:
        """Remember a message that is sent now. `now`: seconds, monotonic."""
        self.remember(message)
        self._ring.append(message)
        self._times.append(now)
        self.head = message.offset
        self.size += len(message.frame)
        if self._replays and now - self._replayed_at > _SHARED_FOR_S:
            self._forget_replays()
        bounds, first = self._bounds, self._first
        if (
            self.size > bounds.size
            or len(self._ring) - first > bounds.messages
            or self._times[first] < now - bounds.age_s
        ):
            self._evict(now)

    def remember(self, message: Message) -> None:
        """Keep a message as the last of its channel, without a place in the ring."""
        last, channel = self._last, message.channel
        older = last.pop(channel, None)
        last[channel] = message
        self.last_size += len(message.frame) - (len(older.frame) if older is not None else 0)
        bounds = self._bounds
        while last and (len(last) > bounds.channels or self.last_size > bounds.channels_size):
            gone = last.pop(next(iter(last)))
            self._snapshots.pop(gone.channel, None)
            self.last_size -= len(gone.frame)

    def contents(self) -> tuple[list[Message], list[float], list[Message]]:
        """(the ring, its times, the last values), each the oldest first."""
        first = self._first
        return self._ring[first:], self._times[first:], list(self._last.values())

    def covers(self, patterns: frozenset[str], offset: int) -> bool:
        """Whether everything on `patterns` after `offset` is here.

        False also if that cannot be proved: before `base`, and for patterns with wildcards if more
        channels than _MOST_LOOKS would have to be compared.
        """
        if self.floor <= offset <= self.head:
            return True
        if not self.base <= offset <= self.head or EVERYTHING in patterns:
            return False
        gone, wanted = self._gone, PatternSet(patterns)
        if any(gone.get(each, 0) > offset for each in wanted.literals):
            return False
        if not wanted.wild:
            return True
        later = [channel for channel, last in gone.items() if last > offset]
        return len(later) <= _MOST_LOOKS and not any(map(wanted.matches, later))

    def replay(self, patterns: frozenset[str], offset: int, most: int, now: float) -> Replay | None:
        """The messages on `patterns` after `offset`; None if they are not all here, or too many."""
        if not self.covers(patterns, offset):
            return None
        key = (patterns, offset)
        known = self._replays.get(key, Replay((), 0, offset))
        if known.head < self.head:
            start = bisect_right(self._ring, known.head, lo=self._first, key=_offset)
            frames = _frames_on(patterns, self._ring[start:])
            known = Replay(chunked(known.chunks, frames), known.messages + len(frames), self.head)
        if known.messages > most:
            return None
        self._share(key, known, now)
        return known

    def snapshot(self, patterns: frozenset[str]) -> Iterator[bytes]:
        """The last message of each channel on `patterns`, marked, the oldest first; in chunks.

        As it is now; the chunks, of which some may be empty, are made one by one when they are
        asked for, in about 1 ms each.
        """
        wanted = PatternSet(patterns)
        if wanted.wild:
            last = list(self._last.values())
            return self._marked(last, None if EVERYTHING in patterns else wanted)
        found = [self._last[each] for each in patterns if each in self._last]
        found.sort(key=_offset)
        return self._marked(found, None)

    def _marked(self, messages: list[Message], wanted: PatternSet | None) -> Iterator[bytes]:
        frames, size = [], 0
        for number, message in enumerate(messages, 1):
            if wanted is None or wanted.matches(message.channel):
                frames.append(self._snapshot_of(message).frame)
                size += len(frames[-1])
            if size > _CHUNK_BYTES or not number % _CHUNK_LOOKS:
                yield b"".join(frames)
                frames, size = [], 0
        if frames:
            yield b"".join(frames)

    def _snapshot_of(self, message: Message) -> Message:
        made = self._snapshots.get(message.channel)
        if made is None or made.offset != message.offset:
            payload = payload_of(message.frame)
            frame = text_frame(snapshot_message(message.channel, message.offset, payload))
            made = Message(message.channel, message.offset, frame)
            if self._last.get(message.channel) is message:
                self._snapshots[message.channel] = made
        return made

    def _share(self, key: tuple[frozenset[str], int], replay: Replay, now: float) -> None:
        replays = self._replays
        old = replays.pop(key, None)
        if old is not None:
            self._replay_bytes -= sum(map(len, old.chunks))
        replays[key] = replay
        self._replayed_at = now
        self._replay_bytes += sum(map(len, replay.chunks))
        while self._replay_bytes > _SHARED_BYTES and len(replays) > 1:
            gone = replays.pop(next(iter(replays)))
            self._replay_bytes -= sum(map(len, gone.chunks))

    def _forget_replays(self) -> None:
        self._replays.clear()
        self._replay_bytes = 0

    def _evict(self, now: float) -> None:
        """Forget the oldest; a little more than must be, so that it is not done at each message."""
        bounds, ring, times = self._bounds, self._ring, self._times
        most_size = bounds.size - bounds.size // _SLACK
        most_messages = bounds.messages - bounds.messages // _SLACK
        oldest = now - bounds.age_s
        size, first, end = self.size, self._first, len(ring)
        gone, floor = self._gone, self.floor
        while first < end and (
            size > most_size or end - first > most_messages or times[first] < oldest
        ):
            message = ring[first]
            size -= len(message.frame)
            gone[message.channel] = floor = message.offset
            ring[first] = _FORGOTTEN
            first += 1
        if len(gone) > _MAX_GONE:
            self._forget_gone()
        self.size, self.floor = size, floor
        if first > _COMPACT_AT and first > end // 2:
            del ring[:first], times[:first]
            first = 0
        self._first = first

    def _forget_gone(self) -> None:
        """Of half of the channels, those that lost messages longest ago, nothing is known."""
        kept = sorted(self._gone.items(), key=lambda each: each[1])
        half = len(kept) // 2
        self.base = kept[half - 1][1]
        self._gone = dict(kept[half:])


def _offset(message: Message) -> int:
    return message.offset


def _frames_on(patterns: frozenset[str], messages: list[Message]) -> list[bytes]:
    """The frames of those of the messages that are on `patterns`."""
    if EVERYTHING in patterns:
        return [each.frame for each in messages]
    wanted = PatternSet(patterns)
    channels = patterns
    if wanted.wild:
        channels = frozenset(filter(wanted.matches, {each.channel for each in messages}))
    return [each.frame for each in messages if each.channel in channels]
