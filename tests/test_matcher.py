"""Patterns for very many subjects."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from odin.wire import matcher as matcher_module
from odin.wire.matcher import Matcher
from odin.wire.subjects import covers
from tests.test_subjects import Counted

TOKENS = st.sampled_from(("a", "b", "c", "*"))
PATTERN = st.lists(TOKENS, min_size=1, max_size=4).flatmap(
    lambda tokens: st.sampled_from((".".join(tokens), ".".join([*tokens, ">"]), ">"))
)
SUBJECT = st.lists(st.sampled_from(("a", "b", "c", "d")), min_size=1, max_size=5).map(".".join)


class MatcherTests(SynchronousTestCase):
    @given(st.frozensets(PATTERN, min_size=1, max_size=8), st.lists(SUBJECT, max_size=12))
    def test_as_covers(self, patterns, subjects):
        """The answers are those of `covers`, in whatever order they are asked for."""
        matcher = Matcher(patterns)
        for subject in subjects * 2:
            wanted = any(covers(each, subject) for each in patterns)
            self.assertEqual(matcher.matches(subject), wanted, subject)

    def test_odd_subjects(self):
        """A publisher may send on subjects that no client could name."""
        matcher = Matcher(frozenset(("*", "a.*", "*.b.>", "c.>")))
        for subject in ("a.", ".", "", "x.", "..", ".b.", "c.", "*.b.c"):
            wanted = any(covers(each, subject) for each in ("*", "a.*", "*.b.>", "c.>"))
            self.assertEqual(matcher.matches(subject), wanted, subject)

    def test_cost(self):
        """Each part of the tree is walked once, however many subjects lead through it."""
        stars = [f"*.{'*.' * n}x{n}" for n in range(12)]
        matcher = Matcher(frozenset(stars + [f"odin.*.*.y{n}" for n in range(500)]))
        Counted.splits = 0
        for n in range(3000):
            self.assertFalse(matcher.matches(Counted(f"odin.token.T{n}.price")))
        self.assertEqual(Counted.splits, 3000)
        self.assertLess(matcher._count, 10)

    def test_bounded(self):
        """However many ways there are through the tree, so many are remembered."""
        self.patch(matcher_module, "_MOST_STATES", 50)
        matcher = Matcher(frozenset(f"*.T{n}.*.x" for n in range(1000)))
        for n in range(1000):
            self.assertTrue(matcher.matches(f"odin.T{n}.y.x"))
            self.assertFalse(matcher.matches(f"odin.T{n}.y.z"))
        states, found = [matcher._start], 0
        while states:
            state = states.pop()
            found += 1
            states += [each for each in (*state.moves.values(), state.other) if each is not None]
        self.assertLessEqual(found, 50)
