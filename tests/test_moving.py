"""Live connections between two servers in one process, over socket pairs."""

import inspect
import json
import os
import socket
import zlib
from unittest import mock

import msgspec
from autobahn.websocket.compress_deflate import PerMessageDeflate
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from odin.access.tokens import Identity, issue
from odin.delivery import backlog as backlog_module
from odin.delivery.backlog import Backlog
from odin.gateway import moving
from odin.gateway import transport as transport_module
from odin.gateway.answering import Answering
from odin.gateway.moving import Batch, Mover
from odin.gateway.outflow import Outflow
from odin.gateway.paying import Paying
from odin.gateway.resting import RestingProtocol
from odin.gateway.session import Session
from odin.gateway.subscribing import Subscriber
from odin.gateway.transport import Transport
from tests.connections import SECRET, Server, frame, frames, head
from tests.test_transport import NotingReactor

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"


class SocketServer(Server):
    """A server whose connections are sockets; nobody polls them but the test."""

    def __init__(self):
        super().__init__(rate=100)
        self.hub._sweep = transport_module.sweep
        self.reactor = NotingReactor()
        self.reactor.seconds = self.clock.seconds
        self.transport = Transport.configured(
            self.reactor, read_bytes=1 << 16, write_bytes=1 << 16, max_pending=1 << 20
        )
        self.mover = Mover(self.factory, self.hub, self.bridge, self.context, self.control)

    def moved(self, batch, descriptor):
        """Settle the one client of a batch; its protocol."""
        sock = socket.socket(fileno=descriptor)
        self.mover.settle(batch, batch.clients[0], sock, self.transport)
        self.turn()
        return next(t.protocol for t in self.reactor.readers if t.fileno() == descriptor)


class SocketPeer:
    """A client that reads when it likes, and gets what waits then."""

    def __init__(self, server, *more):
        ours, self.socket = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.socket.setblocking(False)
        self.server = server
        self.protocol = server.factory.buildProtocol(None)
        self.protocol.makeConnection(
            server.transport(ours, self.protocol, None, None, 0, server.clock)
        )
        self.send(head("/ws", *more))
        self.read()

    @property
    def session(self):
        return self.protocol.session

    @property
    def transport(self):
        return self.protocol.transport

    def send(self, *datas):
        """Each arrives in a read of its own."""
        for data in datas:
            self.socket.sendall(data)
            self.transport.doRead()
        self.server.turn()

    def say(self, **message):
        self.send(frame(msgspec.json.encode(message)))

    def take(self):
        """What the kernel has for it now."""
        got = b""
        while True:
            try:
                data = self.socket.recv(1 << 16)
            except BlockingIOError:
                return got
            if not data:
                raise EOFError
            got += data

    def read(self):
        """Everything, also what waits in the server."""
        got = self.take()
        while self.transport.behind:
            self.transport.doWrite()
            got += self.take()
        return got

    def messages(self):
        return [msgspec.json.decode(each) for code, each in frames(self.read()) if code == 1]

    def offsets(self):
        return [each["offset"] for each in self.messages() if "channel" in each]


class MovingTestCase(SynchronousTestCase):
    """Two servers that get the same feed, with the same numbering."""

    def setUp(self):
        self.old, self.new = SocketServer(), SocketServer()
        self.new.bridge.adopt(self.old.bridge.epoch, 0, 0, live=True)

    def tearDown(self):
        for server in (self.old, self.new):
            for each in list(server.reactor.readers):
                each.abortConnection()

    def come(self, *more):
        peer = SocketPeer(self.old, *more)
        self.addCleanup(peer.socket.close)
        return peer

    def tell(self, count, channel="t", size=10, turn=True):
        """So many messages of the feed, to both."""
        for server in (self.old, self.new):
            for _ in range(count):
                server.bridge.received(channel, b'{"x":"%s"}' % (b"x" * size))
            if turn:
                server.turn()

    def loosen(self, peer):
        """(as the old one keeps it, as it arrives at the new one)."""
        loose, moved = peer.server.mover.loosen(peer.session)
        bridge = peer.server.bridge
        batch = Batch(bridge.epoch, bridge.offset, [moved], bridge.live)
        return loose, msgspec.msgpack.decode(msgspec.msgpack.encode(batch), type=Batch)

    def settle(self, peer, loose, batch):
        """The other process has it, and this one forgets it."""
        old, descriptor = peer.server, os.dup(loose.protocol.transport.fileno())
        peer.server = self.new if old is self.old else self.old
        peer.protocol = peer.server.moved(batch, descriptor)
        old.mover.let_go(loose)

    def move(self, peer):
        self.settle(peer, *self.loosen(peer))

    def fill(self, peer):
        """Messages until they wait here, and some more; the offset of the last."""
        while not peer.transport.behind:
            self.tell(1, size=500)
        self.tell(5, size=500)
        return self.old.bridge.offset


