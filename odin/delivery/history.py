"""What was sent: a ring of the last messages, and the last message of each channel.

The ring holds every message of the feed whose offset is above `floor`, up to `head`; a client that
missed some gets exactly those, or an honest no. Of messages that have left the ring the last offset
of each channel is known, down to `base`: a client whose channels were quiet has missed nothing,
however long ago its offset was.

Nothing is copied: what clients missed is found by `Search`, and given out by `Playback`.
"""

from bisect import bisect_right
from typing import Final, NamedTuple
from weakref import ref

from odin.delivery.message import Message
from odin.delivery.playback import Marks, Messages, Playback
from odin.delivery.search import Outcome, Search
from odin.wire.subjects import EVERYTHING, is_wild

_MAX_GONE: Final = 65_536  # channels whose last forgotten offset is known
_MOST_LOOKS: Final = 4096  # at channels, for patterns with wildcards
_COMPACT_AT: Final = 1024
_FORGOTTEN: Final = Message("", 0, b"")
_SLACK: Final = 64


class Bounds(NamedTuple):
    """What the history may hold."""

    messages: int
    size: int  # bytes
    age_s: float
    channels: int  # with a last value
    channels_size: int


class History:
    """The messages of one numbering. Offsets grow; there may be gaps between them."""

    def __init__(self, bounds: Bounds) -> None:
        self.floor = self.head = self.base = 0
        self.numbering = 0  # counts them
        self.size = 0  # bytes of the frames in the ring
        self.last_size = 0  # and of the last values
        self._bounds = bounds
        self._ring: list[Message] = []
        self._times: list[float] = []  # parallel to the ring
        self._first = 0  # index of the oldest message that still counts
        self._last: dict[str, Message] = {}  # by channel, the least recently changed first
        self._lost_last = 0  # channels that are not in it had nothing after that offset
        self._marks = Marks()
        self._values: ref[Messages] | None = None  # all last values, as a snapshot found them
        self._gone: dict[str, int] = {}  # channel -> its newest forgotten offset, the lowest first

    def __len__(self) -> int:
        return len(self._ring) - self._first

    @property
    def held(self) -> int:
        """All that is held, in bytes of frames (last values may be in the ring, too)."""
        return self.size + self.last_size + self._marks.size

    @property
    def last(self) -> Message | None:
        """The newest message."""
        return self._ring[-1] if len(self) else None

    def begin(self, offset: int) -> None:
        """A new numbering: forget everything; the next message comes after `offset`."""
        self.floor = self.head = self.base = offset
        self.numbering += 1
        self._gone.clear()
        self.size = self.last_size = self._first = self._lost_last = 0
        self._ring, self._times = [], []
        self._last.clear()
        self._marks.forget()
        self._values = None

    def add(self, message: Message, now: float) -> None:
        """Remember a message that is sent now. `now`: seconds, monotonic."""
        self.remember(message)
        self._ring.append(message)
        self._times.append(now)
        self.head = message.offset
        self.size += len(message.frame)
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
            self._lost_last = max(self._lost_last, gone.offset)
            self.last_size -= len(gone.frame)

    def contents(self) -> tuple[list[Message], list[float], list[Message]]:
        """(the ring, its times, the last values), each the oldest first."""
        first = self._first
        return self._ring[first:], self._times[first:], list(self._last.values())

    def holds(self, message: Message) -> bool:
        """Whether this very message is here, in the ring or as a last value."""
        if self._last.get(message.channel) is message:
            return True
        if not self.floor < message.offset <= self.head:
            return False
        at = bisect_right(self._ring, message.offset, lo=self._first, key=_offset) - 1
        return at >= self._first and self._ring[at] is message

    def count_after(self, offset: int) -> int:
        """How many messages of the ring are after `offset`."""
        return len(self._ring) - bisect_right(self._ring, offset, lo=self._first, key=_offset)

    def after(self, offset: int, most: int) -> list[Message]:
        """The first messages of the ring after `offset`."""
        start = bisect_right(self._ring, offset, lo=self._first, key=_offset)
        return self._ring[start : start + most]

    def quiet(self, channels: frozenset[str], offset: int) -> bool:
        """Whether it is certain, without a look at the ring, that it has nothing of these channels
        after `offset`, which is not below the floor."""
        last = self._last
        return self._lost_last <= offset and not any(
            each in last and last[each].offset > offset for each in channels
        )

    def lost(self, channels: frozenset[str], offset: int) -> bool:
        """Whether messages of these channels after `offset` have left the ring."""
        gone = self._gone
        return any(gone.get(each, 0) > offset for each in channels)

    def lost_after(self, offset: int) -> list[str] | None:
        """The channels that lost messages after `offset`; None for more than _MOST_LOOKS."""
        channels: list[str] = []
        for channel in reversed(self._gone):
            if self._gone[channel] <= offset:
                return channels
            if len(channels) == _MOST_LOOKS:
                return None
            channels.append(channel)
        return channels

    def replay(self, patterns: frozenset[str], offset: int, most: int) -> Playback | None:
        """The messages on `patterns` after `offset`; None if they are not all here, or too many.

        At once: for what is known to be little, else see `Search`.
        """
        search = Search(self, patterns, offset, most)
        return search.playback() if search.run() is Outcome.FOUND else None

    def snapshot(self, patterns: frozenset[str]) -> Playback:
        """The last message of each channel on `patterns` now, marked; the oldest first."""
        if any(map(is_wild, patterns)):
            some = None if EVERYTHING in patterns else patterns
            return Playback(self._all_values(), some, self._marks)
        found = [self._last[each] for each in patterns if each in self._last]
        found.sort(key=_offset)
        return Playback(Messages(found), None, self._marks)

    def _all_values(self) -> Messages:
        """All last values; one list for all who ask before the next message."""
        values = self._values and self._values()
        if not values or values[-1] is not next(reversed(self._last.values()), None):
            values = Messages(self._last.values())
            self._values = ref(values)
        return values

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
            gone.pop(message.channel, None)  # so that they stay in order
            gone[message.channel] = floor = message.offset
            ring[first] = _FORGOTTEN
            first += 1
        while len(gone) > _MAX_GONE:
            self.base = gone.pop(next(iter(gone)))
        self.size, self.floor = size, floor
        if first > _COMPACT_AT and first > end // 2:
            del ring[:first], times[:first]
            first = 0
        self._first = first


def _offset(message: Message) -> int:
    return message.offset
