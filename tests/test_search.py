"""What a client missed, found in steps, while the history goes on: exactly that, or an honest no."""

from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from odin.delivery import history as history_module
from odin.delivery import search as search_module
from odin.delivery.history import Bounds, History
from odin.delivery.message import Message
from odin.delivery.search import Outcome, Search
from odin.wire.subjects import covers

CHANNELS = ("a", "a.b", "c.b", "d", "e.f.g")
PATTERNS = (">", "a", "d", "*.b", "a.>", "e.*.g", "x")
BOUNDS = Bounds(messages=12, size=1 << 20, age_s=60, channels=3, channels_size=1 << 20)


def new_history(**bounds):
    return History(BOUNDS._replace(**bounds))


def fill(history, count, *channels):
    start = history.head
    for n in range(1, count + 1):
        channel = channels[n % len(channels)]
        history.add(Message(channel, start + n, b"\x81\x02{}"), 0.0)


def offsets(search):
    return [each.offset for each in search.messages]


class SearchMachine(RuleBasedStateMachine):
    """Any order of messages, evictions, new numberings and steps of some searches."""

    def __init__(self):
        super().__init__()
        self.patches = [
            mock.patch.object(search_module, "LOOKS", 3),
            mock.patch.object(search_module, "MATCHES", 2),
            mock.patch.object(history_module, "_MAX_GONE", 4),
            mock.patch.object(history_module, "_MOST_LOOKS", 3),
        ]
        for each in self.patches:
            each.start()
        self.history, self.sent, self.searches = new_history(), [], []

    def teardown(self):
        for each in self.patches:
            each.stop()

    @rule(channel=st.sampled_from(CHANNELS), gap=st.integers(1, 3), count=st.integers(1, 8))
    def add(self, channel, gap, count):
        for _ in range(count):
            offset = self.history.head + gap  # offsets of a stream may have gaps
            self.history.add(Message(channel, offset, b"x"), 0.0)
            self.sent.append((channel, offset))

    @rule()
    def grow_old(self):
        self.history.add(Message("d", self.history.head + 1, b"x"), 100.0)
        self.sent.append(("d", self.history.head))
        self.history._times = [0.0] * len(self.history._times)

    @rule(offset=st.integers(0, 40))
    def begin(self, offset):
        self.history.begin(offset)
        self.sent = []
        for each in self.searches:
            outcome = each[0].step()
            assert outcome in (Outcome.GONE, Outcome.TOO_MANY), outcome

    @rule(
        patterns=st.sets(st.sampled_from(PATTERNS), min_size=1),
        back=st.integers(-2, 30) | st.integers(12, 18),
        most=st.integers(3, 30),
    )
    def ask(self, patterns, back, most):
        offset = max(0, self.history.head - back)
        search = Search(self.history, frozenset(patterns), offset, most)
        self.searches.append((search, offset, most, self.history.numbering))

    @precondition(lambda self: self.searches)
    @rule(data=st.data(), steps=st.integers(1, 4))
    def step(self, data, steps):
        search, offset, most, numbering = data.draw(st.sampled_from(self.searches))
        for _ in range(steps):
            self.check(search, search.step(), offset, most, numbering)

    @precondition(lambda self: self.searches)
    @rule(data=st.data())
    def finish(self, data):
        search, offset, most, numbering = data.draw(st.sampled_from(self.searches))
        outcome = search.run()
        assert outcome is not Outcome.MORE
        self.check(search, outcome, offset, most, numbering)

    def check(self, search, outcome, offset, most, numbering):
        """By what was really sent."""
        history = self.history
        wanted = [
            n for c, n in self.sent if n > offset and any(covers(p, c) for p in search.patterns)
        ]
        if numbering != history.numbering:
            assert outcome in (Outcome.GONE, Outcome.TOO_MANY), outcome
        elif outcome is Outcome.FOUND:
            assert offsets(search) == wanted
            assert len(wanted) <= most
        elif outcome is Outcome.TOO_MANY:
            assert len(wanted) > most
        elif outcome is Outcome.MORE:
            assert offsets(search) == wanted[: len(search.messages)]
        else:
            lost = [n for n in wanted if n <= history.floor]
            hard = any("*" in each or ">" in each for each in search.patterns)
            unknown = offset < history.base or (hard and offset < history.floor)
            assert lost or offset > history.head or unknown
            if offset >= history.floor:
                assert offset > history.head


