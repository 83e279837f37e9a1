"""Subject -> the groups of clients that it concerns.

Subjects without wildcards are found by one look-up, patterns by a trie of their tokens. A client
costs O(k) in the number k of its patterns, and only when its group comes into being or ends.
"""

from collections.abc import Iterator
from typing import Final

from odin.delivery.batches import Batches
from odin.delivery.group import Group, Recipient


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
        self.batches = Batches()
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
            group = self._by_patterns[patterns] = Group(patterns, self.batches)
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
