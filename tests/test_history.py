"""History and backlog alone: bounds, order, and what is merged."""

import json
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from odin.delivery import backlog as backlog_module
from odin.delivery import history as history_module
from odin.delivery.backlog import Backlog
from odin.delivery.history import Bounds, History
from odin.delivery.message import Message
from odin.delivery.playback import Messages, Playback
from odin.wire.frames import payload_of, text_frame
from odin.wire.messages import feed_message, feed_prefix
from odin.wire.subjects import covers
from tests.connections import frames
from tests.test_subjects import Counted

ALL = frozenset((">",))


def message(offset, channel="a.b", size=0, conflate=False):
    body = json.dumps({"n": offset, "pad": "x" * size}).encode()
    payload = feed_message(feed_prefix(channel), offset, body, True)
    return Message(channel, offset, text_frame(payload), conflate)


def offsets(data):
    """Of the feed messages in some bytes of frames."""
    found = [json.loads(payload) for _, payload in frames(data)]
    return [each["offset"] for each in found if "offset" in each]


def played(playback):
    """All chunks of a playback, joined."""
    data = b""
    while playback:
        data += playback.take()
    return data


class HistoryTests(SynchronousTestCase):
    def history(self, **bounds):
        everything = {
            "messages": 100, "size": 1 << 20, "age_s": 60, "channels": 100, "channels_size": 1 << 20,
        }  # fmt: skip
        return History(Bounds(**everything | bounds))

    def replayed(self, history, offset, patterns=ALL, most=1000):
        replay = history.replay(frozenset(patterns), offset, most)
        return None if replay is None else offsets(played(replay))

    @given(
        st.lists(st.tuples(st.sampled_from(("a", "a.b", "c.b", "d")), st.integers(1, 3)), max_size=60),
        st.integers(1, 20),
        st.integers(0, 90),
        st.sets(st.sampled_from((">", "a", "d", "*.b", "a.>")), min_size=1),
    )  # fmt: skip
    def test_all_or_nothing(self, published, kept, after, patterns):
        """A replay is exactly what was missed; None only if some of that is gone, or to come."""
        history, sent, offset = self.history(messages=kept), [], 0
        for channel, step in published:
            offset += step  # offsets of a stream may have gaps
            history.add(message(offset, channel), 0.0)
            sent.append((channel, offset))
            self.replayed(history, after, patterns)
        got = self.replayed(history, after, patterns)
        wanted = [n for c, n in sent if n > after and any(covers(p, c) for p in patterns)]
        if got is None:
            gone = [n for n in wanted if n <= history.floor]
            everything = ">" in patterns and after < history.floor
            self.assertTrue(after > offset or gone or everything)
        else:
            self.assertEqual(got, wanted)
        self.assertLessEqual(len(history), kept)

    def test_quiet_channel(self):
        """Who listens to a quiet channel has missed nothing, however much others have said."""
        history = self.history(messages=10)
        history.begin(100)
        history.add(message(101, "quiet.one"), 0.0)
        for n in range(102, 200):
            history.add(message(n, f"busy.{n % 5}"), 0.0)
        for patterns, offset, expected in (
            (["quiet.one"], 101, []), (["quiet.*"], 150, []), (["quiet.two"], 100, []),
            (["quiet.one"], 100, None), (["quiet.*"], 100, None), (["quiet.two"], 99, None),
            (["quiet.one", "busy.3"], 150, None), (["busy.*"], 150, None), ([">"], 150, None),
            (["busy.3"], 198, []), (["busy.3"], 194, [198]), (["busy.3"], 188, [193, 198]),
            (["busy.3"], 187, None), (["quiet.one", "busy.2"], 188, [192, 197]),
            (["quiet.one"], 200, None),
        ):  # fmt: skip
            self.assertEqual(self.replayed(history, offset, patterns), expected, (patterns, offset))

    def test_what_is_gone_is_bounded(self):
        """Of very many channels only the ones forgotten last are known; before that: no."""
        self.patch(history_module, "_MAX_GONE", 100)
        history = self.history(messages=10)
        for n in range(1, 10_000):
            history.add(message(n, f"c.{n}"), 0.0)
        self.assertLessEqual(len(history._gone), 100)
        self.assertTrue(9800 < history.base < history.floor)
        self.assertEqual(self.replayed(history, history.base, ["quiet"]), [])
        self.assertIsNone(self.replayed(history, history.base - 1, ["quiet"]))
        self.patch(history_module, "_MOST_LOOKS", 10)
        self.assertIsNone(self.replayed(history, history.base, ["quiet.*"]))
        self.assertEqual(self.replayed(history, history.floor - 5, ["quiet.*"]), [])

    def test_cost(self):
        """A request looks at each channel once at most, however many patterns it has."""
        history = self.history(messages=2000, channels=2000)
        for n in range(1, 1001):
            history.add(Message(Counted(f"odin.c{n}"), n, b"\x81\x02{}"), 0.0)
        for kind, most in (("odin.c{}", 0), ("*.c{}", 2000), ("odin.*.*.x{}", 2000)):
            patterns = [Counted(kind.format(n)) for n in range(500)]
            Counted.splits = 0
            self.replayed(history, 0, patterns)
            self.assertLessEqual(Counted.splits, most)
            Counted.splits = 0
            history._marks.frame = lambda message: message.frame
            played(history.snapshot(frozenset(patterns)))
            self.assertLessEqual(Counted.splits, most)

    def test_what_has_left_the_ring_is_let_go(self):
        """The ring holds no message below its floor, also before it is made smaller."""
        history = self.history(messages=2000)
        for n in range(1, 3900):
            history.add(message(n), 0.0)
        held = {each.offset for each in history._ring if each.offset}
        self.assertEqual(held, set(range(history.floor + 1, 3900)))

    def test_bounds(self):
        """By number, by bytes, by age; the floor tells what is gone."""
        size = len(message(5).frame)
        for bounds, kept in (({"messages": 3}, 3), ({"size": size * 4 + 3}, 4), ({"age_s": 2}, 3)):
            history = self.history(**bounds)
            for n in range(1, 10):
                history.add(message(n), float(n))
            self.assertEqual(len(history), kept, bounds)
            self.assertEqual(history.floor, 9 - kept)
            self.assertEqual(history.size, sum(len(message(n).frame) for n in range(10 - kept, 10)))

    def test_many(self):
        """The ring stays small however much goes through."""
        history = self.history(messages=50)
        for n in range(1, 10_000):
            history.add(message(n), 0.0)
        self.assertEqual((len(history), history.floor, history.head), (50, 9949, 9999))
        self.assertLess(len(history._ring), 4000)
        self.assertEqual(self.replayed(history, 9990), list(range(9991, 10_000)))

    def test_most(self):
        """Never more than a number of messages, never a part."""
        history = self.history()
        for n in range(1, 20):
            history.add(message(n), 0.0)
        self.assertIsNone(self.replayed(history, 1, most=17))
        self.assertEqual(len(self.replayed(history, 1, most=18)), 18)

    def test_new_numbering(self):
        """Nothing of the old one is left."""
        history = self.history()
        history.add(message(5), 0.0)
        history.begin(100)
        self.assertIsNone(self.replayed(history, 5))
        self.assertEqual(self.replayed(history, 100), [])
        self.assertEqual(len(history.snapshot(ALL)), 0)
        self.assertEqual(history.held, 0)

    def test_snapshot(self):
        """The last message of each channel, marked, in the order of the feed."""
        history = self.history()
        for n, channel in enumerate(("a.b", "c", "a.d", "a.b"), 1):
            history.add(message(n, channel), 0.0)
        got = [json.loads(p) for _, p in frames(played(history.snapshot(frozenset(("a.*",)))))]
        self.assertEqual(
            [(each["channel"], each["offset"], each["snapshot"], each["n"]) for each in got],
            [("a.d", 3, True, 3), ("a.b", 4, True, 4)],
        )

    def test_snapshot_of_other_json(self):
        """Payloads that are no objects, and empty ones."""
        history = self.history()
        for n, (body, is_object) in enumerate(((b"[1]", False), (b"{}", True)), 1):
            payload = feed_message(feed_prefix(f"c{n}"), n, body, is_object)
            history.add(Message(f"c{n}", n, text_frame(payload)), 0.0)
        got = [json.loads(p) for _, p in frames(played(history.snapshot(ALL)))]
        self.assertEqual(
            got,
            [
                {"channel": "c1", "offset": 1, "snapshot": True, "data": [1]},
                {"channel": "c2", "offset": 2, "snapshot": True},
            ],
        )

    def test_last_values_are_bounded(self):
        """By number and by bytes; the channels that were quiet longest go first."""
        history = self.history(channels=2)
        for n, channel in enumerate(("a", "b", "a", "c"), 1):
            history.add(message(n, channel), 0.0)
        self.assertEqual(offsets(played(history.snapshot(ALL))), [3, 4])
        history = self.history(channels_size=150)
        for n in range(1, 20):
            history.add(message(n, f"c{n}"), 0.0)
        self.assertLessEqual(history.last_size, 150)


