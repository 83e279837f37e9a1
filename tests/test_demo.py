"""The simulated market."""

import json

from twisted.internet.defer import succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from odin.config import DEFAULT_SUBJECTS
from odin.demo import Market
from odin.wire.subjects import covers, is_subject


class NotingBus:
    def __init__(self):
        self.published = []

    def publish(self, subject, payload):
        self.published.append((subject, json.loads(payload)))
        return succeed(None)


class MarketTests(SynchronousTestCase):
    def run_market(self, seconds):
        bus, clock = NotingBus(), Clock()
        market = Market(bus, clock)
        market.startService()
        for _ in range(seconds * 20):
            clock.advance(0.05)
        market.stopService()
        self.assertEqual(clock.getDelayedCalls(), [])
        return bus.published

    def test_rate_and_kinds(self):
        """About 20 messages a second, of every kind, on the subjects that Odin listens to."""
        published = self.run_market(60)
        self.assertTrue(1190 <= len(published) <= 1202, len(published))
        kinds = {message["type"] for _, message in published}
        self.assertEqual(
            kinds,
            {"priceUpdate", "tradeExecuted", "volumeUpdate", "batchUpdate", "marketStats", "heartbeat"},
        )  # fmt: skip
        for subject, message in published:
            self.assertTrue(is_subject(subject))
            self.assertTrue(any(covers(each, subject) for each in DEFAULT_SUBJECTS), subject)
            self.assertTrue(message["nonce"] and message["timestamp"])
        self.assertEqual(len({message["nonce"] for _, message in published}), len(published))

    def test_seeded(self):
        """The same walk each time, with new nonces."""

        def walk(published):
            return [message["price"] for _, message in published if "price" in message]

        one, two = self.run_market(5), self.run_market(5)
        self.assertEqual(walk(one), walk(two))
        self.assertNotEqual(one[0][1]["nonce"], two[0][1]["nonce"])
