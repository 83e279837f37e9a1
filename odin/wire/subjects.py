"""NATS subjects and patterns: validity, matching, permissions.

Rules: https://docs.nats.io/nats-concepts/subjects - tokens separated by dots, `*` stands for one
whole token, `>` as the last token for one or more.
"""

from collections.abc import Iterable
from typing import Final

MAX_BYTES: Final = 255
EVERYTHING: Final = ">"


def is_subject(subject: str) -> bool:
    """Whether a message can be published on `subject`: no wildcards, no empty token."""
    return _well_formed(subject) and "*" not in subject and ">" not in subject


def is_pattern(pattern: str) -> bool:
    """Whether a client may name `pattern` in a subscription: a subject, or one with wildcards."""
    if not _well_formed(pattern):
        return False
    if "*" not in pattern and ">" not in pattern:
        return True
    tokens = pattern.split(".")
    last = len(tokens) - 1
    for position, token in enumerate(tokens):
        if len(token) > 1 and ("*" in token or ">" in token):
            return False
        if token == ">" and position != last:
            return False
    return True


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


def permitted(allowed: Iterable[str] | None, pattern: str) -> bool:
    """Whether one of the `allowed` patterns covers `pattern`; None allows everything."""
    return allowed is None or any(covers(each, pattern) for each in allowed)


def reduced(patterns: Iterable[str]) -> list[str]:
    """`patterns` in their order, without those that another one covers."""
    unique = list(dict.fromkeys(patterns))
    return [
        each
        for each in unique
        if not any(other != each and covers(other, each) for other in unique)
    ]


def _well_formed(subject: str) -> bool:
    if not subject or len(subject.encode(errors="replace")) > MAX_BYTES:
        return False
    if subject[0] == "." or subject[-1] == "." or ".." in subject:
        return False
    # isprintable() is False for controls, separators other than the space, and surrogates
    return subject.isprintable() and " " not in subject
