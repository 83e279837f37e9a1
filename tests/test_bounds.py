"""What waits is bounded in bytes, whatever comes: in a group, in a hub, behind a client."""

import json
import tracemalloc

from twisted.trial.unittest import SynchronousTestCase

from odin.delivery import group as group_module
from odin.delivery import hub as hub_module
from odin.delivery.arrivals import Arrivals
from odin.delivery.backlog import Backlog
from odin.delivery.batches import BATCH_BYTES, Batches, newest
from odin.delivery.group import ABSENT
from odin.delivery.hub import Hub
from odin.delivery.message import Message, joined, notice
from tests.connections import frames
from tests.test_groups import Meter
from tests.test_history import message


def trades(count, size=200):
    return [Message("t", n, b"x" * size) for n in range(1, count + 1)]


class Deaf:
    """A recipient whose socket takes nothing; notes the longest send, and keeps nothing."""

    def __init__(self):
        self.group, self.position, self.sink = None, ABSENT, self
        self.longest = self.got = self.held = 0

    def send(self, data):
        self.longest, self.got = max(self.longest, len(data)), self.got + len(data)

    def offer(self, messages):
        self.send(joined(messages))

    def hold(self, data, sent):
        self.held = len(data) - sent
        self.sink = None
        self.group.fell_behind(self)


def deaf_sweep(sinks, start, stop, data):
    for each in sinks[start:stop]:
        each.send(data)
    return [(index, 0) for index in range(start, stop)]


