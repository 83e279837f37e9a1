"""One connection, from its first byte to its end, without sockets."""

import jwt
from twisted.trial.unittest import SynchronousTestCase

from odin.access.tokens import Identity
from odin.wire.codes import CloseCode
from tests.connections import SECRET, Server, frame, head


class HeadTests(SynchronousTestCase):
    """What a connection is, decided by its first bytes."""

    def setUp(self):
        self.server = Server()

    def status(self, data):
        peer = self.server.connect()
        peer.send(data)
        return int(peer.read().split()[1])

    def test_upgrade(self):
        """A good handshake gets 101 with the accept key of RFC 6455 1.3, then the welcome."""
        peer = self.server.connect()
        peer.send(head())
        answer, _, rest = peer.transport.written.partition(b"\r\n\r\n")
        self.assertIn(b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", answer)
        self.assertIn(b'"connectionEstablished"', rest)

    def test_byte_by_byte(self):
        """A head may come in any pieces."""
        peer = self.server.connect()
        peer.send(*(bytes((byte,)) for byte in head()))
        self.assertTrue(peer.read().startswith(b"HTTP/1.1 101"))

    def test_plain_http(self):
        """A request without an upgrade is answered by the site, and another one after it."""
        peer = self.server.connect()
        for _ in range(2):
            peer.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertIn(b"200 OK", peer.read())

    def test_upgrade_on_a_kept_alive_connection(self):
        """After plain requests a connection can still become a WebSocket."""
        peer = self.server.connect()
        peer.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", head())
        self.assertIn(b"101 Switching", peer.read())
        peer.say(type="ping", id=1)
        self.assertEqual(peer.messages()[-1]["id"], 1)
        self.assertTrue(peer.transport.reading)

    def test_frames_behind_the_head(self):
        """Frames that came in the same read as the head are not lost."""
        peer = self.server.connect()
        peer.send(head() + frame('{"type":"ping","id":5}'))
        self.assertIn(b'"id":5', peer.read())

    def test_a_fragment_behind_the_head(self):
        """The same for a message of which only the first fragment is there, or half of one."""
        for rest in (
            [frame('{"type":"pi', fin=False), frame('ng","id":5}', 0)],
            [frame('{"type":"pi', fin=False), frame("", 0, fin=False) + frame('ng","id":5}', 0)],
            [frame('{"type":"ping","id":5}')[:9], frame('{"type":"ping","id":5}')[9:]],
        ):
            peer = self.server.connect()
            peer.send(head() + rest[0])
            peer.send(*rest[1:])
            self.assertIn(b'"id":5', peer.read())
            self.assertTrue(peer.protocol.at_rest)

    def test_refusals(self):
        """Each bad handshake gets its own status."""
        good = head()
        for status, data in (
            (400, good.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"short")),
            (400, good.replace(b"Host: localhost\r\n", b"")),
            (403, head("/ws", "Origin: http://evil.example")),
            (403, head("/ws", "Origin: null")),
            (404, head("/other")),
            (405, good.replace(b"GET", b"POST")),
            (414, good.replace(b"/ws", b"/ws?" + b"x" * 9000)),
            (426, good.replace(b"Version: 13", b"Version: 8")),
            (431, head("/ws", *(f"X-{n}: 1" for n in range(120)))),
            (431, head("/ws", *(f"X-{n}: {'y' * 4000}" for n in range(5)))),
            (505, good.replace(b"HTTP/1.1", b"HTTP/1.0")),
            (401, head("/ws?token=nonsense")),
            (400, head("/ws?channels=a..b")),
        ):
            self.assertEqual(self.status(data), status, data[:80])

    def test_full_and_draining(self):
        """With no room, or while draining, a client is told to come later."""
        server = self.server = Server(full_at=1)
        server.open()
        self.assertEqual(self.status(head()), 503)
        self.assertEqual(server.metric("odin_connections_rejected_total", reason="full"), 1)
        self.server = Server()
        self.server.factory.draining = True
        self.assertEqual(self.status(head()), 503)

    def test_refused_connection_ends(self):
        """After a refusal nothing is read any more, and the connection is gone in time."""
        peer = self.server.connect()
        peer.send(head("/nope"))
        peer.read()
        peer.send(head())
        self.assertEqual((peer.read(), peer.ended), (b"", "half-closed"))
        self.server.advance(3)
        self.assertEqual(peer.ended, "aborted")

    def test_handshake_timeout_is_absolute(self):
        """A head that trickles in is cut off at the timeout, counted."""
        peer = self.server.connect()
        for byte in head()[:39]:
            peer.send(bytes((byte,)))
            self.server.advance(0.25)
        self.assertIsNone(peer.ended)
        self.server.advance(1)
        self.assertEqual(peer.ended, "aborted")
        self.assertEqual(self.server.metric("odin_connections_rejected_total", reason="timeout"), 1)

    def test_request_body_timeout(self):
        """A plain request whose body does not come is dropped after readTimeout."""
        peer = self.server.connect()
        peer.send(b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
        self.server.advance(4)
        self.assertIsNone(peer.ended)
        self.server.advance(2)
        self.assertEqual(peer.ended, "lost")

    def test_body_too_large(self):
        """A body over the limit gets 413 before it is read."""
        data = b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
        self.assertEqual(self.status(data), 413)


class LifeTests(SynchronousTestCase):
    """An open connection."""

    def setUp(self):
        self.server = Server(rate=20)
        self.peer = self.server.open()

    def test_ping_and_pong(self):
        """A ping goes out each interval; who answers stays, who does not is dropped."""
        other = self.server.open()
        self.server.advance(26)
        self.assertEqual(self.peer.frames(), [(9, b"")])
        self.peer.send(frame(b"", 10))
        self.server.advance(11)
        self.assertEqual((self.peer.ended, other.ended), (None, "aborted"))
        other.lose(clean=False)
        disconnects = {"code": "1006", "initiator": "server"}
        self.assertEqual(self.server.metric("odin_disconnects_total", **disconnects), 1)
        self.server.advance(15)
        self.assertEqual(self.peer.frames(), [(9, b"")])

    def test_any_traffic_is_life(self):
        """A message instead of the pong counts, too."""
        self.server.advance(26)
        self.peer.say(type="heartbeat")
        self.server.advance(11)
        self.assertIsNone(self.peer.ended)

    def test_close_codes(self):
        """Each breach of the protocol gets its close code, with a machine word first."""
        for code, word, data in (
            (1002, "protocol_error", b"\x81\x02hi"),
            (1002, "protocol_error", frame("x", rsv=1)),
            (1002, "protocol_error", frame("x", 3)),
            (1002, "protocol_error", frame(b"x" * 126, 9)),
            (1003, "unsupported_data", frame(b"x", 2)),
            (1007, "invalid_payload", frame(b"\xff")),
            (1009, "too_big", frame("x" * 70_000)),
            (1009, "too_big", b"\x81\xff" + (2**62).to_bytes(8, "big") + b"mask"),
        ):
            peer = self.server.open()
            peer.send(data)
            got = peer.close_code()
            self.assertEqual((got[0], got[1].partition(":")[0]), (code, word))
            self.server.advance(6)
            self.assertEqual(peer.ended, "aborted")

    def test_client_closes(self):
        """A close frame is answered, and the connection ends without a reset."""
        self.peer.send(frame(b"\x03\xe8", 8))
        self.assertEqual(self.peer.close_code()[0], 1000)
        self.assertEqual(self.peer.ended, "lost")
        self.peer.lose()
        disconnects = {"code": "1000", "initiator": "client"}
        self.assertEqual(self.server.metric("odin_disconnects_total", **disconnects), 1)
        self.assertEqual((self.server.hub.sessions, self.server.factory.connections), (0, 0))

    def test_nothing_of_the_feed_after_our_close(self):
        """Once the close frame is out, messages go to the others only."""
        other = self.server.open()
        self.peer.protocol.close(CloseCode.GOING_AWAY, "going_away")
        self.server.bus.publish("odin.trades.X", b'{"a":1}')
        self.server.turn()
        self.assertEqual([opcode for opcode, _ in self.peer.frames()], [8])
        self.assertEqual([each["a"] for each in other.messages()], [1])

    def test_too_slow(self):
        """A client over its bound is closed with 4408, and the feed goes on without it."""
        self.peer.protocol.fellBehind()
        self.peer.protocol.overflowed(1 << 20)
        self.assertEqual(self.peer.close_code(), (4408, "slow_consumer: 1048576 bytes queued"))
        self.assertEqual(self.server.hub.sessions, 0)

    def test_control_frames_count(self):
        """A flood of pings is a flood: 4429 in the end."""
        self.peer.send(*(frame(b"", 9) for _ in range(40)))
        self.assertEqual(self.peer.close_code()[0], 4429)

    def test_unasked_pongs_and_fragments_count(self):
        """So are unasked pongs and small fragments, the first of a message, too."""
        for flood in (
            [frame(b"x", 10)] * 40,
            [frame(b"", 10)] * 40,
            [frame("x", fin=False)] + [frame("", 0, fin=False)] * 40,
            [frame("x", fin=False)] + [frame("x" * 16, 0, fin=False)] * 40,
            [frame("x", fin=False)] + [frame("x" * 1023, 0, fin=False)] * 40,
            [frame("{", fin=False) + frame("}", 0)] * 30,
        ):
            peer = self.server.open()
            peer.send(*flood)
            self.assertEqual(peer.close_code()[0], 4429)

    def test_large_fragments_are_free(self):
        """A message may come in fragments of a sensible size, the last one of any."""
        parts = [frame(" " * 1024, fin=False), *[frame(" " * 1024, 0, fin=False)] * 60]
        for _ in range(5):
            self.peer.send(*parts, frame('{"type":"ping","id":1}', 0))
            self.assertEqual([each["id"] for each in self.peer.messages()], [1])

    def test_token_runs_out(self):
        """A client is warned 60 s before its token ends, and closed with 4401 after the grace."""
        now = int(self.server.clock.seconds())
        verifier = self.server.context.verifier
        token = jwt.encode({"sub": "u", "exp": 4_000_000_000}, SECRET)
        peer = self.server.open(f"/ws?token={token}")
        identity = verifier.verify(token)
        self.assertEqual(peer.protocol.session.identity, identity)
        peer.protocol.session.identity = type(identity)(user_id="u", expires_at=now + 100)
        messages, code = [], None
        for _ in range(26):
            self.server.advance(5)
            for opcode, payload in peer.frames():
                messages += [payload] if opcode == 1 else []
                code = int.from_bytes(payload[:2]) if opcode == 8 else code
            peer.send(frame(b"", 10))
        expected = b'{"type":"tokenExpiring","expiresAt":%d}' % (now + 100)
        self.assertEqual((messages, code), ([expected], 4401))

    def test_a_token_that_comes_later(self):
        """It is looked at, whatever the interval of the pings: warned of at once, and ended."""
        for interval_s in (0, 25):
            server = Server()
            server.factory.times = server.factory.times._replace(ping_interval_s=interval_s)
            peer = server.open()
            session, told = peer.protocol.session, []
            ends_at = int(server.clock.seconds()) + 30
            session.identity = Identity(user_id="u", expires_at=ends_at)
            session.outlet.look_again()
            for _ in range(120):
                server.advance(0.5)
                left_s = ends_at - server.clock.seconds()
                for opcode, payload in peer.frames():
                    told += [(left_s, payload)] if opcode != 9 else []
                    peer.send(frame(b"", 10) if opcode == 9 else b"")
            (warned_s, warning), (closed_s, end) = told
            self.assertEqual(warning, b'{"type":"tokenExpiring","expiresAt":%d}' % ends_at)
            self.assertEqual(int.from_bytes(end[:2]), 4401)
            self.assertEqual((warned_s, closed_s), (29.5, -25.5))

    def test_a_token_while_a_pong_is_awaited(self):
        """Its moment is not the deadline of the pong; who is silent is found all the same."""
        self.server.advance(26)
        self.assertTrue(self.peer.protocol.pinged)
        session, now = self.peer.protocol.session, int(self.server.clock.seconds())
        session.identity = Identity(user_id="u", expires_at=now + 62)
        session.outlet.look_again()
        self.server.advance(5)
        self.assertIsNone(self.peer.ended)
        self.assertIn(b"tokenExpiring", self.peer.read())
        self.server.advance(45)
        self.assertEqual(self.peer.ended, "aborted")

    def test_echo(self):
        """/echo is the same protocol, sending back what it gets."""
        peer = self.server.open("/echo")
        peer.send(frame("hello"), frame(b"\0\1", 2), frame("x" * 100_000))
        self.assertEqual(
            [(opcode, len(payload)) for opcode, payload in peer.frames()],
            [(1, 5), (2, 2), (1, 100_000)],
        )
        self.assertEqual(self.server.hub.sessions, 1)  # the one of setUp

    def test_echo_to_a_client_that_does_not_read(self):
        """/echo reads on only when what it sent is taken, whatever else makes it read on."""
        peer = self.server.open("/echo")
        peer.protocol.fellBehind()
        self.assertFalse(peer.transport.reading)
        peer.transport.behind = True
        peer.protocol.read_on()
        self.assertFalse(peer.transport.reading)
        peer.transport.behind = False
        peer.protocol.caughtUp()
        self.assertTrue(peer.transport.reading)
