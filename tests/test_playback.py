"""What is played is held by reference, joined when it is its turn, and weighed."""

import tracemalloc

from twisted.trial.unittest import SynchronousTestCase

from odin.delivery import playback as playback_module
from odin.delivery.backlog import Backlog
from odin.delivery.history import Bounds, History
from odin.delivery.message import Message
from odin.delivery.playback import CHUNK_BYTES, Marks, Messages, Playback
from odin.wire.frames import text_frame
from odin.wire.messages import feed_message, feed_prefix

ALL = frozenset((">",))
BOUNDS = Bounds(messages=100, size=1 << 30, age_s=60, channels=10_000, channels_size=1 << 30)


def message(offset, channel="t", size=200):
    body = b'{"pad":"%s"}' % (b"x" * size)
    return Message(
        channel, offset, text_frame(feed_message(feed_prefix(channel), offset, body, True))
    )


def fill(history, rounds, channels, size=1000):
    for _ in range(rounds):
        for n in range(channels):
            history.add(message(history.head + 1, f"c{n}", size), 0.0)


class PlaybackTests(SynchronousTestCase):
    def test_chunks(self):
        """Whole frames, at most CHUNK_BYTES or one frame, all of them and in order."""
        for size in (1, 200, 5000, 40_000, CHUNK_BYTES, 3 * CHUNK_BYTES):
            messages = [message(n, size=size) for n in range(1, 700)][: 8_000_000 // size]
            playback, chunks = Playback(Messages(messages)), []
            while playback:
                chunks.append(playback.take())
            self.assertEqual(b"".join(chunks), b"".join([each.frame for each in messages]))
            longest = max(CHUNK_BYTES, *[len(each.frame) for each in messages])
            self.assertLessEqual(max(map(len, chunks)), longest)

    def test_as_long_as_it_was(self):
        """What comes to the list later is not played."""
        messages = Messages([message(1)])
        playback = Playback(messages)
        messages.append(message(2))
        self.assertEqual(playback.take(), messages[0].frame)
        self.assertFalse(playback)
        self.assertEqual((playback.take(), len(playback)), (b"", 0))

    def test_choice(self):
        """What is wanted is found in steps; what that takes in memory is let go then, or when the
        client does not read."""
        values = Messages([message(n, f"a.c{n % 7}") for n in range(5000)])
        wanted = [each.frame for each in values if each.channel in ("a.c1", "a.c3")]
        for many, most in ((0, 6), (1000, 7)):
            patterns = frozenset(f"a.*.x{n}" for n in range(many)) | {"a.c1", "*.c3"}
            for left in (False, True):
                playback, steps, got = Playback(values, patterns), 0, b""
                while not got:
                    got, steps = playback.take(), steps + 1
                    if left and steps == 2:
                        backlog = Backlog(1 << 20)
                        backlog.extend(playback)
                        backlog.relax()
                        self.assertIsNone(playback._choice)
                self.assertIsNone(playback._choice)
                self.assertLessEqual(steps, most + 2 * left)
                while playback:
                    got += playback.take()
                self.assertEqual(got, b"".join(wanted))

    def test_references(self):
        """A list that is shared costs each of its clients nothing more."""
        messages = Messages([message(n, size=2000) for n in range(5000)])
        tracemalloc.start()
        try:
            playbacks = [Playback(messages) for _ in range(100)]
            for each in playbacks:
                each.take()
            self.assertLess(tracemalloc.get_traced_memory()[0], 100 * 200)
        finally:
            tracemalloc.stop()


class WeightTests(SynchronousTestCase):
    def test_snapshot(self):
        """Values that are the last ones weigh nothing; those that only a snapshot has, do."""
        history = History(BOUNDS)
        fill(history, 1, 2000)
        playback = history.snapshot(ALL)
        self.assertEqual(playback.weight(history.holds), 8 * 2000)
        playback.take()
        left = len(playback)
        self.assertEqual(playback.weight(history.holds), 8 * left)
        fill(history, 1, 1000)  # the first half
        half = playback.weight(history.holds)
        self.assertTrue(500_000 < half < 1_500_000, half)
        fill(history, 2, 2000)
        self.assertGreater(playback.weight(history.holds), left * 1000)

    def test_recovery(self):
        """Messages that left the ring weigh; those that are there, or are last values, do not."""
        history = History(BOUNDS)
        fill(history, 1, 90)
        playback = history.replay(ALL, 0, 1000)
        self.assertEqual(playback.weight(history.holds), 8 * 90)
        history.add(message(91, "other"), 0.0)
        fill(history, 1, 50)
        self.assertGreater(playback.weight(history.holds), 30 * 1000)
        fill(history, 1, 90)
        fill(history, 2, 10)
        self.assertGreater(playback.weight(history.holds), 89 * 1000)

    def test_another_numbering(self):
        """Offsets that are given again are no reason to think that a message is there."""
        history = History(BOUNDS)
        fill(history, 1, 50)
        playback = history.replay(ALL, 0, 1000)
        history.begin(0)
        fill(history, 1, 50)
        self.assertGreater(playback.weight(history.holds), 50 * 1000)

    def test_cost(self):
        """Some messages are looked at, however many there are."""
        playback, looks = Playback(Messages([message(1)] * 10_000)), []
        self.assertGreater(playback.weight(looks.append), 10_000 * 200)
        self.assertLessEqual(len(looks), playback_module._SAMPLE)
        self.assertEqual(Playback(Messages()).weight(looks.append), 0)

    def test_backlog(self):
        """What waits for a client is one number: messages, and what is played."""
        backlog = Backlog(1 << 20)
        backlog.add([message(1)])
        backlog.extend(Playback(Messages([message(2), message(3)])))
        backlog.add([message(4)])
        size = 4 * len(message(1).frame)
        self.assertEqual(backlog.weight(lambda _message: False), size + 16)
        self.assertEqual(backlog.replay_size, size * 3 // 4)


class SnapshotTests(SynchronousTestCase):
    def test_one_list(self):
        """Snapshots of the same moment share their list; later ones are of their own moment."""
        history = History(BOUNDS)
        fill(history, 1, 1000)
        one, two = history.snapshot(ALL), history.snapshot(frozenset(("*", "x")))
        self.assertIs(one._messages, two._messages)
        fill(history, 1, 1)
        three = history.snapshot(ALL)
        self.assertIsNot(three._messages, one._messages)
        self.assertEqual(three._messages[-1].offset, 1001)
        del one, two, three
        self.assertIsNone(history._values())

    def test_marks_are_bounded(self):
        """Those made last are kept, up to so many bytes; each is of the message that is asked."""
        self.patch(playback_module, "_MARKED_BYTES", 100_000)
        marks = Marks()
        for n in range(1, 2000):
            one = message(n, f"c{n % 150}")
            self.assertIn(b'"snapshot":true', marks.frame(one))
            self.assertIs(marks.frame(one), marks.frame(one))
            self.assertLessEqual(marks.size, 100_000)
            kept = [len(each.frame) + len(frame) for each, frame in marks._made.values()]
            self.assertEqual(marks.size, sum(kept))
        self.assertIn(b'"offset":5000,', marks.frame(message(5000, "c1")))
        self.assertIn(b'"offset":5000,', marks.frame(message(5000, "c1", 10)))
