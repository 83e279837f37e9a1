"""What one client is played: messages of the past, by reference, joined when it is their turn."""

from collections.abc import Callable, Sequence
from typing import Final

from odin.delivery.message import Message
from odin.wire.frames import payload_of, text_frame
from odin.wire.matcher import Matcher
from odin.wire.messages import snapshot_message

CHUNK_BYTES: Final = 64 << 10  # a chunk is at most that, or one frame
_LOOKS: Final = 512  # at messages, for one chunk: with marks about 0.6 ms
_MATCHES: Final = 1024  # of messages with patterns: about 0.6 ms
FEW: Final = 64  # patterns; a matcher of more takes a step of its own: 2.5 ms for 1,024
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

    __slots__ = ("_at", "_choice", "_end", "_marks", "_messages", "_patterns")

    def __init__(
        self, messages: Messages, patterns: frozenset[str] | None = None, marks: Marks | None = None
    ) -> None:
        """`patterns`: only messages on these. `marks`: as a snapshot has them."""
        self._messages = messages
        self._at = 0
        self._end = len(messages)
        self._patterns = patterns
        self._choice: _Choice | None = None
        self._marks = marks

    def __len__(self) -> int:
        """How many messages are left; before they are chosen all there are."""
        return self._end - self._at

    @property
    def raw(self) -> bool:
        """Whether all that is left goes out as it is."""
        return self._patterns is None and self._marks is None

    @property
    def laborious(self) -> bool:
        """Whether the first step is a long one."""
        return self._patterns is not None and len(self._patterns) > FEW

    @property
    def size(self) -> int:
        """Bytes of the messages that are left. Cost: O(messages)."""
        return sum([len(each.frame) for each in self._messages[self._at : self._end]])

    def take(self) -> bytes:
        """The next chunk of whole frames; empty while it is not known yet which are wanted."""
        if self._patterns is not None and not self._choose(self._patterns):
            return b""
        messages, marks = self._messages, self._marks
        frames: list[bytes] = []
        at, size = self._at, 0
        for message in messages[at : min(at + _LOOKS, self._end)]:
            frame = message.frame if marks is None else marks.frame(message)
            size += len(frame)
            if size > CHUNK_BYTES and frames:
                break
            frames.append(frame)
            at += 1
        self._at = at
        return b"".join(frames)

    def _choose(self, patterns: frozenset[str]) -> bool:
        """Find some more of the messages that are wanted; whether that was the last of it."""
        choice = self._choice
        if choice is None:
            choice = self._choice = _Choice(patterns)
            if self.laborious:
                return False
        if choice.at < self._end:
            choice.look(self._messages[choice.at : min(choice.at + _MATCHES, self._end)])
        if choice.at < self._end:
            return False
        self._messages, self._end = choice.found, len(choice.found)
        self._patterns = self._choice = None
        return True

    def relax(self) -> None:
        """Let go of what the choice takes in memory; it begins anew when it is wanted."""
        self._choice = None

    def weight(self, holds: Callable[[Message], bool]) -> int:
        """About how many bytes there are for this playback alone: references, and messages that
        nobody `holds` any more. Cost: a look at some of them."""
        left = len(self)
        step = max(1, -(-left // _SAMPLE))
        sample = self._messages[self._at : self._end : step]
        dead = sum([len(each.frame) for each in sample if not holds(each)])
        return _REFERENCE * left + (dead * left // len(sample) if sample else 0)


class _Choice:
    """The messages that are wanted, of those that were looked at."""

    def __init__(self, patterns: frozenset[str]) -> None:
        self.at = 0
        self.found = Messages()
        self._wanted = Matcher(patterns).matches

    def look(self, messages: Sequence[Message]) -> None:
        """Look at the next ones."""
        wanted = self._wanted
        self.at += len(messages)
        self.found += [each for each in messages if wanted(each.channel)]