class MovingTests(MovingTestCase):
    def test_what_is_known_of_a_client(self):
        """Its name and rights, subscriptions, limits and offences are the same afterwards."""
        peer = self.come()
        identity = Identity("u", channels=("a.*",), publish=("p",), expires_at=4_000_000_000)
        peer.say(type="auth", token=issue(identity, SECRET, 10**7)[0])
        peer.say(type="subscribe", data={"channels": ["a.x", "a.y"]})
        peer.send(frame("{"), frame("nonsense"))
        session = peer.session
        session._warned = True
        names = ("number", "identity", "opened_at", "_explicit", "_warned", "_tat", "_offences")
        before = {name: getattr(session, name) for name in names}
        self.assertEqual(before["identity"].user_id, "u")
        self.assertEqual((before["_explicit"], [*dict(before["_offences"])]), (True, ["malformed"]))
        self.assertGreater(before["_tat"], 1000)
        self.move(peer)
        self.assertIsNot(peer.session, session)
        self.assertEqual({name: getattr(peer.session, name) for name in names}, before)
        peer.read()
        peer.say(type="subscriptions")
        self.assertEqual(peer.messages()[0]["channels"], ["a.x", "a.y"])

    def test_the_default(self):
        """Who never subscribed gets everything, and the first subscription still replaces that."""
        peer = self.come()
        self.move(peer)
        self.tell(1)
        self.assertEqual(peer.offsets(), [1])
        peer.say(type="subscribe", data={"channels": ["a"]})
        self.assertEqual(peer.messages()[0]["count"], 1)

    def test_counts(self):
        """One connection and one seat, in the one process or in the other."""
        peer = self.come()
        loose, batch = self.loosen(peer)
        self.assertEqual((self.old.factory.transports, self.old.factory.connections), (1, 1))
        self.assertEqual(self.old.hub.sessions, 0)
        self.settle(peer, loose, batch)
        for server, count in ((self.old, 0), (self.new, 1)):
            factory = server.factory
            self.assertEqual((factory.transports, factory.connections), (count, count))
            self.assertEqual((server.hub.sessions, len(server.reactor.readers)), (count, count))
        self.assertEqual((len(self.old.wheel), len(self.new.wheel)), (0, 1))
        self.assertEqual(self.new.factory.opened, 0)

    def test_an_awaited_pong(self):
        """The new process awaits the pong that the old one asked for."""
        peers = [self.come(), self.come()]
        for server in (self.old, self.new):
            server.advance(25.5)
        for each in peers:
            self.move(each)
            self.assertTrue(each.protocol.pinged)
        peers[0].send(frame(b"", 10))
        self.new.advance(12)
        self.assertIsNotNone(peers[0].session.outlet)
        self.assertIsNone(peers[1].session)

    def test_a_token_before_an_awaited_pong(self):
        """The moment of the token is not the deadline of the pong."""
        peer = self.come()
        for server in (self.old, self.new):
            server.advance(25.5)
        expires_at = int(self.new.clock.seconds()) + 63
        peer.session.identity = Identity("u", expires_at=expires_at)
        self.move(peer)
        self.new.advance(5)
        self.assertIsNotNone(peer.session)
        self.assertIn(b"tokenExpiring", peer.read())

    def test_compression(self):
        """What was negotiated goes on: the same parameters, and messages are understood."""
        peer = self.come(DEFLATE)
        before = peer.protocol._perMessageCompress
        self.move(peer)
        after = peer.protocol._perMessageCompress
        self.assertIsNot(before, after)
        for name in moving._DEFLATE:
            self.assertEqual(getattr(after, name), getattr(before, name), name)
        deflate = zlib.compressobj(wbits=-15)
        data = deflate.compress(b'{"type":"ping","id":1}') + deflate.flush(zlib.Z_SYNC_FLUSH)
        peer.send(frame(data[:-4], rsv=4))
        self.assertEqual(peer.messages()[0]["id"], 1)
        self.move(peer)

    def test_meanwhile(self):
        """What is published while a client is between two processes comes once it is there."""
        peer = self.come()
        self.tell(2)
        self.tell(1, turn=False)
        loose, batch = self.loosen(peer)
        self.tell(3)
        self.assertEqual(peer.offsets(), [1, 2, 3])
        self.settle(peer, loose, batch)
        self.tell(1)
        self.assertEqual(peer.offsets(), [4, 5, 6, 7])

    def test_another_numbering(self):
        """If the new process has one of its own, the client is told, and the feed goes on."""
        peer = self.come()
        self.new.bridge.adopt("other", 70, 70, live=True)
        self.move(peer)
        self.tell(1)
        status, message = peer.messages()
        self.assertEqual(
            (status["status"], status["epoch"], status["offset"]), ("live", "other", 70)
        )
        self.assertEqual(message["offset"], 71)

    def test_only_the_descriptor_is_closed(self):
        """The peer notices nothing of what the old process does with its end."""
        peer = self.come()
        loose, _batch = self.loosen(peer)
        ours = loose.protocol.transport.fileno()
        kept = socket.socket(fileno=os.dup(ours))
        self.addCleanup(kept.close)
        self.old.mover.let_go(loose)
        self.assertRaises(OSError, os.fstat, ours)
        self.assertEqual(peer.take(), b"")
        kept.send(b"still here")
        self.assertEqual(peer.take(), b"still here")
        self.assertEqual((self.old.reactor.readers, self.old.reactor.writers), (set(), set()))
        self.assertEqual((loose.protocol.session, loose.protocol.transport), (None, None))


