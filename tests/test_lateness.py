"""A process that stood still notices it before it judges others."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from odin.process.lateness import Lateness, Limit


class LatenessTests(SynchronousTestCase):
    def test_looks(self):
        """Looks that are late by more than a busy loop, by how much; the next one is measured anew."""
        clock = Clock()
        lateness = Lateness(1.0, clock.seconds)
        for passed_s, late_s in ((1.0, 0.0), (1.9, 0.0), (0.1, 0.0), (31.0, 30.0), (1.0, 0.0)):
            clock.advance(passed_s)
            self.assertAlmostEqual(lateness.stood_still(), late_s)
        clock.advance(30)
        lateness.restart()
        clock.advance(1)
        self.assertEqual(lateness.stood_still(), 0.0)


class LimitTests(SynchronousTestCase):
    def setUp(self):
        self.clock, self.expired = Clock(), []

    def limit(self, limit_s):
        return Limit(self.clock, limit_s, lambda: self.expired.append(self.clock.seconds()))

    def run_for(self, seconds):
        for _ in range(int(seconds * 10)):
            self.clock.advance(0.1)

    def test_expires_once(self):
        """At its time, and nothing is left on the clock."""
        limit = self.limit(5)
        self.run_for(4.9)
        self.assertEqual((self.expired, limit.passed), ([], False))
        self.run_for(20)
        self.assertEqual((len(self.expired), limit.passed), (1, True))
        self.assertTrue(5 <= self.expired[0] <= 5.5)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelled(self):
        """By itself or at the end of a `with`, twice too: it never expires."""
        with self.limit(5) as limit:
            self.run_for(1)
        limit.cancel()
        self.run_for(20)
        self.assertEqual((self.expired, limit.passed), ([], False))

    def test_starts_anew(self):
        """Whenever this process stood still, whoever asks first."""
        limit = self.limit(5)
        self.run_for(4)
        self.clock.advance(60)
        self.assertEqual(self.expired, [])
        self.run_for(4)
        self.assertEqual((self.expired, limit.passed), ([], False))
        self.run_for(2)
        self.assertEqual(len(self.expired), 1)

    def test_how_long(self):
        """Time that this process did not run does not count."""
        with self.limit(50) as limit:
            self.run_for(3)
            self.assertAlmostEqual(limit.ran_s, 3)
            self.clock.rightNow += 60  # and no timer has run yet
            self.assertEqual(limit.ran_s, 0)
