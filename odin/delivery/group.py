"""A group: the dense list of recipients with the same subscriptions.

A group is everybody with the same set of subscription patterns. Each recipient is in exactly one
group, so a message reaches it once however many of its patterns match, its frames leave in offset
order whatever channels they are of, and a thousand clients with the same subscriptions cost one
set of patterns.

Joining and leaving are O(1) in the number of members (and O(k) in the number k of the client's
patterns, only when a group comes into being or ends). Members are swept in slices; a recipient may
come, go, fall behind or catch up between two slices and still gets each frame exactly once:

    members:  [ sent ........ | not yet sent ........ ]
                              ^ cursor        newcomers go in front of it

What waits leaves in batches of BATCH_BYTES; what a send leaves over is at most one of them. When a
server is late, what waits is merged before it is sent: an overloaded server sends less, not more.

    pending:  [ taken .. | a batch | .. | .. what is published now ]
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final, Protocol

from odin.delivery.batches import Batches, newest
from odin.delivery.message import Message, joined
from odin.wire.codes import CloseCode

BEHIND: Final = -1  # position: takes its messages by `offer`, not by the sweep
JOINING: Final = -2  # position: came while frames were waiting that are older than it
ABSENT: Final = -3

MERGE_AFTER: Final = 256 << 10  # bytes that wait for a whole group
_CHUNK: Final = 64  # members between two looks at the clock: about 0.15 ms
_LOOK_AT: Final = 256  # messages; fewer are not worth a look at their size
_COMPACT_AT: Final = 1024
_NO_MESSAGES: Final[list[Message]] = []

# (sinks, start, stop, data) -> [(index, bytes the kernel took)] for those that did not take all
Sweep = Callable[[list[Any], int, int, bytes], "list[tuple[int, int]] | None"]
Clock = Callable[[], float]


class Recipient(Protocol):
    """Who can be in a group."""

    group: "Group | None"
    position: int
    sink: Any  # what the sweep sends to; None: by `offer` (while behind, or TLS)

    def send(self, data: bytes) -> None:
        """Write whole frames behind everything written before; only with a sink."""

    def offer(self, messages: list[Message]) -> None:
        """Take messages without a sink: write them, or keep them (the list, too) for later."""

    def hold(self, data: bytes, sent: int) -> None:
        """Keep what the kernel did not take of `data`; the recipient is behind from now on."""

    def close(self, code: CloseCode, reason: str) -> None:
        """Leave, and tell the client why."""


class Group:
    """The recipients of one set of patterns, and the frames on their way to them."""

    __slots__ = (
        "_batches", "_joining", "_look_at", "_taken", "batch", "behind", "cursor", "members",
        "patterns", "pending", "sending", "sinks", "text_size",
    )  # fmt: skip

    def __init__(self, patterns: frozenset[str], batches: Batches) -> None:
        self.rename(patterns)
        self._batches = batches
        self.members: list[Recipient] = []
        self.sinks: list[Any] = []  # parallel to members
        self.behind: dict[Recipient, None] = {}
        self.pending: list[Message] = []  # in no batch yet, from `_taken` on
        self._taken = 0
        self._look_at = _LOOK_AT  # how many must wait before their size is looked at
        self.batch = _NO_MESSAGES  # the one that is going out; shared, never changed
        self.sending: bytes | None = None  # its frames, joined
        self.cursor = 0
        self._joining: dict[Recipient, int] = {}  # -> how many of `pending` are older than it

    def __len__(self) -> int:
        return len(self.members) + len(self.behind) + len(self._joining)

    def __iter__(self) -> Iterator[Recipient]:
        """Everybody in it, in a copy that the caller may act on."""
        return iter([*self.members, *self.behind, *self._joining])

    @property
    def waiting(self) -> int:
        """How many messages are in no batch yet."""
        return len(self.pending) - self._taken

    @property
    def oldest(self) -> int:
        """The offset of the first message that waits; 0 if only notices do."""
        waiting = islice(self.pending, self._taken, None)
        return next((each.offset for each in waiting if each.offset), 0)

    def rename(self, patterns: frozenset[str]) -> None:
        """Be the group of these patterns."""
        self.patterns = patterns
        self.text_size = sum(map(len, patterns))  # characters

    def add(self, recipient: Recipient) -> None:
        """Take a recipient in; it gets what is published from now on."""
        recipient.group = self
        if self.pending:
            recipient.position = JOINING
            self._joining[recipient] = len(self.pending)
        else:
            self._place(recipient)

    def remove(self, recipient: Recipient, *, settle: bool) -> None:
        """Let a recipient go; with `settle` it first gets what was published until now."""
        owed = self._owed(recipient) if settle else []
        position = recipient.position
        if position == BEHIND:
            del self.behind[recipient]
        elif position == JOINING:
            del self._joining[recipient]
        else:
            self._take_out(position)
        recipient.group = None
        recipient.position = ABSENT
        if owed:
            _give(recipient, owed)

    def settle(self, recipient: Recipient) -> None:
        """Give a recipient what was published until now, before the others get it."""
        owed = self._owed(recipient)
        if not owed:
            return
        position = recipient.position
        if position == BEHIND:
            del self.behind[recipient]
        elif position >= 0:
            self._take_out(position)
        self.add(recipient)
        _give(recipient, owed)  # last: it may leave

    def fell_behind(self, recipient: Recipient) -> None:
        """The recipient's `sink` became None: from now on it gets its frames by `send`."""
        position = recipient.position
        if position < 0:
            return
        unsent = self.sending is not None and position >= self.cursor
        self._take_out(position)
        recipient.position = BEHIND
        self.behind[recipient] = None
        if unsent:
            recipient.offer(self.batch)

    def caught_up(self, recipient: Recipient) -> None:
        """The recipient's `sink` is there again: it takes part in the sweep."""
        if recipient.position == BEHIND and recipient.sink is not None:
            del self.behind[recipient]
            self._place_member(recipient)

    def advance(self, sweep: Sweep, clock: Clock, deadline: float) -> int:
        """Send one batch until done or `deadline` (then `sending` is not None).

        Returns deliveries. The next batch, if something waits still, is for another turn.
        """
        written = self._begin() if self.sending is None else 0
        data = self.sending
        if data is None:
            return written
        members, sinks = self.members, self.sinks
        while (start := self.cursor) < len(members):
            self.cursor = stop = min(start + _CHUNK, len(members))
            written += stop - start
            stuck = sweep(sinks, start, stop, data)
            if stuck:
                # first all names, then the calls: each of them moves members
                for recipient, sent in [(members[index], sent) for index, sent in stuck]:
                    recipient.hold(data, sent)
            if clock() >= deadline and self.cursor < len(members):
                return written * len(self.batch)
        written *= len(self.batch)
        self.sending = None
        self.batch = _NO_MESSAGES
        return written

    def abandon(self) -> None:
        """Give the batch up that is going out."""
        self.sending, self.batch = None, _NO_MESSAGES

    def _begin(self) -> int:
        """Cut a batch from what is pending; newcomers and those behind get theirs at once."""
        if self._taken or len(self.pending) > _LOOK_AT:
            self._look()
        pending, at = self.pending, self._taken
        batch = pending
        if len(pending) == 1:
            self.sending = pending[0].frame
        elif pending:
            batch, self.sending = self._batches.cut(pending, at)
        else:
            return 0
        self.batch, self.cursor = batch, 0
        self._batches.waiting -= len(batch)
        end = at + len(batch)
        behind = list(self.behind) if self.behind else ()
        joining = self._taken_in(end) if self._joining else ()
        if end == len(pending):
            self.pending, self._taken, self._look_at = [], 0, _LOOK_AT
        else:
            self._taken = end
        for recipient, _older in joining:
            self._place(recipient)
        for recipient, older in joining:
            if older < end:
                _give(recipient, batch[older - at :])
        for recipient in behind:
            recipient.offer(batch)
        return len(behind)

    def _taken_in(self, end: int) -> list[tuple[Recipient, int]]:
        """The newcomers that get something of the batch that ends there, or all of the next."""
        joining = [(each, older) for each, older in self._joining.items() if older <= end]
        for recipient, _older in joining:
            del self._joining[recipient]
        return joining

    def _look(self) -> None:
        """Keep what waits small, when that is more than a batch."""
        if not len(self):  # all have left
            self._batches.waiting -= self.waiting
            self.pending, self._taken = [], 0
        elif self.waiting >= self._look_at:
            self._merge()
        elif self._taken > _COMPACT_AT and self._taken > len(self.pending) // 2:
            del self.pending[: self._taken]
            for recipient in self._joining:
                self._joining[recipient] -= self._taken
            self._taken = 0

    def _merge(self) -> None:
        """If too much waits, keep only the newest of each channel that may be conflated.

        What waits for a newcomer is merged by itself: it is not told of messages before its time.
        Cost: O(1) per message, because the next look is at twice as many.
        """
        pending, at = self.pending, self._taken
        if sum([len(each.frame) for each in islice(pending, at, None)]) > MERGE_AFTER:
            merged: list[Message] = []
            moved: dict[int, int] = {}
            for end in sorted({*self._joining.values(), len(pending)}):
                kept, gone = newest(pending[at:end])
                merged += kept
                self._batches.merged += gone * len(self)
                moved[end], at = len(merged), end
            for recipient, older in self._joining.items():
                self._joining[recipient] = moved[older]
            self._batches.waiting -= self.waiting - len(merged)
            self.pending, self._taken = merged, 0
        self._look_at = max(_LOOK_AT, 2 * self.waiting)

    def _owed(self, recipient: Recipient) -> list[Message]:
        position = recipient.position
        if position == JOINING:
            return self.pending[self._joining[recipient] :]
        waiting = self.pending[self._taken :]
        if self.sending is not None and position >= self.cursor:
            return self.batch + waiting
        return waiting

    def _place(self, recipient: Recipient) -> None:
        if recipient.sink is None:
            recipient.position = BEHIND
            self.behind[recipient] = None
        else:
            self._place_member(recipient)

    def _place_member(self, recipient: Recipient) -> None:
        """Append; while a batch goes out, to the part that has it."""
        members, sinks = self.members, self.sinks
        recipient.position = len(members)
        members.append(recipient)
        sinks.append(recipient.sink)
        if self.sending is not None:
            self._swap(self.cursor, recipient.position)
            self.cursor += 1

    def _take_out(self, position: int) -> None:
        """Swap-remove, in both parts of the list while a batch goes out."""
        if self.sending is not None and position < self.cursor:
            self.cursor -= 1
            self._swap(position, self.cursor)
            position = self.cursor
        self._swap(position, len(self.members) - 1)
        self.members.pop()
        self.sinks.pop()

    def _swap(self, one: int, two: int) -> None:
        if one == two:
            return
        members, sinks = self.members, self.sinks
        members[one], members[two] = members[two], members[one]
        sinks[one], sinks[two] = sinks[two], sinks[one]
        members[one].position = one
        members[two].position = two


def _give(recipient: Recipient, messages: list[Message]) -> None:
    if recipient.sink is None:
        recipient.offer(messages)
    else:
        recipient.send(joined(messages))