class BehindTests(MovingTestCase):
    """Clients for whom something waits."""

    def test_in_the_middle_of_a_frame(self):
        """What was begun is finished by the other process, byte for byte."""
        peer = self.come()
        self.tell(1, size=200_000)
        self.tell(3)
        got = peer.take()
        self.assertTrue(0 < len(got) < 200_000)
        self.move(peer)
        self.assertIn(peer.protocol, self.new.factory.behind)
        self.assertNotIn(peer.protocol, self.old.factory.behind)
        got += peer.read()
        sent = b"".join(each.frame for each in self.old.bridge.history.contents()[0])
        self.assertTrue(got == sent)  # not assertEqual: nobody wants to read the difference
        self.assertEqual(self.old.context.dropped, 0)

    def test_a_replay_on_its_way(self):
        """Chunks of a replay wait before what came after it, there as here."""
        peer = self.come()
        last = self.fill(peer)
        got = peer.take()
        resume = {"epoch": self.old.bridge.epoch, "offset": 0}
        peer.say(type="subscribe", data={"channels": ["t"], "recover": resume})
        self.tell(2)
        loose, batch = self.loosen(peer)
        self.assertTrue(batch.clients[0].waiting.chunks)
        self.tell(1)
        self.settle(peer, loose, batch)
        self.assertIn(peer.session, self.new.context.replays._readers._readers)
        got = [msgspec.json.decode(each) for _, each in frames(got + peer.read())]
        kinds = [each.get("type") for each in got]
        at = kinds.index("subscription_ack")
        before, after = ([m["offset"] for m in part] for part in (got[:at], got[at + 1 :]))
        self.assertEqual(before, list(range(1, len(before) + 1)))
        self.assertEqual(after, list(range(1, last + 4)))

    def test_too_slow_to_leave(self):
        """If what it is owed is more than may wait, it is let go as always, and does not move."""
        peer = self.come()
        self.fill(peer)
        for _ in range(3):
            self.tell(1, size=300_000)
        self.tell(1, size=300_000, turn=False)
        self.assertTrue(self.old.mover.movable(peer.session))
        self.assertIsNone(self.old.mover.loosen(peer.session))
        self.assertEqual(frames(peer.read())[-1][0], 8)

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_any_way(self, data):
        """To and fro, behind or not, conflated or not: each message once and in order, or told."""
        self.old, self.new = SocketServer(), SocketServer()
        self.new.bridge.adopt(self.old.bridge.epoch, 0, 0, live=True)
        steps = st.sampled_from(("tell", "tell", "tell", "big", "take", "read", "move", "back"))
        with mock.patch.object(backlog_module, "CONFLATE_AFTER", 3000):
            peer, got = self.come(), b""
            for step in data.draw(st.lists(steps, max_size=20)):
                if step == "big":
                    self.tell(1, "t", 20_000)
                elif step == "tell":
                    channel = data.draw(st.sampled_from(("price.a", "price.b", "t")))
                    count, turn = data.draw(st.integers(1, 12)), data.draw(st.booleans())
                    self.tell(count, channel, 400, turn)
                elif step == "take":
                    got += peer.take()
                elif step == "read":
                    got += peer.read()
                else:
                    loose, batch = self.loosen(peer)
                    self.tell(data.draw(st.integers(0, 2)), "t")
                    if step == "move":
                        self.settle(peer, loose, batch)
                    else:
                        peer.server.mover.take_back(loose)
            self.tell(0)
            got += peer.read()
            self.assertIsNone(peer.session._backlog)
        self.check([msgspec.json.decode(each) for _, each in frames(got)])
        self.tearDown()

    def check(self, got):
        """Every message is there, or was replaced by a newer one of its channel."""
        ring = self.old.bridge.history.contents()[0]
        channels = {each.offset: each.channel for each in ring}
        offsets = [each["offset"] for each in got if "offset" in each]
        told = [each for each in got if each.get("type") == "conflated"]
        self.assertEqual(offsets, sorted(set(offsets)))
        self.assertEqual(len(offsets) + sum(each["skipped"] for each in told), len(channels))
        for offset in channels.keys() - offsets:
            self.assertTrue(any(each["from"] <= offset <= each["to"] for each in told))
            self.assertTrue(any(o > offset and channels[o] == channels[offset] for o in offsets))
            self.assertNotEqual(channels[offset], "t")


