"""Errors that come again and again."""

from twisted.logger import Logger, LogLevel, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from odin.bus.complaints import Complaints


class ComplaintsTests(SynchronousTestCase):
    def setUp(self):
        self.events, self.now = [], 0.0
        log = Logger(observer=self.events.append)
        self.complaints = Complaints(log, 30, lambda: self.now)

    def said(self):
        texts = [formatEvent(each) for each in self.events]
        self.events.clear()
        return texts

    def test_alternating(self):
        """Two errors that take turns are said once each in thirty seconds, not each time."""
        for second in range(60):
            self.now = float(second)
            self.complaints.say("NATS: {error}", error="refused")
            self.complaints.say("NATS: {error}", error="reset")
        self.assertEqual(self.said(), ["NATS: refused", "NATS: reset"] * 2)

    def test_a_connection_ends_it(self):
        """After a success the same error is said at once."""
        self.complaints.say("a")
        self.complaints.forget()
        self.complaints.say("a")
        self.assertEqual(self.said(), ["a", "a"])

    def test_bounded(self):
        """Errors that are all different fill neither memory nor log, and do not silence for ever."""
        for number in range(10_000):
            self.complaints.say("{n}", n=number)
        self.assertLessEqual(len(self.events), 64)
        self.events.clear()
        self.now = 30.0
        self.complaints.say("{n}", n=10_000)
        self.assertEqual(self.said(), ["10000"])

    def test_level(self):
        """A warning, unless told otherwise; braces in a value are only text."""
        self.complaints.say("{a}", a="{x}")
        self.complaints.say("b", level=LogLevel.info)
        self.assertEqual(
            [each["log_level"] for each in self.events], [LogLevel.warn, LogLevel.info]
        )
        self.assertEqual(self.said(), ["{x}", "b"])