class BacklogTests(SynchronousTestCase):
    def drain(self, waiting):
        data = b""
        while waiting:
            data += waiting.take()
        return [json.loads(payload) for _, payload in frames(data)]

    @given(
        st.lists(st.tuples(st.sampled_from("pqtu"), st.integers(0, 40)), max_size=80),
        st.lists(st.integers(0, 80), max_size=4),
    )
    def test_only_allowed_conflations(self, published, takes):
        """Ascending; every trade; the newest of every price; what is missing is told."""
        with (
            mock.patch.object(backlog_module, "CONFLATE_AFTER", 300),
            mock.patch.object(backlog_module, "TAKE_BYTES", 200),
        ):
            waiting, got, told, replaced = Backlog(1 << 20), [], 0, 0
            for n, (channel, size) in enumerate(published, 1):
                replaced += waiting.add([message(n, channel, size, channel in "pq")])
                if n in takes and waiting:
                    got += [json.loads(payload) for _, payload in frames(waiting.take())]
            got += self.drain(waiting)
        numbers = [each["offset"] for each in got if "offset" in each]
        self.assertEqual(numbers, sorted(set(numbers)))
        missing = set(range(1, len(published) + 1)) - set(numbers)
        for n in missing:
            self.assertIn(published[n - 1][0], "pq")
            newer = [m for m in numbers if m > n and published[m - 1][0] == published[n - 1][0]]
            self.assertTrue(newer, "the newest of a channel is never dropped")
            self.assertTrue(any(each["from"] <= n <= each["to"] for each in got if "from" in each))
        told = sum(each["skipped"] for each in got if each.get("type") == "conflated")
        self.assertEqual((told, replaced), (len(missing), len(missing)))

    def test_notice(self):
        """Channels, number and span of what was skipped, before the newest values."""
        waiting = Backlog(1 << 20)
        waiting.conflating = True
        for n, channel in enumerate(("p", "q", "t", "p", "q", "p"), 1):
            waiting.add([message(n, channel, conflate=channel != "t")])
        first, *rest = self.drain(waiting)
        self.assertEqual(
            first, {"type": "conflated", "channels": 2, "skipped": 3, "from": 1, "to": 4}
        )
        self.assertEqual([each["offset"] for each in rest], [3, 5, 6])
        self.assertEqual((waiting.size, waiting.skipped), (0, 0))

    def test_bounded_by_channels(self):
        """Not by the rate: a million prices of a channel are one."""
        waiting = Backlog(1 << 20)
        for n in range(1, 20_000):
            waiting.add([message(n, f"p{n % 10}", 100, conflate=True)])
        self.assertEqual(len(waiting), 10)
        self.assertLess(waiting.size, 2500)

    def test_hiccup_costs_nothing(self):
        """Little waits in order, prices too."""
        waiting = Backlog(1 << 20)
        waiting.add([message(n, "p", conflate=True) for n in range(1, 100)])
        self.assertEqual([each["offset"] for each in self.drain(waiting)], list(range(1, 100)))

    def test_small_bound(self):
        """However little may wait, prices are merged before it is too much."""
        waiting = Backlog(2000)
        for n in range(1, 200):
            waiting.add([message(n, "p", 100, conflate=True)])
            self.assertLess(waiting.size, 2000)

    def test_replay_and_notices(self):
        """A replay comes after what waits and before what follows."""
        waiting = Backlog(1 << 20)
        waiting.add([message(1)])
        waiting.append(text_frame(b'{"type":"feedStatus"}'))
        waiting.extend(Playback(Messages([message(2), message(3)])))
        waiting.add([message(4)])
        got = self.drain(waiting)
        self.assertEqual([each.get("offset", "s") for each in got], [1, "s", 2, 3, 4])

    def test_payload_of(self):
        """The payload of frames of every length."""
        for size in (0, 125, 126, 65_535, 65_536):
            self.assertEqual(payload_of(text_frame(b"x" * size)), b"x" * size)
