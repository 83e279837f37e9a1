"""NATS subjects and patterns: validity, matching, permissions.

Rules: https://docs.nats.io/nats-concepts/subjects - tokens separated by dots, `*` stands for one
whole token, `>` as the last token for one or more.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

MAX_BYTES: Final = 255
MAX_TOKENS: Final = 16  # of a name that a client may use; the feed's own subjects may have more
EVERYTHING: Final = ">"

# of what is well-formed: wildcards are tokens of their own, `>` is the last
_WILD: Final = re.compile(r"(?:(?:\*|[^.*>]+)\.)*(?:\*|>|[^.*>]+)").fullmatch
_Node = dict[str, Any]
END: Final = "."  # in a tree of patterns; no token


def is_subject(subject: str) -> bool:
    """Whether a message can be published on `subject`: no wildcards, no empty token."""
    return _well_formed(subject) and not is_wild(subject)


def is_pattern(pattern: str) -> bool:
    """Whether a client may name `pattern` in a subscription: a subject, or one with wildcards."""
    if not _well_formed(pattern):
        return False
    return not is_wild(pattern) or _WILD(pattern) is not None


def matches(pattern: str, subject: str) -> bool:
    """Whether a message on `subject` belongs to `pattern`."""
    return covers(pattern, subject)


def covers(pattern: str, other: str) -> bool:
    """Whether every subject of `other` (itself perhaps a pattern) belongs to `pattern`."""
    wanted, given = pattern.split("."), other.split(".")
    for position, token in enumerate(wanted):
        if token == ">":
            return len(given) > position
        if position >= len(given) or given[position] == ">":
            return False
        if token not in ("*", given[position]):
            return False
    return len(wanted) == len(given)


def overlaps(one: str, two: str) -> bool:
    """Whether some subject belongs to both patterns."""
    left, right = one.split("."), two.split(".")
    for a, b in zip(left, right, strict=False):
        if ">" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return len(left) == len(right)


class PatternSet:
    """Patterns for many questions: the answers of `covers`, without a look at each pattern.

    Literals are found by one look-up, patterns with wildcards by one walk along the tokens. Cost of
    a question: O(tokens) as a rule, never more than O(size of all patterns). Immutable.
    """

    __slots__ = ("_tree", "literals")

    def __init__(self, patterns: Iterable[str]) -> None:
        unique = patterns if isinstance(patterns, frozenset) else frozenset(patterns)
        wild = list(filter(is_wild, unique))
        self.literals = unique.difference(wild) if wild else unique
        self._tree: _Node = {}  # token -> what may follow; END -> the pattern that ends there
        for pattern in wild:
            node = self._tree
            for token in pattern.split("."):
                if token == ">":
                    node[">"] = {END: pattern}
                    break
                node = node.setdefault(token, {})
            else:
                node[END] = pattern

    @property
    def wild(self) -> bool:
        """Whether any of the patterns has wildcards."""
        return bool(self._tree)

    def matches(self, subject: str) -> bool:
        """Whether a message on `subject` belongs to one of the patterns."""
        return subject in self.literals or bool(self._tree and self._found(subject))

    covers = matches  # the question is the same: whether `covers(each, other)` for one of them

    def covered_by_another(self, pattern: str) -> bool:
        """Whether a pattern of this set is covered by another one of it."""
        return bool(self._tree) and self._found(pattern, but=pattern)

    def _found(self, other: str, but: str = "") -> bool:
        nodes = [self._tree]
        for token in other.split("."):
            following = []
            for node in nodes:
                rest = node.get(">")
                if rest is not None and rest[END] != but:
                    return True
                if token == ">":
                    continue
                child = node.get(token)
                if child is not None:
                    following.append(child)
                if token != "*" and (child := node.get("*")) is not None:
                    following.append(child)
            if not following:
                return False
            nodes = following
        return any(node.get(END, but) != but for node in nodes)


def permitted(allowed: tuple[str, ...] | None, pattern: str) -> bool:
    """Whether one of the `allowed` patterns covers `pattern`; None allows everything.

    For one name. For many of them see `permission`.
    """
    if allowed is None or pattern in allowed:
        return True
    return any(covers(each, pattern) for each in allowed if is_wild(each))


def permission(allowed: tuple[str, ...] | None) -> Callable[[str], bool]:
    """`permitted` for many names."""
    return PatternSet(allowed).covers if allowed is not None else _anything


def is_wild(pattern: str) -> bool:
    """Whether a pattern has wildcards."""
    return "*" in pattern or ">" in pattern


def reduced(patterns: Iterable[str]) -> list[str]:
    """`patterns` in their order, without those that another one covers."""
    unique = dict.fromkeys(patterns)
    compiled = PatternSet(unique)
    return [each for each in unique if not compiled.covered_by_another(each)]


def _anything(_name: str) -> bool:
    return True


def _well_formed(subject: str) -> bool:
    if not subject or len(subject.encode(errors="replace")) > MAX_BYTES:
        return False
    if subject[0] == "." or subject[-1] == "." or ".." in subject:
        return False
    if subject.count(".") >= MAX_TOKENS:
        return False
    # isprintable() is False for controls, separators other than the space, and surrogates
    return subject.isprintable() and " " not in subject