class SearchTests(SynchronousTestCase):
    def test_any_order_of_events(self):
        """Everything that was sent, in order and once, or a reason why not."""
        limits = settings(max_examples=300, stateful_step_count=30, deadline=None)
        run_state_machine_as_test(SearchMachine, settings=limits)

    def test_cost_of_a_step(self):
        """A step looks at LOOKS messages, and compares MATCHES channels, whatever is asked."""
        history = new_history(messages=50_000, channels=50_000)
        fill(history, 30_000, *(f"odin.c{n}" for n in range(5000)))
        for patterns in (["odin.c7"], ["odin.*"], [">"], [f"*.c{n}" for n in range(600)]):
            search = Search(history, frozenset(patterns), 0, 1 << 30)
            with (
                mock.patch("odin.wire.matcher.Matcher.matches", return_value=True) as matches,
                mock.patch.object(history, "after", wraps=history.after) as after,
            ):
                outcome = Outcome.MORE
                while outcome is Outcome.MORE:
                    outcome = search.step()
                    for called in after.call_args_list:
                        self.assertEqual(called.args[1], search_module.LOOKS)
                    self.assertLessEqual(after.call_count, 1)
                    self.assertLessEqual(matches.call_count, search_module.MATCHES)
                    matches.reset_mock()
                    after.reset_mock()
            self.assertGreater(search.head, 0)

    def test_too_many(self):
        """The search ends with the first message that is one too many, and keeps none of them."""
        history = new_history(messages=50_000)
        fill(history, 40_000, "a", "b")
        for patterns, most, steps in (([">"], 10_000, 3), (["a"], 100, 1), (["*"], 5000, 2)):
            search = Search(history, frozenset(patterns), 0, most)
            outcomes = [search.step() for _ in range(steps)]
            self.assertIs(outcomes[-1], Outcome.TOO_MANY)
            self.assertEqual(outcomes[:-1], [Outcome.MORE] * (steps - 1))
            self.assertEqual(search.messages, [])

    def test_quiet_channels(self):
        """Channels that are known to have nothing new cost no look at the ring."""
        history = new_history(messages=50_000, channels=100)
        fill(history, 1, "quiet")
        fill(history, 40_000, *(f"busy{n}" for n in range(50)))
        self.patch(history, "after", None)
        search = Search(history, frozenset(("quiet", "never")), 1, 10)
        self.assertTrue(search.quick)
        self.assertIs(search.step(), Outcome.FOUND)
        self.assertEqual((offsets(search), search.head), ([], history.head))

    def test_last_values_that_were_forgotten(self):
        """A channel without a last value may have had messages all the same."""
        history = new_history(messages=1000, channels=2)
        fill(history, 1, "quiet")
        fill(history, 10, "b", "c", "d")
        search = Search(history, frozenset(("quiet",)), 0, 10)
        self.assertIs(search.run(), Outcome.FOUND)
        self.assertEqual(offsets(search), [1])

    def test_forgotten_again(self):
        """A channel that lost messages long ago and lately has lost them lately."""
        history = new_history(messages=2)
        fill(history, 5, "x.b", "x.a")  # a b a b a
        fill(history, 2, "d")
        for offset, outcome in ((5, Outcome.FOUND), (4, Outcome.GONE), (3, Outcome.GONE)):
            self.assertIs(Search(history, frozenset(("x.*",)), offset, 9).run(), outcome)
        self.assertEqual(history.lost_after(3), ["x.a", "x.b"])
        self.assertIs(Search(history, frozenset(("*.a",)), 4, 9).run(), Outcome.GONE)

    def test_shared(self):
        """A search goes on where it ended, and what was played from it stays as it was."""
        history = new_history(messages=1000)
        fill(history, 10, "a", "b")
        search = Search(history, frozenset(("a",)), 0, 100)
        search.run()
        first = search.playback()
        fill(history, 10, "a", "b")
        self.assertIs(search.run(), Outcome.FOUND)
        self.assertEqual((len(first), len(search.playback())), (5, 10))
        self.assertIs(first._messages, search.playback()._messages)

    def test_memory(self):
        """What is known of channels and patterns is kept only until the answer is given."""
        history = new_history(messages=20_000, channels=20_000)
        fill(history, 15_000, *(f"odin.c{n}" for n in range(5000)))
        search = Search(history, frozenset(("odin.*.x",)), 0, 10)
        search.step()
        self.assertTrue(search._known)
        search.run()
        search.playback()
        self.assertEqual((search._known, search._matcher), ({}, None))

    def test_many_patterns(self):
        """What very many wildcards need takes a step of its own, and what comes then does not."""
        history = new_history(messages=1000)
        fill(history, 10, "odin.c1", "odin.c2")
        many = frozenset(f"odin.*.{n}" for n in range(100))
        for patterns, found in ((many | {"*.c1"}, 6), (many | {">"}, 12)):
            search = Search(history, patterns, 0, 100)
            self.assertEqual(search.quick, ">" in patterns)
            self.assertIs(search.run(), Outcome.FOUND)
            fill(history, 1, "odin.c1")
            self.assertTrue(search.quick)
            self.assertIs(search.step(), Outcome.FOUND)
            self.assertEqual(len(search.playback()), found)
