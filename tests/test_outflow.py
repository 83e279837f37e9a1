"""A long snapshot is made and sent in turns: others are served in between, and order is kept."""

import json
import tracemalloc
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from odin.delivery.playback import CHUNK_BYTES
from odin.gateway.moving import Mover
from tests import connections
from tests.connections import Server, frame, frames
from tests.test_promise import FullTransport

CHANNELS = 3000
BOUNDS = connections.BOUNDS._replace(messages=10_000, channels=CHANNELS + 10)


class SnapshotTests(SynchronousTestCase):
    def setUp(self):
        with mock.patch.object(connections, "BOUNDS", BOUNDS):
            self.server = Server()
        self.peer, self.other = (self.server.open("/ws?channels=none") for _ in range(2))
        self.other.say(type="subscribe", data={"channels": ["trade.x"]})
        for n in range(CHANNELS):
            self.server.bridge.received(f"price.{n}", b'{"n":%d}' % n)
        self.server.turn()
        self.other.read()

    def ask(self, *channels):
        """Subscribe with a snapshot, and let one turn pass; what runs later does not run yet."""
        wish = {"type": "subscribe", "data": {"channels": list(channels), "snapshot": True}}
        self.peer.protocol.dataReceived(frame(json.dumps(wish)))
        self.server.soon.pop(0)()

    def said(self):
        return [json.loads(payload) for _, payload in frames(self.peer.read())]

    def test_in_turns(self):
        """The acknowledgement comes at once, the rest turn by turn, the feed behind it."""
        for channels, count in ((["price.*", "trade.x"], CHANNELS), ([">"], CHANNELS + 1)):
            self.ask(*channels)
            written = len(frames(self.peer.transport.written))
            self.assertTrue(1 <= written < CHANNELS // 2, written)
            self.server.bridge.received("trade.x", b'{"n":-1}')
            self.server.soon.pop(0)()
            self.assertEqual([each["n"] for each in self.other.messages()], [-1])
            self.assertLess(len(frames(self.peer.transport.written)), CHANNELS)
            self.server.turn()
            acknowledged, *snapshot, last = self.said()
            self.assertEqual(acknowledged["type"], "subscription_ack")
            self.assertEqual(len(snapshot), count)
            self.assertTrue(all(each["snapshot"] for each in snapshot))
            offsets = [each["offset"] for each in (*snapshot, last)]
            self.assertEqual(offsets, sorted(set(offsets)))
            self.assertEqual((last["channel"], "snapshot" in last), ("trade.x", False))
            self.server.bridge.received("price.1", b'{"n":1}')
            self.server.turn()
            self.assertEqual([each["channel"] for each in self.said()], ["price.1"])

    def test_as_it_was(self):
        """What changes while a snapshot is made comes behind it, not in it as well."""
        self.ask("price.*")
        self.server.bridge.received(f"price.{CHANNELS - 1}", b'{"n":"new"}')
        self.server.turn()
        last = [each for each in self.said() if each.get("channel") == f"price.{CHANNELS - 1}"]
        self.assertEqual([each["n"] for each in last], [CHANNELS - 1, "new"])
        self.ask(f"price.{CHANNELS - 1}")
        self.server.turn()
        self.assertEqual(self.said()[-1]["n"], "new")

    def test_small_at_once(self):
        """A snapshot of some channels is made in one go."""
        self.ask("price.7", "price.3")
        self.assertEqual([each.get("n") for each in self.said()], [None, 3, 7])
        self.assertIs(self.peer.protocol.session._backlog, None)

    def test_two_requests(self):
        """A second one, while the first is under way, comes whole behind it."""
        self.ask("price.*")
        self.ask("price.5")
        self.server.turn()
        said = self.said()
        kinds = [each["type"] for each in said if "type" in each]
        self.assertEqual(kinds, ["subscription_ack", "subscription_ack"])
        self.assertEqual([each["n"] for each in said[1:] if "n" in each][-1], 5)
        self.assertEqual(len(said), CHANNELS + 3)

    def test_gone_meanwhile(self):
        """A client that leaves in the middle leaves nothing behind."""
        self.ask("price.*")
        self.peer.lose()
        self.server.turn()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_not_moved_meanwhile(self):
        """A client stays in its process until its snapshot is made."""
        server = self.server
        mover = Mover(server.factory, server.hub, server.bridge, server.context, server.control)
        session = self.peer.protocol.session
        with mock.patch.object(mover, "may_move", return_value=True):
            self.peer.transport.pending = 0
            before = mover.movable(session)
            self.ask("price.*")
            during = mover.movable(session)
            self.server.turn()
            self.assertEqual((before, during, mover.movable(session)), (True, False, True))


class ReadingTests(SynchronousTestCase):
    """A client that asked for much reads it at its own pace, or is let go."""

    COUNT = 1000

    def setUp(self):
        bounds = BOUNDS._replace(messages=50, size=1 << 30, channels_size=1 << 30)
        with mock.patch.object(connections, "BOUNDS", bounds):
            self.server = Server()
        self.server.context.max_pending = 200_000
        self.change()

    def change(self):
        """A new value of each channel."""
        for n in range(self.COUNT):
            self.server.bridge.received(f"t.{n}", b'{"x":"%s"}' % (b"x" * 1500))
        self.server.turn()

    def ask(self, *, snapshot=True, recover=None, then=""):
        """A client that asks for everything, and does not read."""
        peer = self.server.open("/ws?channels=none")
        transport = FullTransport(peer.protocol)
        peer.transport = peer.protocol.transport = transport
        transport.full = True
        data = {"channels": ["t.*"], "snapshot": snapshot}
        if recover is not None:
            data["recover"] = {"epoch": self.server.bridge.epoch, "offset": recover}
        peer.say(type="subscribe", data=data)
        if then:
            peer.say(type=then, data={"channels": ["t.*"]})
        return peer

    def looks(self, count=3):
        for _ in range(count):
            self.server.clock.advance(2.5)
            self.server.turn()

    def is_open(self, peer):
        return peer.protocol.state == peer.protocol.STATE_OPEN

    def test_what_others_need_costs_nothing(self):
        """Values that are the last ones are kept anyway: a client may take its time."""
        peer = self.ask()
        self.looks()
        self.assertTrue(self.is_open(peer))

    def test_not_read(self):
        """Values that have changed are kept for it alone: 4408, also if it unsubscribes."""
        for then in ("", "unsubscribe"):
            self.change()
            peer = self.ask(then=then)
            for n in range(self.COUNT // 2):  # not so many that its backlog is too much
                self.server.bridge.received(f"t.{n}", b"{}")
            self.server.turn()
            session = peer.protocol.session
            self.assertTrue(self.is_open(peer), then)
            self.looks()
            self.assertEqual(peer.protocol.localCloseCode, 4408, then)
            self.assertIsNone(session._backlog)

    def test_read_at_its_own_pace(self):
        """A client that reads some of it now and then gets all of it, whatever it pins."""
        peer = self.ask()
        for n in range(self.COUNT):
            self.server.bridge.received(f"t.{n}", b"{}")
        self.server.turn()
        got = []
        for _ in range(60):
            self.server.clock.advance(2.0)
            self.server.turn()
            peer.transport.drain()
            self.assertTrue(self.is_open(peer))
            got += peer.messages()
        self.assertEqual(sum(each.get("snapshot", False) for each in got), self.COUNT)
        self.assertIsNone(peer.protocol.session._backlog)

    def test_recovery_that_is_not_read(self):
        """The same for what was missed."""
        start = self.server.bridge.offset
        for _ in range(45):
            self.server.bridge.received("t.1", b'{"x":"%s"}' % (b"x" * 10_000))
        self.server.turn()
        peer = self.ask(snapshot=False, recover=start)
        self.looks()
        self.assertTrue(self.is_open(peer))
        for _ in range(60):
            self.server.bridge.received("other", b"{}")
        self.server.turn()
        self.looks()
        self.assertEqual(peer.protocol.localCloseCode, 4408)

    def test_memory_of_many(self):
        """Clients that ask for the same and do not read cost what one of them costs."""
        peers = [self.ask()]
        tracemalloc.start()
        try:
            peers += [self.ask() for _ in range(30)]
            used = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        waiting = [len(each.transport.held) for each in peers]
        self.assertLess(used - sum(waiting), 30 * 40_000)
        self.assertLess(max(waiting), 3 * CHUNK_BYTES)

    def test_nobody_is_watched_for_ever(self):
        """Once everything is read, or the client is gone, it is not looked at any more."""
        peers = [self.ask() for _ in range(3)]
        readers = self.server.context.replays._readers._readers
        self.assertEqual(len(readers), 3)
        peers[0].lose()
        peers[1].transport.full = False
        for _ in range(40):
            peers[1].transport.drain()
            self.server.turn()
        self.looks(1)
        self.assertEqual(list(readers), [peers[2].protocol.session])