class TakeBackTests(MovingTestCase):
    """A client that could not go after all."""

    def test_served_again(self):
        """It gets what came meanwhile, and everything from then on; its requests are answered."""
        peer = self.come()
        loose, _batch = self.loosen(peer)
        self.assertEqual((self.old.reactor.readers, len(self.old.wheel)), (set(), 0))
        self.tell(2)
        peer.socket.sendall(frame('{"type":"ping","id":1}'))
        self.old.mover.take_back(loose)
        self.tell(1)
        self.assertEqual(peer.offsets(), [1, 2, 3])
        self.assertEqual((self.old.reactor.readers, len(self.old.wheel)), ({peer.transport}, 1))
        peer.transport.doRead()
        self.assertEqual(peer.messages()[0]["id"], 1)
        self.assertEqual((self.old.hub.sessions, self.old.factory.connections), (1, 1))

    def test_behind(self):
        """What waited for it goes on to leave, before what came meanwhile."""
        peer = self.come()
        last = self.fill(peer)
        loose, _batch = self.loosen(peer)
        self.assertEqual((self.old.reactor.writers, self.old.factory.behind), (set(), set()))
        self.tell(2)
        self.old.mover.take_back(loose)
        self.assertEqual(self.old.reactor.writers, {peer.transport})
        self.assertEqual(self.old.factory.behind, {peer.protocol})
        self.tell(1)
        self.assertEqual(peer.offsets(), list(range(1, last + 4)))

    def test_more_than_is_remembered(self):
        """If what came meanwhile is not all there any more, it is told to come back: a recovery
        says what is missing."""
        for stays in (True, False):
            self.setUp()
            peer = self.come()
            loose, batch = self.loosen(peer)
            self.tell(1001)
            if stays:
                self.old.mover.take_back(loose)
            else:
                self.settle(peer, loose, batch)
            (_, told), (code, payload) = frames(peer.take())
            self.assertEqual(json.loads(told)["resume"]["offset"], batch.offset)
            self.assertEqual((code, int.from_bytes(payload[:2], "big")), (8, 1012))
            self.tearDown()

    def test_a_gap_meanwhile(self):
        """If the numbering is another one now, it is told so."""
        peer = self.come()
        self.tell(1)
        loose, _batch = self.loosen(peer)
        self.old.bridge.status_changed(False)
        self.old.bridge.status_changed(True, gap=True)
        self.old.turn()
        self.old.mover.take_back(loose)
        status = peer.messages()[-1]
        self.assertEqual((status["status"], status["epoch"]), ("live", self.old.bridge.epoch))


