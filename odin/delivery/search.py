"""The search for what was sent on some patterns after an offset, step by step."""

from enum import Enum
from typing import TYPE_CHECKING, Final

from odin.delivery.message import Message
from odin.delivery.playback import FEW, Messages, Playback
from odin.wire.matcher import Matcher
from odin.wire.subjects import EVERYTHING, is_wild

if TYPE_CHECKING:
    from odin.delivery.history import History

LOOKS: Final = 4096  # at messages in a step: about 0.3 ms
MATCHES: Final = 1024  # of channels with patterns in a step: about 0.6 ms
QUICK: Final = 1024  # messages; to look at so many costs less than to wait for a turn
_SHORT: Final = 50  # messages
_PATTERN: Final = 64  # bytes, beside its characters


class Outcome(Enum):
    """What came of a step."""

    MORE = "there is more to look at"
    FOUND = "everything up to the head was found"
    TOO_MANY = "more was found than is wanted"
    GONE = "it is not certain that everything is here"


class Search:
    """What was sent on `patterns` after `offset`, found up to `head`; it can go on from there.

    Clients that ask for the same share it: what one has found the next one need not look for. The
    history goes on between two steps; the last one finds everything up to its head then.
    """

    __slots__ = (
        "_end", "_everything", "_forgotten", "_history", "_known", "_laborious", "_matcher",
        "_most", "_numbering", "_proved_to", "_size", "_wild", "fetched", "head", "messages",
        "patterns",
    )  # fmt: skip

    def __init__(
        self,
        history: "History",
        patterns: frozenset[str],
        offset: int,
        most: int,
        messages: Messages | None = None,
    ) -> None:
        """`messages`: what was fetched of the time before `offset`."""
        self.patterns = patterns
        self.head = offset
        self.fetched = messages is not None
        self.messages = Messages() if messages is None else messages
        self._history = history
        self._numbering = history.numbering
        self._size = sum(map(len, patterns)) + _PATTERN * len(patterns)
        self._most = most
        self._everything = EVERYTHING in patterns
        self._end: Outcome | None = None  # if nothing else can come of it any more
        self._wild = any(map(is_wild, patterns))
        # to make their matcher
        self._laborious = self._wild and not self._everything and len(patterns) > FEW
        self._matcher: Matcher | None = None
        self._known: dict[str, bool] = {}  # channel -> whether it is wanted, for wildcards
        self._forgotten: list[str] | None = None  # channels that may prove that something is gone
        self._proved_to = 0

    @property
    def quick(self) -> bool:
        """Whether the next steps are few and short."""
        history = self._history
        if self._end is not None or not history.base <= self.head <= history.head:
            return True
        if self._laborious and self._matcher is None and self.head < history.head:
            return False
        if self.head < history.floor:
            return self._everything or not self._wild
        return history.count_after(self.head) <= QUICK or self._nothing_later()

    @property
    def long(self) -> bool:
        """Whether it costs more to begin it again than to keep it for others."""
        return self._history.count_after(self.head) > _SHORT

    @property
    def gone(self) -> bool:
        """Whether it is certain that this cannot be found here any more."""
        return self._end is Outcome.GONE

    @property
    def size(self) -> int:
        """Bytes of what is kept, the messages themselves not counted."""
        return self._size + 8 * len(self.messages)

    def playback(self) -> Playback:
        """Everything that was found until now."""
        self.relax()
        return Playback(self.messages)

    def relax(self) -> None:
        """Let go of what only further steps need, and can make again."""
        self._known, self._matcher = {}, None

    def step(self) -> Outcome:
        """Look at some more."""
        history = self._history
        if self._end is not None:
            return self._end
        if self.head > history.head:
            return Outcome.GONE  # as yet
        outcome = Outcome.GONE
        if history.numbering == self._numbering and self.head >= history.base:
            if self.head == history.head:
                return Outcome.FOUND
            outcome = self._prove() if self.head < history.floor else self._look()
        if outcome in (Outcome.GONE, Outcome.TOO_MANY):
            self.relax()
            self._end, self.messages, self._forgotten = outcome, Messages(), None
        return outcome

    def run(self) -> Outcome:
        """All steps at once, however many they are."""
        while (outcome := self.step()) is Outcome.MORE:
            pass
        return outcome

    def _matching(self) -> Matcher:
        if self._matcher is None:
            self._matcher = Matcher(self.patterns)
        return self._matcher

    def _nothing_later(self) -> bool:
        """Whether it is known without a search that nothing came after `head`."""
        return not self._wild and self._history.quiet(self.patterns, self.head)

    def _prove(self) -> Outcome:
        """Show that of what has left the ring since `head` nothing was wanted."""
        history = self._history
        if self._everything:
            return Outcome.GONE
        if self._forgotten is None:
            if history.lost(self.patterns, self.head):
                return Outcome.GONE
            self._proved_to = history.floor
            self._forgotten = history.lost_after(self.head) if self._wild else []
            if self._forgotten is None:
                return Outcome.GONE
        part, self._forgotten = self._forgotten[:MATCHES], self._forgotten[MATCHES:]
        if part and any(map(self._matching().matches, part)):
            return Outcome.GONE
        if not self._forgotten:
            self._forgotten = None
            self.head = self._proved_to
            if self.head == history.head:
                return Outcome.FOUND
        return Outcome.MORE

    def _look(self) -> Outcome:
        history, messages = self._history, self.messages
        if self._everything:
            part = history.after(self.head, LOOKS)
            messages += part
        elif self._nothing_later():
            self.head = history.head
            return Outcome.FOUND
        else:
            part = self._choose(history.after(self.head, LOOKS))
        self.head = part[-1].offset if part else history.head
        if len(messages) > self._most:
            return Outcome.TOO_MANY
        return Outcome.FOUND if self.head == history.head else Outcome.MORE

    def _choose(self, part: list[Message]) -> list[Message]:
        """Keep what is wanted of `part`; as much of it as was looked at."""
        known, found, patterns = self._known, self.messages, self.patterns
        if not self._wild:
            found += [each for each in part if each.channel in patterns]
            return part
        left, matches = MATCHES, self._matching().matches
        for number, message in enumerate(part):
            fits = known.get(message.channel)
            if fits is None:
                if not left:
                    return part[:number]
                left -= 1
                fits = known[message.channel] = matches(message.channel)
            if fits:
                found.append(message)
        return part
