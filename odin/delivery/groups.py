"""Subject -> the dense list of recipients.

A group is everybody with the same set of subscription patterns. Each recipient is in exactly one
group, so a message reaches it once however many of its patterns match, its frames leave in offset
order whatever channels they are of, and a thousand clients with the same subscriptions cost one
set of patterns.

Joining and leaving are O(1) in the number of members (and O(k) in the number k of the client's
patterns, only when a group comes into being or ends). Members are swept in slices; a recipient may
come, go, fall behind or catch up between two slices and still gets each frame exactly once:

    members:  [ sent ........ | not yet sent ........ ]
                              ^ cursor        newcomers go in front of it
"""

from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from odin.delivery.message import Message, joined
from odin.wire.codes import CloseCode

BEHIND: Final = -1  # position: takes its messages by `offer`, not by the sweep
JOINING: Final = -2  # position: came while frames were waiting that are older than it
ABSENT: Final = -3

_CHUNK: Final = 64  # members between two looks at the clock: about 0.15 ms

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
        """Take messages without a sink: write them, or keep them for later."""

    def hold(self, data: bytes, sent: int) -> None:
        """Keep what the kernel did not take of `data`; the recipient is behind from now on."""

    def close(self, code: CloseCode, reason: str) -> None:
        """Leave, and tell the client why."""


class Group:
    """The recipients of one set of patterns, and the frames on their way to them."""

    __slots__ = (
        "_joining", "batch", "behind", "cursor", "members", "patterns", "pending", "sending",
        "sinks",
    )  # fmt: skip

    def __init__(self, patterns: frozenset[str]) -> None:
        self.patterns = patterns
        self.members: list[Recipient] = []
        self.sinks: list[Any] = []  # parallel to members
        self.behind: dict[Recipient, None] = {}
        self.pending: list[Message] = []  # the next batch
        self.batch: list[Message] = []  # the one that is going out
        self.sending: bytes | None = None  # its frames, joined
        self.cursor = 0
        self._joining: dict[Recipient, int] = {}  # -> how many of `pending` are older than it

    def __len__(self) -> int:
        return len(self.members) + len(self.behind) + len(self._joining)

    def __iter__(self) -> Iterator[Recipient]:
        """Everybody in it, in a copy that the caller may act on."""
        return iter([*self.members, *self.behind, *self._joining])

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
        """Send on until done or `deadline` (then `sending` is not None). Returns deliveries."""
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
        self.sending = None
        return written * len(self.batch)

    def _begin(self) -> int:
        """Make one batch of what is pending; newcomers and those behind get theirs at once."""
        batch = self.pending
        if not batch:
            return 0
        joining = self._joining
        self.pending, self._joining = [], {}
        self.batch = batch
        self.sending = batch[0].frame if len(batch) == 1 else joined(batch)
        self.cursor = 0
        behind = list(self.behind)
        for recipient in joining:
            self._place(recipient)
        for recipient, older in joining.items():
            if older < len(batch):
                _give(recipient, batch[older:])
        for recipient in behind:
            recipient.offer(batch)
        return len(behind)

    def _owed(self, recipient: Recipient) -> list[Message]:
        position = recipient.position
        if position == JOINING:
            return self.pending[self._joining[recipient] :]
        if self.sending is not None and position >= self.cursor:
            return self.batch + self.pending
        return list(self.pending)

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


class _Node:
    """One token of the wildcard patterns."""

    __slots__ = ("children", "groups")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.groups: dict[Group, None] = {}


class Groups:
    """All groups, and which of them a subject concerns.

    Subjects without wildcards are found by one dict look-up, patterns by a trie of their tokens;
    the answer for a subject is remembered until a group with a matching pattern comes or goes.
    """

    _MAX_ROUTES: Final = 65_536  # subjects remembered; publishers may invent any number

    def __init__(self) -> None:
        self._by_patterns: dict[frozenset[str], Group] = {}
        self._literal: dict[str, dict[Group, None]] = {}
        self._wild = _Node()
        self._routes: dict[str, tuple[Group, ...]] = {}

    def __iter__(self) -> Iterator[Group]:
        return iter(list(self._by_patterns.values()))

    def __len__(self) -> int:
        return len(self._by_patterns)

    def route(self, subject: str) -> tuple[Group, ...]:
        """The groups that a message on `subject` is for, each once."""
        route = self._routes.get(subject)
        if route is None:
            if len(self._routes) >= self._MAX_ROUTES:
                self._routes.clear()
            found = dict(self._literal.get(subject, {}))
            self._search(self._wild, subject.split("."), 0, found)
            route = self._routes[subject] = tuple(found)
        return route

    def join(self, recipient: Recipient, patterns: frozenset[str]) -> None:
        """Put a recipient that is in no group into the one of `patterns`."""
        group = self._by_patterns.get(patterns)
        if group is None:
            group = self._by_patterns[patterns] = Group(patterns)
            for pattern in patterns:
                self._groups_of(pattern)[group] = None
                self._forget_route(pattern)
        group.add(recipient)

    def leave(self, recipient: Recipient, *, settle: bool = False) -> None:
        """Take a recipient out of its group, if it is in one; see `Group.remove`."""
        group = recipient.group
        if group is None:
            return
        group.remove(recipient, settle=settle)
        if not len(group) and self._by_patterns.get(group.patterns) is group:
            del self._by_patterns[group.patterns]
            for pattern in group.patterns:
                self._drop(pattern, group)
                self._forget_route(pattern)

    def _forget_route(self, pattern: str) -> None:
        if _is_wild(pattern):
            self._routes.clear()
        else:
            self._routes.pop(pattern, None)

    def _groups_of(self, pattern: str) -> dict[Group, None]:
        if not _is_wild(pattern):
            return self._literal.setdefault(pattern, {})
        node = self._wild
        for token in pattern.split("."):
            node = node.children.setdefault(token, _Node())
        return node.groups

    def _drop(self, pattern: str, group: Group) -> None:
        if not _is_wild(pattern):
            groups = self._literal[pattern]
            del groups[group]
            if not groups:
                del self._literal[pattern]
            return
        path = [self._wild]
        tokens = pattern.split(".")
        for token in tokens:
            path.append(path[-1].children[token])
        del path[-1].groups[group]
        for parent, token in zip(reversed(path[:-1]), reversed(tokens), strict=True):
            child = parent.children[token]
            if child.groups or child.children:
                return
            del parent.children[token]

    def _search(self, node: _Node, tokens: list[str], at: int, found: dict[Group, None]) -> None:
        rest = node.children.get(">")
        if at == len(tokens):
            found.update(node.groups)
            return
        if rest is not None:
            found.update(rest.groups)
        for token in (tokens[at], "*"):
            child = node.children.get(token)
            if child is not None:
                self._search(child, tokens, at + 1, found)


def _is_wild(pattern: str) -> bool:
    return "*" in pattern or ">" in pattern