class BatchTests(SynchronousTestCase):
    def test_size(self):
        """A batch is BATCH_BYTES at most, or one message."""
        for size in (1, 200, 5000, BATCH_BYTES, 3 * BATCH_BYTES):
            pending, at, batches = trades(300, size), 0, Batches()
            while at < len(pending):
                batch, data = batches.cut(pending, at)
                self.assertEqual(data, joined(batch))
                self.assertTrue(len(data) <= BATCH_BYTES or len(batch) == 1)
                self.assertEqual(batch, pending[at : at + len(batch)])
                at += len(batch)

    def test_as_long_as_may_be(self):
        """Nothing is cut that could go together."""
        pending = trades(1000)
        batch, _ = Batches().cut(pending, 0)
        self.assertEqual(len(batch), BATCH_BYTES // 200)
        self.assertEqual(Batches().cut(pending[:100], 0)[0], pending[:100])

    def test_shared(self):
        """Groups with the same messages get the same batch, and no others do."""
        pending, batches = trades(1000), Batches()
        one = batches.cut(list(pending), 0)
        two = batches.cut([notice(b"older"), *pending], 1)
        self.assertIs(one[0], two[0])
        self.assertIs(one[1], two[1])
        other = [*pending[:50], notice(b"between"), *pending[50:]]
        self.assertEqual(batches.cut(other, 0)[0][50], other[50])
        short = batches.cut(pending[:20], 0)
        self.assertEqual((len(short[0]), len(batches.cut(pending[:30], 0)[0])), (20, 30))

    def test_newest(self):
        """Of prices the newest stays in its place, of trades all; the notice tells the others."""
        given = [message(n, c, conflate=c in "pq") for n, c in enumerate("pqtpqp", 1)]
        merged, gone = newest(given)
        told, *rest = [json.loads(payload) for _, payload in frames(joined(merged))]
        self.assertEqual(
            told, {"type": "conflated", "channels": 2, "skipped": 3, "from": 1, "to": 4}
        )
        self.assertEqual(([each["offset"] for each in rest], gone), ([3, 5, 6], 3))
        self.assertEqual(newest(given[:3]), (given[:3], 0))


class HubBoundsTests(SynchronousTestCase):
    def setUp(self):
        self.soon, self.now, self.regulated = [], 0.0, []
        self.hub = Hub(
            sweep=deaf_sweep,
            soon=self.soon.append,
            clock=lambda: self.now,
            meter=Meter(),
            regulate=self.regulated.append,
        )

    def turn(self):
        while self.soon:
            self.soon.pop(0)()

    def come(self, *patterns):
        client = Deaf()
        self.hub.register(client, frozenset(patterns))
        return client

    def test_a_send_is_a_batch(self):
        """However much waits, what a client's kernel leaves over is one batch at most."""
        clients = [self.come("t", f"own.{n}") for n in range(3)]
        for each in trades(10_000):
            self.hub.deliver(each, 0.0)
        self.turn()
        for client in clients:
            self.assertEqual(client.got, 10_000 * 200)
            self.assertLessEqual(client.longest, BATCH_BYTES)
            self.assertLessEqual(client.held, BATCH_BYTES)

    def test_groups_take_turns(self):
        """A group for which much waits does not keep the next one from its message."""
        order = []
        self.hub._sweep = lambda sinks, start, stop, data: order.append((sinks[start], len(data)))
        busy, quiet = self.come("t"), self.come("q")
        for each in trades(1000):
            self.hub.deliver(each, 0.0)
        self.hub.deliver(Message("q", 1001, b"y"), 0.0)
        self.turn()
        self.assertEqual([client for client, _ in order[:3]], [busy, quiet, busy])

    def test_late_server_merges(self):
        """What waits for a whole group is merged: an overloaded server sends less, not more."""
        client, newcomer = self.come("p.*"), Deaf()
        prices = [message(n, f"p.{n % 10}", 100, conflate=True) for n in range(1, 20_001)]
        for each in prices[:15_000]:
            self.hub.deliver(each, 0.0)
        self.hub.register(newcomer, frozenset(("p.*",)))
        for each in prices[15_000:]:
            self.hub.deliver(each, 0.0)
        got = {client: [], newcomer: []}
        for each, parts in got.items():
            each.send = parts.append
        self.turn()
        for each, first in ((client, 1), (newcomer, 15_001)):
            said = [json.loads(payload) for _, payload in frames(b"".join(got[each]))]
            told = [one for one in said if one.get("type") == "conflated"]
            offsets = [one["offset"] for one in said if "offset" in one]
            self.assertEqual(offsets, sorted(set(offsets)))
            self.assertEqual(offsets[-10:], list(range(19_991, 20_001)))
            self.assertEqual(len(offsets) + sum(one["skipped"] for one in told), 20_001 - first)
            self.assertLess(len(offsets), 100)
            self.assertGreaterEqual(min(one["from"] for one in told), first)
        merged = self.hub.groups.batches.merged
        self.assertEqual((merged > 30_000, self.hub.waiting), (True, 0))

    def test_the_bus_waits(self):
        """Above a number of messages the bus is stopped, once; below half of it, it goes on."""
        self.patch(hub_module, "MOST_WAITING", 1000)
        for n in range(10):
            self.come("t", f"own.{n}")
        for each in trades(100):
            self.hub.deliver(each, 0.0)
        self.assertEqual((self.hub.waiting, self.regulated), (1000, []))
        for each in trades(5):
            self.hub.deliver(each, 0.0)
        self.assertEqual(self.regulated, [False])
        self.turn()
        self.assertEqual((self.hub.waiting, self.regulated), (0, [False, True]))

    def test_the_bus_waits_for_bytes(self):
        """Few messages may be too many as well."""
        self.patch(hub_module, "MOST_BYTES", 1000)
        looks = iter(range(1000))
        self.hub._clock = lambda: float(next(looks))  # each slice is over at the first look
        self.come("t")
        for each in trades(100, BATCH_BYTES):
            self.hub.deliver(each, 0.0)
        self.soon.pop(0)()
        self.assertEqual(self.regulated, [False])
        self.turn()
        self.assertEqual(self.regulated, [False, True])

    def test_everybody_left(self):
        """What waits for a group without members is dropped, not sent."""
        client = self.come("t")
        for each in trades(5000):
            self.hub.deliver(each, 0.0)
        self.hub.unregister(client)
        self.turn()
        self.assertEqual((self.hub.waiting, client.got, len(self.hub.groups)), (0, 0, 0))

    def test_age_of_what_is_left(self):
        """A round tells the age of its oldest message, also when that is from rounds ago."""
        self.patch(group_module, "MERGE_AFTER", 1 << 30)
        self.come("t")
        looks = iter(range(1000))
        self.hub._clock = lambda: float(next(looks))
        for each in trades(400):
            self.hub.deliver(each, 0.0)
        self.turn()
        ages = [latency for latency, _ in self.hub._meter.rounds]
        self.assertEqual(len(ages), 3)
        self.assertEqual(ages, sorted(ages))


class ArrivalsTests(SynchronousTestCase):
    def test_marks(self):
        """The oldest message that waits says how old and how much it is."""
        arrivals = Arrivals()
        for offset, arrived in ((1, 1.0), (10, 2.0), (20, 3.0)):
            arrivals.mark(offset, arrived)
            arrivals.size += 100
        arrivals.left(25)
        arrivals.left(12)
        self.assertEqual((arrivals.end_round(new=True), arrivals.waiting), (2.0, 200))
        arrivals.left(0)  # notices alone
        self.assertEqual((arrivals.end_round(new=True), arrivals.waiting), (2.0, 200))
        self.assertEqual((arrivals.end_round(new=True), arrivals.waiting), (3.0, 100))
        self.assertEqual((arrivals.end_round(new=False), arrivals.waiting), (None, 0))

    def test_another_numbering(self):
        """Offsets that begin again begin the marks again."""
        arrivals = Arrivals()
        arrivals.mark(100, 1.0)
        arrivals.mark(1, 2.0)
        arrivals.left(3)
        self.assertEqual(arrivals.end_round(new=False), 2.0)


class BacklogBoundsTests(SynchronousTestCase):
    def used(self, backlogs, batches):
        tracemalloc.start()
        try:
            for backlog in backlogs:
                for batch in batches:
                    backlog.add(batch)
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    def test_trades_of_many_clients(self):
        """A batch that waits for a thousand clients is kept once."""
        batches = [trades(80) for _ in range(60)]
        backlogs = [Backlog(1 << 20) for _ in range(200)]
        self.assertLess(self.used(backlogs, batches), 200 * 3000)
        self.assertTrue(all(len(each) == 4800 and each.conflating for each in backlogs))

    def test_trades_of_one_client(self):
        """A message that waits costs some bytes, however it came."""
        batches = [[each] for each in trades(5000)]
        self.assertLess(self.used([Backlog(1 << 20)], batches), 5000 * 12)

    def test_prices(self):
        """Replaced prices leave nothing behind, also while a client takes a little at a time."""
        waiting = Backlog(1 << 20)
        for n in range(1, 30_000):
            waiting.add([message(n, f"p{n % 500}", 100, conflate=True), message(n, "t")])
            if n % 100 == 0:
                waiting.take()
            if n % 1000 == 0:
                held = sum(map(len, waiting._parts))
                self.assertLess(held, 2 * len(waiting) + 600)
