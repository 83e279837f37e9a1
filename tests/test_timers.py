"""The wheel."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from odin.gateway.timers import TICK_S, Wheel


class Item:
    def __init__(self, clock, fail=False):
        self.clock, self.bucket, self.fired, self.fail = clock, None, [], fail

    def due(self):
        self.fired.append(self.clock.seconds())
        if self.fail:
            raise ZeroDivisionError


class WheelTests(SynchronousTestCase):
    def setUp(self):
        self.clock, self.soon = Clock(), []
        self.wheel = Wheel(self.clock, self.soon.append)
        self.wheel.startService()

    def advance(self, seconds):
        for _ in range(round(seconds / TICK_S)):
            self.clock.advance(TICK_S)
            while self.soon:
                self.soon.pop(0)()

    def test_never_early_and_once(self):
        """A deadline comes at its time or up to a tick later, once."""
        for after in (0, 0.1, 0.25, 1.0, 1.3, 60.0):
            item, start = Item(self.clock), self.clock.seconds()
            self.wheel.set(item, after)
            self.advance(after + 2)
            self.assertEqual(len(item.fired), 1, after)
            self.assertTrue(after <= item.fired[0] - start <= after + 2 * TICK_S, after)
        self.assertEqual(len(self.wheel), 0)

    def test_replaced_and_cleared(self):
        """A new deadline takes the old one's place; a cleared one does not come."""
        replaced, cleared = Item(self.clock), Item(self.clock)
        self.wheel.set(replaced, 1)
        self.wheel.set(replaced, 5)
        self.wheel.set(cleared, 1)
        self.wheel.clear(cleared)
        self.advance(3)
        self.assertEqual((replaced.fired, cleared.fired), ([], []))
        self.advance(3)
        self.assertEqual(len(replaced.fired), 1)

    def test_a_failing_deadline(self):
        """One that raises is logged, and the others still come."""
        items = [Item(self.clock, fail=n == 0) for n in range(5)]
        for each in items:
            self.wheel.set(each, 1)
        self.advance(2)
        self.assertTrue(all(len(each.fired) == 1 for each in items))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_after_standing_still(self):
        """When the process stood still, what is overdue waits until the reads were done."""
        item = Item(self.clock)
        self.wheel.set(item, 1)
        self.clock.advance(10)
        self.assertEqual(item.fired, [])
        self.wheel.clear(item)
        other = Item(self.clock)
        self.wheel.set(other, 0.5)
        self.clock.advance(5)
        self.advance(1)
        self.assertEqual((item.fired, len(other.fired)), ([], 1))

    def test_stop(self):
        """After the stop nothing fires."""
        item = Item(self.clock)
        self.wheel.set(item, 1)
        self.wheel.stopService()
        self.advance(3)
        self.assertEqual((item.fired, self.clock.getDelayedCalls()), ([], []))
