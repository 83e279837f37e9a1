"""Letting clients go: all are told at once when their turn is, and go one after the other."""

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from odin.gateway.drain import drain
from tests.connections import Server


class DrainTests(SynchronousTestCase):
    def setUp(self):
        self.server = Server()
        self.clock = self.server.clock
        self.peers = []

    def drain(self, count, over_s):
        """Begin to let so many clients go."""
        self.peers = [self.server.open() for _ in range(count)]
        self.sessions = [each.protocol.session for each in self.peers]
        return Deferred.fromCoroutine(drain(self.clock, self.server.hub, self.sessions, over_s))

    def gone(self):
        """How many have been let go, or went."""
        return sum(each.outlet is None for each in self.sessions)

    def told(self):
        """[afterMs of each client's `reconnect`], None for those that heard nothing."""
        found = ([m for m in each.messages() if m["type"] == "reconnect"] for each in self.peers)
        return [notices[0]["afterMs"] if notices else None for notices in found]

    def test_everybody_knows_at_once(self):
        """Each is told when it will be its turn, evenly, and where in the feed it is."""
        self.server.bridge.received("a", b"{}")
        self.drain(4, 2.0)
        (notice,) = self.peers[3].messages()
        self.assertEqual((notice["type"], notice["afterMs"]), ("reconnect", 1500))
        self.assertEqual(notice["resume"], {"epoch": self.server.bridge.epoch, "offset": 1})
        self.assertEqual(self.told(), [0, 500, 1000, None])

    def test_nothing_is_dropped(self):
        """What was published until a client is told its position it has got, though it is closed in
        the same turn."""
        peer = self.server.open()
        self.server.bridge.received("a", b"{}")
        self.sessions = [peer.protocol.session]
        Deferred.fromCoroutine(drain(self.clock, self.server.hub, self.sessions, 1.0))
        self.assertEqual(self.gone(), 1)
        message, notice = peer.messages()
        self.assertEqual((message["offset"], notice["resume"]["offset"]), (1, 1))

    def test_one_after_the_other(self):
        """They are closed evenly over the time, in the order they were told, with 1012."""
        done = self.drain(20, 10.0)
        self.clock.pump([0.05] * 5)
        for number in range(1, 20):
            outlets = [each.outlet is None for each in self.sessions]
            self.assertEqual(outlets, [True] * number + [False] * (20 - number))
            self.assertNoResult(done)
            self.clock.pump([0.05] * 10)
        self.assertEqual(self.successResultOf(done), 20)
        for each in self.peers:
            self.assertEqual(each.close_code(), (1012, "restart: come back, with recover"))

    def test_who_leaves_meanwhile(self):
        """One that went by itself before its turn holds nobody up."""
        done = self.drain(4, 2.0)
        self.peers[2].lose()
        self.clock.pump([0.05] * 40)
        self.assertEqual(self.successResultOf(done), 4)
        codes = [each.close_code() is not None for each in self.peers]
        self.assertEqual(codes, [True, True, False, True])

    def test_who_left_before(self):
        """One that is gone already is told nothing, and the others go."""
        sessions = [self.server.open().protocol.session for _ in range(2)]
        sessions[0].outlet.connectionLost()
        done = Deferred.fromCoroutine(drain(self.clock, self.server.hub, sessions, 1.0))
        self.clock.pump([0.05] * 20)
        self.assertEqual(self.successResultOf(done), 2)
        self.assertIsNone(sessions[1].outlet)

    def test_nobody(self):
        """Without clients it is over at once, and no timer is left."""
        timers = len(self.clock.getDelayedCalls())
        self.assertEqual(self.successResultOf(self.drain(0, 5.0)), 0)
        self.assertEqual(len(self.clock.getDelayedCalls()), timers)

    def test_one(self):
        """A single client goes at once."""
        self.assertEqual(self.successResultOf(self.drain(1, 5.0)), 1)
        self.assertEqual(self.gone(), 1)

    def watch(self, count):
        """What `count` says at each turn of the reactor in this instant."""
        seen = []

        def look():
            seen.append(count())
            if len(seen) < 20:
                self.clock.callLater(0, look)

        self.clock.callLater(0, look)
        return seen

    def test_turns_of_the_reactor(self):
        """With very many, at most 100 are told, or closed, in one turn."""
        done = self.drain(250, 0.5)
        told = self.watch(lambda: sum(bool(each.transport.written) for each in self.peers))
        self.clock.advance(0)
        self.assertEqual(told[:3], [200, 250, 250])
        gone = self.watch(self.gone)
        self.clock.advance(0.5)
        self.assertEqual(self.gone(), 250)
        self.assertLessEqual(max(b - a for a, b in zip([1, *gone], gone, strict=False)), 100)
        self.assertEqual(self.successResultOf(done), 250)

    def test_a_turn_that_comes_late(self):
        """After a pause of the process those whose turn has passed go, and no more."""
        done = self.drain(10, 1.0)
        self.clock.advance(0.75)
        self.assertEqual(self.gone(), 8)
        self.assertNoResult(done)