class StateTests(MovingTestCase):
    """What a client was told of the feed, and how it is where the client is now."""

    def said(self, peer):
        """[status of the feed, or offset of a message]"""
        return [each.get("status") or each["offset"] for each in peer.messages()]

    def stale(self, server):
        server.bridge.status_changed(False)
        server.turn()

    def test_told_stale(self):
        """A client that was told `stale` hears `live`, with its own position, before what it
        missed."""
        peer = self.come()
        self.tell(2)
        self.stale(self.old)
        self.assertEqual(self.said(peer), [1, 2, "stale"])
        loose, batch = self.loosen(peer)
        self.new.bridge.received("t", b"{}")
        self.settle(peer, loose, batch)
        live, message = peer.messages()
        self.assertEqual((live["status"], live["epoch"]), ("live", self.old.bridge.epoch))
        self.assertEqual((live["offset"], message["offset"]), (2, 3))

    def test_told_live(self):
        """One that was told `live` hears `stale` where the broker is away, behind what it missed."""
        peer = self.come()
        loose, batch = self.loosen(peer)
        self.new.bridge.received("t", b"{}")
        self.stale(self.new)
        self.settle(peer, loose, batch)
        self.assertEqual(self.said(peer), [1, "stale"])

    def test_the_same(self):
        """One that knows already hears nothing."""
        for stale in (False, True):
            self.setUp()
            peer = self.come()
            for server in (self.old, self.new) if stale else ():
                self.stale(server)
            peer.messages()
            self.move(peer)
            self.assertEqual(self.said(peer), [])

    def test_another_numbering_that_is_stale(self):
        """`live` with the numbering comes once it is true."""
        peer = self.come()
        self.new.bridge.adopt("other", 70, 70, live=False)
        self.move(peer)
        self.assertEqual(self.said(peer), ["stale"])
        self.new.bridge.status_changed(True)
        self.new.turn()
        (live,) = peer.messages()
        self.assertEqual((live["status"], live["epoch"]), ("live", "other"))

    def test_taken_back(self):
        """So does one that stays after all."""
        peer = self.come()
        loose, _batch = self.loosen(peer)
        self.stale(self.old)
        self.old.mover.take_back(loose)
        self.assertEqual(self.said(peer), ["stale"])
        loose, _batch = self.loosen(peer)
        self.old.bridge.status_changed(True)
        self.old.turn()
        self.old.mover.take_back(loose)
        self.assertEqual(self.said(peer), ["live"])


