"""Subjects and patterns."""

from itertools import combinations, product

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from odin.wire.matcher import Matcher
from odin.wire.subjects import (
    PatternSet,
    covers,
    is_pattern,
    is_subject,
    overlaps,
    permission,
    permitted,
    reduced,
)

PATTERNS = st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=3).flatmap(
    lambda tokens: st.sampled_from([".".join(tokens), ".".join([*tokens, ">"]), ">"])
)
SUBJECTS = [".".join(tokens) for n in range(1, 5) for tokens in product("abc", repeat=n)]
ALL_PATTERNS = [
    text
    for size in range(1, 4)
    for tokens in product(("a", "b", "*", ">"), repeat=size)
    if is_pattern(text := ".".join(tokens))
]


class Counted(str):
    """A subject or pattern that counts how often somebody takes one apart."""

    splits = 0

    def split(self, *arguments):
        Counted.splits += 1
        return super().split(*arguments)


class SubjectTests(SynchronousTestCase):
    def test_validity(self):
        """(text, may be published to, may be subscribed to)"""
        for text, subject, pattern in (
            ("odin.token.BTC.price", True, True), ("a", True, True), ("a.b-c_1", True, True),
            ("a.*", False, True), ("*", False, True), (">", False, True), ("a.>", False, True),
            ("a.*.c", False, True), ("*.*", False, True),
            ("", False, False), (".", False, False), ("a.", False, False), (".a", False, False),
            ("a..b", False, False), ("a b", False, False), ("a\tb", False, False),
            ("a\r\nPUB x", False, False), ("a\0", False, False), ("a.>.b", False, False),
            ("a*", False, False), ("a.b>", False, False), ("\ud800", False, False),
            (".".join("a" * 16), True, True), (".".join("a" * 17), False, False),
            (".".join("*" * 16), False, True), (".".join("*" * 16) + ".>", False, False),
            ("x" * 255, True, True), ("x" * 256, False, False), ("é" * 128, False, False),
        ):  # fmt: skip
            self.assertEqual((is_subject(text), is_pattern(text)), (subject, pattern), text[:40])

    def test_matching(self):
        """NATS's own rules: * is one token, > is one or more."""
        for pattern, subject, expected in (
            ("a.b", "a.b", True), ("a.b", "a.c", False), ("a.b", "a.b.c", False),
            ("a.*", "a.b", True), ("a.*", "a", False), ("a.*", "a.b.c", False),
            ("*.b", "a.b", True), ("a.*.c", "a.b.c", True), ("a.*.c", "a.b.d", False),
            ("a.>", "a.b", True), ("a.>", "a.b.c.d", True), ("a.>", "a", False),
            (">", "a", True), (">", "a.b.c", True), ("a.*.>", "a.b", False),
            ("a.*.>", "a.b.c", True), ("A.b", "a.b", False),
        ):  # fmt: skip
            self.assertEqual(covers(pattern, subject), expected, (pattern, subject))

    @given(PATTERNS, PATTERNS)
    def test_covers_and_overlaps_mean_what_they_say(self, one, two):
        """As counted over all short subjects."""
        left = {each for each in SUBJECTS if covers(one, each)}
        right = {each for each in SUBJECTS if covers(two, each)}
        self.assertEqual(overlaps(one, two), bool(left & right), (one, two))
        if covers(one, two):
            self.assertLessEqual(right, left)
        elif right and "c" not in one + two:
            self.assertFalse(right <= left, (one, two))

    def test_permissions(self):
        """None permits all, nothing permits nothing, a pattern what it covers."""
        self.assertTrue(permitted(None, ">"))
        self.assertFalse(permitted((), "a"))
        self.assertTrue(permitted(("x", "a.>"), "a.*"))
        self.assertFalse(permitted(("a.*",), "a.>"))

    def test_reduced(self):
        """What another pattern covers is left out; the order stays."""
        self.assertEqual(reduced(["a.b", "c", "a.*", "c", "a.>"]), ["c", "a.>"])


class PatternSetTests(SynchronousTestCase):
    def test_as_covers(self):
        """Every pair of patterns of up to three tokens, and sets of two, as `covers` says."""
        sets = [(one,) for one in ALL_PATTERNS]
        sets += list(combinations(ALL_PATTERNS, 2))[::7]
        for patterns in sets:
            compiled = PatternSet(patterns)
            for other in ALL_PATTERNS:
                expected = any(covers(each, other) for each in patterns)
                self.assertEqual(compiled.covers(other), expected, (patterns, other))

    def test_matching(self):
        """Every subject of up to four tokens, against every pattern."""
        for pattern in ALL_PATTERNS:
            compiled = PatternSet([pattern])
            for subject in SUBJECTS:
                self.assertEqual(compiled.matches(subject), covers(pattern, subject))

    def test_empty_tokens(self):
        """Subjects that the broker lets through although they are none match as `covers` says."""
        for subject in ("", ".", "x.", ".x", "x..y", "*.", "..."):
            for pattern in (*ALL_PATTERNS, "x", "x.*", "*.x", "x.*.y", "x.>"):
                expected = covers(pattern, subject)
                for kind in (PatternSet, Matcher):
                    got = kind(frozenset([pattern])).matches(subject)
                    self.assertEqual(got, expected, (pattern, subject))

    @given(st.lists(st.sampled_from(ALL_PATTERNS), max_size=12), st.sampled_from(ALL_PATTERNS))
    def test_sets(self, patterns, other):
        """Sets of any size; what is reduced covers what it did."""
        expected = any(covers(each, other) for each in patterns)
        self.assertEqual(PatternSet(patterns).covers(other), expected)
        self.assertEqual(permitted(tuple(patterns), other), expected)
        self.assertEqual(permission(tuple(patterns))(other), expected)
        unique = list(dict.fromkeys(patterns))
        left = [
            each for each in unique if not any(one != each and covers(one, each) for one in unique)
        ]
        self.assertEqual(reduced(patterns), left)

    def test_cost(self):
        """A question takes one name apart, however many patterns there are."""
        wild = [Counted(f"odin.*.c{n}") for n in range(1000)]
        literal = [Counted(f"odin.x.l{n}") for n in range(1000)]
        Counted.splits = 0
        self.assertEqual(len(reduced([*wild, *literal])), 2000)
        self.assertLessEqual(Counted.splits, 3000)
        Counted.splits = 0
        may = permission(tuple(wild))
        for n in range(1000):
            self.assertTrue(may(Counted(f"odin.y.c{n}")))
        self.assertLessEqual(Counted.splits, 2000)
