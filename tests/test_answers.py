"""Pages that cost something: made once, for all who ask."""

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from odin.web.answers import RecentAnswers


class Source:
    """Makes an answer when the test says so, or at once."""

    def __init__(self):
        self.asked, self.waiting, self.broken = [], [], False

    def answer(self, page):
        self.asked.append(page)
        if self.broken:
            raise ValueError("a defect")
        self.waiting.append(Deferred())
        return self.waiting[-1]


class RecentAnswersTests(SynchronousTestCase):
    def setUp(self):
        self.source, self.now, self.state = Source(), 100.0, "ready"
        self.recent = RecentAnswers(self.source, 2.0, lambda: self.now, lambda: self.state)

    def made(self, page, answer):
        """Ask, and have it made."""
        asking = self.recent.answer(page)
        self.source.waiting.pop().callback(answer)
        return self.successResultOf(asking)

    def test_once(self):
        """However many ask, each page is made once in the interval; the next one asks anew."""
        self.assertEqual(self.made("stats", (200, b"1")), (200, b"1"))
        self.now += 1.9
        for _ in range(1000):
            self.assertEqual(self.successResultOf(self.recent.answer("stats")), (200, b"1"))
        self.assertEqual(self.source.asked, ["stats"])
        self.made("metrics", (200, b"2"))
        self.now += 0.1
        self.assertEqual(self.made("stats", (200, b"3")), (200, b"3"))
        self.assertEqual(self.source.asked, ["stats", "metrics", "stats"])

    def test_together(self):
        """Who asks while it is being made gets the same, also when that takes long."""
        asking = []
        for _ in range(10):
            asking.append(self.recent.answer("health"))
            self.now += 1
        self.source.waiting.pop().callback((503, b"x"))
        self.assertEqual([self.successResultOf(each) for each in asking], [(503, b"x")] * 10)
        self.assertEqual(self.source.asked, ["health"])

    def test_age(self):
        """An answer is as old as its question."""
        asking = self.recent.answer("health")
        self.now += 2
        self.source.waiting.pop().callback((200, b"x"))
        self.successResultOf(asking)
        self.recent.answer("health")
        self.assertEqual(len(self.source.asked), 2)

    def test_failures(self):
        """A failure reaches all who wait, and is not kept."""
        asking = [self.recent.answer("health") for _ in range(3)]
        self.source.waiting.pop().errback(ValueError())
        for each in asking:
            self.failureResultOf(each, ValueError)
        self.source.broken = True
        self.failureResultOf(self.recent.answer("health"), ValueError)
        self.source.broken = False
        self.assertEqual(self.made("health", (200, b"x")), (200, b"x"))
        self.assertEqual(len(self.source.asked), 3)

    def test_state(self):
        """What was made before the server became unready is not shown after it."""
        self.made("health", (200, b"x"))
        self.state = "draining"
        self.assertEqual(self.made("health", (503, b"y")), (503, b"y"))
        asking = self.recent.answer("health")
        self.assertEqual(self.successResultOf(asking), (503, b"y"))
