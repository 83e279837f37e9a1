"""Subject -> the groups of clients that it concerns.

A pattern is one entry in one table, with wildcards or without. To find those of a subject, it is
looked up as it is, and once for each *shape* that patterns of its length have: with `*` for some
of its tokens, or cut off and ended by `>`.

    a.b.c -> a.b.c, *.b.c, a.>    if there are patterns of the shapes "* at 0" and "> at 1"

So a pattern costs its text and an entry, however many tokens it has; a subject of n tokens costs
at most 2 ** (n + 1) look-ups, whatever the clients are subscribed to.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from odin.delivery.batches import Batches
from odin.delivery.group import Group, Recipient
from odin.wire.subjects import is_wild

_Shape = tuple[int, ...]  # where the tokens are `*`


class _Shapes:
    """How many patterns there are of each shape, by their number of tokens."""

    def __init__(self) -> None:
        self._counts: dict[int, dict[_Shape, int]] = {}

    def change(self, tokens: list[str], by: int) -> None:
        """Count the pattern of these tokens (1), or do so no more (-1)."""
        shape = tuple([at for at, token in enumerate(tokens) if token == "*"])
        counts = self._counts.get(len(tokens))
        if counts is None:
            counts = self._counts[len(tokens)] = {}
        count = counts.get(shape, 0) + by
        if count:
            counts[shape] = count
            return
        del counts[shape]
        if not counts:
            del self._counts[len(tokens)]

    def forms(self, tokens: list[str], end: str = "") -> list[str]:
        """The subject of these tokens as patterns of each shape would have it."""
        forms = []
        for shape in self._counts.get(len(tokens), ()):
            form = tokens.copy()
            for at in shape:
                form[at] = "*"
            forms.append(".".join(form) + end)
        return forms

    def __bool__(self) -> bool:
        return bool(self._counts)


class Groups:
    """All groups, and which of them a subject concerns.

    The answer for a subject is remembered until a group with a matching pattern comes or goes. A
    client costs O(k) in the number k of its patterns when its group comes into being or ends, and
    O(what changes) when it changes the patterns of a group that it is alone in.
    """

    _MAX_ROUTES: Final = 65_536  # subjects remembered; publishers may invent any number

    def __init__(self) -> None:
        self.batches = Batches()
        self._by_patterns: dict[frozenset[str], Group] = {}
        self._index: dict[str, Group | dict[Group, None]] = {}  # pattern -> the one, or all
        self._exact = _Shapes()
        self._open = _Shapes()  # of what stands before the `>`
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
            route = self._routes[subject] = tuple(self._search(subject))
        return route

    def join(self, recipient: Recipient, patterns: frozenset[str]) -> None:
        """Put a recipient that is in no group into the one of `patterns`."""
        group = self._by_patterns.get(patterns)
        if group is None:
            group = self._by_patterns[patterns] = Group(patterns, self.batches)
            self._enter(group, patterns)
        group.add(recipient)

    def leave(self, recipient: Recipient, *, settle: bool = False) -> None:
        """Take a recipient out of its group, if it is in one; see `Group.remove`."""
        group = recipient.group
        if group is None:
            return
        group.remove(recipient, settle=settle)
        if not len(group) and self._by_patterns.get(group.patterns) is group:
            del self._by_patterns[group.patterns]
            self._withdraw(group, group.patterns)

    def change(self, recipient: Recipient, patterns: frozenset[str]) -> None:
        """Exchange the patterns of a recipient that is settled; see `Group.settle`."""
        group = recipient.group
        assert group is not None
        if len(group) == 1 and patterns not in self._by_patterns:
            del self._by_patterns[group.patterns]
            self._withdraw(group, group.patterns - patterns)
            self._enter(group, patterns - group.patterns)
            group.rename(patterns)
            self._by_patterns[patterns] = group
        else:
            self.leave(recipient)
            self.join(recipient, patterns)

    def _enter(self, group: Group, patterns: Iterable[str]) -> None:
        index = self._index
        for pattern in patterns:
            there = index.get(pattern)
            if there is None:
                index[pattern] = group
                if is_wild(pattern):
                    self._change_shape(pattern, 1)
            elif isinstance(there, dict):
                there[group] = None
            else:
                index[pattern] = {there: None, group: None}
            self._forget_route(pattern)

    def _withdraw(self, group: Group, patterns: Iterable[str]) -> None:
        index = self._index
        for pattern in patterns:
            there = index[pattern]
            if isinstance(there, dict) and len(there) > 1:
                del there[group]
            else:
                del index[pattern]
                if is_wild(pattern):
                    self._change_shape(pattern, -1)
            self._forget_route(pattern)

    def _change_shape(self, pattern: str, by: int) -> None:
        tokens = pattern.split(".")
        if tokens[-1] == ">":
            self._open.change(tokens[:-1], by)
        else:
            self._exact.change(tokens, by)

    def _forget_route(self, pattern: str) -> None:
        if is_wild(pattern):
            self._routes.clear()
        else:
            self._routes.pop(pattern, None)

    def _search(self, subject: str) -> dict[Group, None]:
        """The groups of all patterns that match, of the shapes that there are."""
        forms = [subject]
        if self._exact or self._open:
            tokens = subject.split(".")
            forms += self._exact.forms(tokens)
            if self._open:
                forms += self._open.forms([], ">")
                for end in range(1, len(tokens)):
                    forms += self._open.forms(tokens[:end], ".>")
        found: dict[Group, None] = {}
        for pattern in forms:
            there = self._index.get(pattern)
            if isinstance(there, dict):
                found.update(there)
            elif there is not None:
                found[there] = None
        return found
