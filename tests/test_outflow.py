"""A long snapshot is made and sent in turns: others are served in between, and order is kept."""

import json
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from odin.gateway.moving import Mover
from tests import connections
from tests.connections import Server, frame, frames

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
        """Acknowledgement and a part come at once, the rest turn by turn, the feed behind it."""
        for channels, count in ((["price.*", "trade.x"], CHANNELS), ([">"], CHANNELS + 1)):
            self.ask(*channels)
            written = len(frames(self.peer.transport.written))
            self.assertTrue(1 < written < CHANNELS // 2, written)
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