class MovableTests(MovingTestCase):
    """Who can move, and who cannot: not now, or never."""

    def assertStays(self, peer, *, ever):
        mover, session = self.old.mover, peer.session
        self.assertFalse(mover.movable(session))
        self.assertEqual(mover.may_move(session), ever)
        self.assertIsNone(mover.loosen(session))
        self.assertEqual(self.old.hub.sessions, 1)

    def assertGoes(self, peer):
        self.assertTrue(self.old.mover.movable(peer.session))
        self.move(peer)

    def test_something_half_received(self):
        """Nobody moves with half a frame, or half a message, before its other half is there."""
        whole = frame('{"type":"ping","id":7}')
        parts = frame('{"type":"pi', fin=False), frame('ng","id":7}', 0)
        for first, second in ((whole[:1], whole[1:]), (whole[:9], whole[9:]), parts):
            peer = self.come()
            peer.send(first)
            self.assertStays(peer, ever=True)
            peer.send(second)
            self.assertEqual(peer.messages()[0]["id"], 7)
            self.assertGoes(peer)

    def test_a_zlib_stream_from_the_past(self):
        """Nobody ever moves whose messages can only be read by the inflate window kept here."""
        peer = self.come(DEFLATE)
        peer.protocol._perMessageCompress.client_no_context_takeover = False
        self.assertTrue(self.old.mover.movable(peer.session))
        deflate = zlib.compressobj(wbits=-15)
        data = deflate.compress(b'{"type":"ping"}') + deflate.flush(zlib.Z_SYNC_FLUSH)
        peer.send(frame(data[:-4], rsv=4))
        self.assertStays(peer, ever=False)

    def test_another_transport(self):
        """Nobody moves whose transport is none of ours, like TLS."""
        peer = self.old.open()
        peer.session = peer.protocol.session
        self.assertStays(peer, ever=False)

    def test_an_answer_of_the_broker(self):
        """Who waits for one moves when it is there."""
        peer, answer = self.come(), Deferred()
        peer.session.identity = Identity("u", publish=("p",))
        self.old.bus.publish = lambda _subject, _payload: answer
        peer.say(type="publish", id=1, channel="p", data={})
        self.assertStays(peer, ever=True)
        answer.callback(None)
        self.assertEqual(peer.messages()[0]["type"], "publish_ack")
        self.assertGoes(peer)

    def test_too_much_to_carry(self):
        """With very much that waits a client moves once it has read some."""
        peer = self.come()
        self.patch(moving, "_MOST_WAITING", 2000)
        self.fill(peer)
        self.assertStays(peer, ever=True)
        peer.read()
        self.assertGoes(peer)

    def test_closing(self):
        """Whoever is on the way out does not move."""
        peer = self.come()
        session = peer.session
        peer.send(frame(b"\x03\xe8", 8))
        self.assertFalse(self.old.mover.movable(session) or self.old.mover.may_move(session))
        self.assertIsNone(self.old.mover.loosen(session))


class ArrivalTests(MovingTestCase):
    """What was done to all while a client was nowhere."""

    def test_revoked(self):
        """An order that met it in neither process ends it where it arrives, or comes back to."""
        for back in (False, True):
            self.setUp()
            peer = self.come()
            peer.say(type="auth", token=issue(Identity("carol"), SECRET, 10**7)[0])
            loose, batch = self.loosen(peer)
            server = self.old if back else self.new
            server.clock.advance(1)
            server.control("disconnect", b'{"userId":"carol"}')
            if back:
                self.old.mover.take_back(loose)
            else:
                self.settle(peer, loose, batch)
            self.assertEqual(peer.protocol.localCloseCode, 4403)

    def test_draining(self):
        """Who arrives when everybody leaves is told so, and closed."""
        peer = self.come()
        loose, batch = self.loosen(peer)
        self.new.factory.draining = True
        self.settle(peer, loose, batch)
        self.assertEqual(peer.protocol.localCloseCode, 1012)


class PrivateNamesTests(SynchronousTestCase):
    def test_ours(self):
        """What is carried over, and may be all there is, of Session and Backlog."""
        kinds = (Session, Subscriber, Paying, Answering)
        slots = {name for kind in kinds for name in kind.__slots__}
        for name in ("_explicit", "_warned", "_tat", "_offences", "awaiting", "opened_at"):
            self.assertIn(name, slots)
        carried = {"_explicit", "_warned", "_tat", "_offences", "identity", "number", "opened_at"}
        self.assertEqual(slots - carried, {"_context", "_line", "awaiting"})
        self.assertIn("_backlog", Outflow.__slots__)
        self.assertIn("_perMessageCompress", RestingProtocol.__slots__)
        state = {"_played", "_parts", "conflating", "skipped", "_names", "_from", "_to"}
        derived = {"_after", "_at", "_count", "_holes", "_newest", "_seen", "_takes", "size"}
        self.assertEqual(set(Backlog.__slots__) - state, derived)

    def test_autobahn(self):
        """The parameters of a compression are what its constructor takes, in that order."""
        taken = list(inspect.signature(PerMessageDeflate).parameters)
        self.assertEqual(taken, ["is_server", *moving._DEFLATE])
        made = PerMessageDeflate(True, False, True, 12, 11, 3, 1000)
        values = tuple(getattr(made, name) for name in moving._DEFLATE)
        self.assertEqual(values, (False, True, 12, 11, 3, 1000))
        self.assertIsNone(made._decompressor)
        self.assertIsNone(made._compressor)

    def test_at_rest(self):
        """All that there is to a connection at rest is in its slots."""
        peer = Server().open()
        peer.say(type="ping")
        self.assertEqual(peer.protocol.__dict__, {})
