"""What one client is played: messages of the past, by reference, joined when it is their turn."""

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from typing import Final

from odin.delivery.message import Message
from odin.wire.frames import payload_of, text_frame
from odin.wire.matcher import Matcher
from odin.wire.messages import snapshot_message

CHUNK_BYTES: Final = 64 << 10  # a chunk is at most that, or one frame
_LOOKS: Final = 512  # at messages, for one chunk: with marks and wildcards about 0.8 ms
_FEW: Final = 64  # patterns whose matcher is kept from chunk to chunk
_SAMPLE: Final = 32  # messages that are looked at to weigh a playback
_REFERENCE: Final = 8  # bytes
_MARKED_BYTES: Final = 4 << 20


class Messages(list[Message]):
    """A list that many playbacks may share: messages come behind, nothing else changes."""

    __slots__ = ("__weakref__",)


class Marks:
    """Frames of last values as a snapshot has them; those made last are kept, a few megabytes."""

    def __init__(self) -> None:
        self.size = 0  # bytes, also of the messages that they were made of
        self._made: dict[str, tuple[Message, bytes]] = {}  # by channel

    def frame(self, message: Message) -> bytes:
        """A message of the feed, marked."""
        made = self._made.get(message.channel)
        if made is not None and made[0] is message:
            return made[1]
        marked = snapshot_message(message.channel, message.offset, payload_of(message.frame))
        frame = text_frame(marked)
        if made is not None:
            self.size -= len(made[0].frame) + len(made[1])
        self.size += len(message.frame) + len(frame)
        if self.size > _MARKED_BYTES:
            self.forget()
            return frame
        self._made[message.channel] = message, frame
        return frame

    def forget(self) -> None:
        """Keep none of them."""
        self._made.clear()
        self.size = 0


class Playback:
    """One client's way through a list of messages, from its first to the one that is its last now.

    It holds the list, which others may share, and no bytes of its own.
    """

    __slots__ = ("_at", "_end", "_marks", "_matcher", "_messages", "_patterns")

    def __init__(
        self, messages: Messages, patterns: frozenset[str] | None = None, marks: Marks | None = None
    ) -> None:
        """`patterns`: only messages on these. `marks`: as a snapshot has them."""
        self._messages = messages
        self._at = 0
        self._end = len(messages)
        self._patterns = patterns
        self._matcher: Matcher | None = None
        self._marks = marks

    def __len__(self) -> int:
        """How many messages are left, those that are not wanted counted as well."""
        return self._end - self._at

    @property
    def raw(self) -> bool:
        """Whether all that is left goes out as it is."""
        return self._patterns is None and self._marks is None

    @property
    def size(self) -> int:
        """Bytes of the messages that are left. Cost: O(messages)."""
        return sum([len(each.frame) for each in self._messages[self._at : self._end]])

    def take(self) -> bytes:
        """The next chunk of whole frames; may be empty, if none of those looked at is wanted."""
        at, size = self._at, 0
        messages = self._messages[at : min(at + _LOOKS, self._end)]
        if self.raw:
            frames = [each.frame for each in messages]
            ends = list(accumulate(map(len, frames)))
            frames = frames[: max(1, bisect_right(ends, CHUNK_BYTES))]
            self._at = at + len(frames)
            return b"".join(frames)
        marks, wanted = self._marks, self._wanted()
        frames = []
        for message in messages:
            if wanted is None or wanted(message.channel):
                frame = message.frame if marks is None else marks.frame(message)
                size += len(frame)
                if size > CHUNK_BYTES and frames:
                    break
                frames.append(frame)
            at += 1
        self._at = at
        return b"".join(frames)

    def _wanted(self) -> Callable[[str], bool] | None:
        patterns, matcher = self._patterns, self._matcher
        if patterns is not None and matcher is None:
            matcher = Matcher(patterns)
            if len(patterns) <= _FEW:
                self._matcher = matcher
        return None if matcher is None else matcher.matches

    def weight(self, holds: Callable[[Message], bool]) -> int:
        """About how many bytes there are for this playback alone: references, and messages that
        nobody `holds` any more. Cost: a look at some of them."""
        left = len(self)
        step = max(1, -(-left // _SAMPLE))
        sample = self._messages[self._at : self._end : step]
        dead = sum([len(each.frame) for each in sample if not holds(each)])
        return _REFERENCE * left + (dead * left // len(sample) if sample else 0)
