"""Subjects and patterns, beside a plain reading of the rules of NATS."""

import re
from itertools import pairwise

from odin.delivery.group import ABSENT
from odin.delivery.groups import Groups
from odin.wire.subjects import (
    PatternSet,
    covers,
    is_pattern,
    is_subject,
    overlaps,
    permitted,
    reduced,
)
from tests.fuzz.source import Source

MAX_TOKENS = 16  # whatever is longer may be refused as a client's pattern
WORDS = [b"a", b".", b"*", b">", b".>", b"*.", b"a.b", b"\n", b"..", b"\xc3\xa9", b"\xc2\xa0", b" "]
SEEDS = [
    b"\x00a.b\na.*\na.>\n*.b\n>\na..b\n.a\na.\n\na b\na*\n>.a",
    b"\x01\x00\x06\x01\x06\x02\x07\x03\x06\x04\x07\x00\x06\x02\x06\x00\x07",
    b"\x01\x02\x07\x00\x06\x02\x07\x00\x06\x00\x07\x03\x07\x02\x06\x01\x07\x01\x06\x00\x07",
]
_ALPHABET = ("a", "b", "*", ">", "c")


class _Member:
    """A client of a group."""

    group, position = None, ABSENT

    def __init__(self):
        self.sink = self


def check(data):
    """Validity, coverage, permissions and routes are as the rules have them."""
    source = Source(data)
    names = _spelt(source) if source.byte() & 1 else _as_they_are(source)
    for name in names:
        _check_validity(name)
    patterns = [each for each in names if is_pattern(each)]
    compiled, short = PatternSet(patterns), reduced(patterns)
    for one in patterns:
        covered = False
        for two in patterns:
            assert covers(two, one) == _covers(two, one), (two, one)
            assert overlaps(two, one) == _overlaps(two.split("."), one.split(".")), (two, one)
            covered = covered or covers(two, one)
        assert covered and compiled.covers(one)
        assert any(covers(each, one) for each in short), (short, one)
    for name in names:
        expected = any(_covers(each, name) for each in patterns) if is_pattern(name) else None
        if expected is not None:
            assert permitted(tuple(patterns[:-1]), name) == any(
                _covers(each, name) for each in patterns[:-1]
            ), (patterns, name)
    for one, two in ((a, b) for a in short for b in short if a != b):
        assert not covers(one, two), (one, two)
    _check_routes(patterns)


def _as_they_are(source):
    return [each.decode(errors="surrogatepass" if len(each) % 2 else "replace")
            for each in source.rest().split(b"\n")[:24] if _decodes(each)]  # fmt: skip


def _decodes(text):
    try:
        text.decode(errors="surrogatepass")
    except UnicodeDecodeError:
        return len(text) % 2 == 0
    return True


def _spelt(source):
    """Names of few tokens, so that they have to do with each other."""
    names, tokens = [], []
    while source.more and len(names) < 24:
        choice = source.below(len(_ALPHABET) + 3)
        if choice < len(_ALPHABET):
            tokens.append(_ALPHABET[choice])
        elif tokens:
            names.append(".".join(tokens))
            tokens = []
    return names


def _check_validity(name):
    tokens = name.split(".")
    printable = not re.search(r"[\x00-\x20\x7f-\xa0\ud800-\udfff]", name) and name.isprintable()
    plain = bool(printable and all(tokens) and len(name.encode(errors="replace")) <= 255)
    wild = plain and all(
        not set(token) & {"*", ">"} or token == "*" or (token == ">" and at == len(tokens))
        for at, token in enumerate(tokens, 1)
    )
    subject = plain and not set(name) & {"*", ">"}
    if len(tokens) <= MAX_TOKENS:
        assert is_pattern(name) == wild, name
        assert is_subject(name) == subject, name
    else:
        assert wild or not is_pattern(name), name
        assert subject or not is_subject(name), name


def _covers(pattern, other):
    """By examples: what `other` stands for, `*` and `>` as tokens that nobody can name."""
    tokens = pattern.split(".")
    body = [r"[^.]+" if each == "*" else r"[^.]+(?:\.[^.]+)*" if each == ">" else re.escape(each)
            for each in tokens]  # fmt: skip
    matches = re.compile(r"\.".join(body)).fullmatch
    given = other.replace("*", "\x01")
    longer = "\x01" + ".\x01" * len(tokens)
    return all(matches(given.replace(">", each)) for each in ("\x01", longer))


def _overlaps(left, right):
    """Token by token; `>` stands for one or more."""
    if not left or not right:
        return not left and not right
    if left[0] == ">" or right[0] == ">":
        return True
    same = left[0] == right[0] or "*" in (left[0], right[0])
    return same and _overlaps(left[1:], right[1:])


def _check_routes(patterns):
    """Every subject reaches the groups that want it, once; and no group leaves a trace."""
    groups, members = Groups(), []
    wanted = [frozenset(each) for each in pairwise(patterns)] + [frozenset(patterns[:5])]
    names = [*[each for each in patterns if is_subject(each)][:6], "a", "a.b", "b.c.a"]
    for step, each in enumerate(wanted):
        if not each:
            continue
        member = _Member()
        groups.join(member, each)
        members.append(member)
        if step % 3 == 2:
            groups.leave(members.pop(step % len(members)))
        for name in names:
            found = [group.patterns for group in groups.route(name)]
            expected = {m.group.patterns for m in members
                        if any(_covers(p, name) for p in m.group.patterns)}  # fmt: skip
            assert len(found) == len(set(found)) and set(found) == expected, (name, found)
    for member in members:
        groups.leave(member)
    assert not len(groups) and not any(groups.route(name) for name in names)
