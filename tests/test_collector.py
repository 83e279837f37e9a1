"""Garbage: connections make no cycles, and the policy puts things back."""

import gc

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from odin.process.collector import Collector
from tests.connections import Server, frame, head


class CyclesTests(SynchronousTestCase):
    def test_two_thousand_connections(self):
        """Clients that come, talk and go in different ways leave no cyclic garbage."""
        server = Server()
        endings = (
            lambda peer: peer.send(frame(b"\x03\xe8", 8)),
            lambda peer: None,
            lambda peer: peer.send(frame(b"\xff")),
            lambda peer: peer.protocol.overflowed(1),
        )

        def visit(n):
            peer = server.connect()
            peer.send(head())
            peer.say(type="subscribe", data={"channels": [f"c.{n % 7}"]})
            peer.say(type="ping")
            endings[n % len(endings)](peer)
            peer.lose()
            peer.transport.protocol = None  # as tcp.Connection.connectionLost does it

        for n in range(8):
            visit(n)
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        for n in range(2000):
            visit(n)
        self.assertLess(gc.collect(), 50)
        self.assertEqual((len(server.wheel), server.hub.sessions), (0, 0))
        self.assertEqual(len(server.hub.groups), 0)


class CollectorTests(SynchronousTestCase):
    def setUp(self):
        self.addCleanup(gc.unfreeze)
        self.before = gc.get_threshold()

    def test_freezes_and_puts_back(self):
        """While it runs what lives is frozen; when it stops all is as before."""
        collector = Collector(Clock(), lambda: 1)
        collector.startService()
        self.assertGreater(gc.get_freeze_count(), 1000)
        collector.stopService()
        self.assertEqual((gc.get_freeze_count(), gc.get_threshold()), (0, self.before))

    def test_finds_cycles(self):
        """A cycle made while clients are connected is gone a minute later."""
        clock, seen = Clock(), []

        class Cycle:
            def __del__(self):
                seen.append(1)

        collector = Collector(clock, lambda: 1)
        collector.startService()
        self.addCleanup(collector.stopService)
        cycle = Cycle()
        cycle.me = cycle
        del cycle
        clock.advance(61)
        self.assertEqual(seen, [1])
