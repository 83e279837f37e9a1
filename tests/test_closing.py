"""A connection after our close frame, without sockets: nothing counts but the client's own."""

import zlib
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from odin.gateway.session import Session
from odin.wire.codes import CloseCode
from tests.connections import Server, frame
from tests.test_resting import kept

CLOSE = frame(b"\x03\xe8", 8)
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
CORRUPT = frame(b"\xff" * 64, rsv=4)
PING_OF_A_TERABYTE = b"\x89\xff" + (1 << 40).to_bytes(8, "big") + b"mask"
MESSAGE_OF_A_GIGABYTE = b"\x81\xff" + (1 << 30).to_bytes(8, "big") + b"mask"

# what ends a connection, and the code that it ends with
BROKEN = (
    (1002, b"\x81\x02hi"),
    (1002, frame("rsv", rsv=2)),
    (1002, frame(b"rsv", 9, rsv=4)),
    (1002, frame("x", 3)),
    (1002, frame(b"x", 11)),
    (1002, frame(b"x", 9, fin=False)),
    (1002, frame(b"p" * 126, 9)),
    (1002, frame("x", 0)),
    (1002, frame("x" * 2000, fin=False) + frame("y")),
    (1002, b"\x81\xfe\x00\x05" + b"\0\0\0\0hello"),
    (1002, b"\x81\xff" + (5).to_bytes(8, "big") + b"\0\0\0\0hello"),
    (1003, frame(b"x", 2)),
    (1003, frame(b"x" * 2000, 2, fin=False) + frame(b"x", 0)),
    (1007, frame(b"\xff" + b"y" * 50)),
    (1007, frame(b"\xe2\x82")),
    (1007, frame(b"\xff" * 2000, fin=False)),
    (1007, CORRUPT),
    (1009, frame("x" * 70_000)),
    (1009, frame("x" * 60_000, fin=False) + frame("y" * 60_000, 0)),
)


class ClosingTests(SynchronousTestCase):
    def setUp(self):
        self.server = Server(rate=20)
        self.counted = []
        count = Session.control_frame

        def control_frame(session):
            self.counted.append(session)
            count(session)

        self.patch(Session, "control_frame", control_frame)

    def ended(self, **labels):
        return self.server.metric("odin_disconnects_total", **labels)

    @settings(max_examples=300, deadline=None)
    @given(st.sampled_from(BROKEN), st.lists(st.integers(1, 90), max_size=20), st.integers(0, 2))
    def test_the_close_frame_is_found(self, broken, cuts, messages):
        """Whatever was wrong, and in whatever pieces it comes: the closing handshake is finished."""
        code, data = broken
        server = Server()
        peer = server.open("/ws", DEFLATE)
        stream = data + frame("more") * messages + CLOSE
        at = 0
        for size in [*cuts, 4096, len(stream)]:
            self.assertIsNone(peer.ended)
            peer.send(stream[at : at + size])
            at += size
            if at >= len(stream):
                break
        self.assertEqual(peer.close_code()[0], code)
        self.assertEqual((peer.ended, peer.protocol.wasClean), ("lost", True))
        peer.lose()
        labels = {"code": str(code), "initiator": "server"}
        self.assertEqual(server.metric("odin_disconnects_total", **labels), 1)

    def test_a_close_frame_that_is_wrong(self):
        """It is answered with its fault, and that is the end."""
        for payload in (b"x", b"\x03\xe7", b"\x03\xed", b"\xff\xff", b"\x03\xe8\xff"):
            peer = self.server.open()
            peer.send(frame(payload, 8))
            self.assertIn(peer.close_code()[0], (1002, 1007), payload)
            self.assertEqual(peer.ended, "lost", payload)
        for data in (frame(b"\x03\xe8", 8, fin=False), frame(b"\x03\xe8" * 63, 8)):
            peer = self.server.open()
            peer.send(data)
            self.assertEqual((peer.close_code()[0], peer.ended), (1002, "lost"))

    def test_we_close_in_the_middle_of_a_frame(self):
        """The rest of that frame is skipped, even if it looks like a close frame."""
        for cut in range(1, 30):
            peer = self.server.open()
            whole = frame(CLOSE * 10, 2)
            peer.send(whole[:cut])
            peer.protocol.close(CloseCode.TOO_SLOW, "slow_consumer")
            peer.send(whole[cut:])
            self.assertIsNone(peer.ended, cut)
            peer.send(frame("x")[:3])
            peer.send(frame("x")[3:] + frame(b"\x03\xe9", 8))
            self.assertEqual((peer.ended, peer.protocol.remoteCloseCode), ("lost", 1001), cut)
            peer.lose()
        self.assertEqual(self.ended(code="4408", initiator="server"), 29)

    def test_nothing_is_counted_or_answered(self):
        """A flood is closed for what was in its bounds, and costs nothing behind that."""
        for flood in (
            frame(b"", 9) * 20_000,
            frame(b"x", 10) * 20_000,
            frame("x" * 500, fin=False) + frame("y" * 500, 0, fin=False) * 500,
        ):
            peer = self.server.open()
            del self.counted[:]
            with mock.patch.object(peer.protocol.__class__, "processData", autospec=True) as parse:
                parse.side_effect = lambda self: super(type(self), self).processData()
                peer.send(*(flood[at : at + 4096] for at in range(0, len(flood), 4096)))
            self.assertEqual(len(self.counted), 10 + 20)  # the burst, and the refusals
            self.assertLess(parse.call_count, 100)
            answers = [opcode for opcode, _ in peer.frames()]
            self.assertEqual(answers[-1], 8)
            self.assertEqual(answers.count(1), 20)
            self.assertIsNone(peer.ended)

    def test_nothing_is_kept(self):
        """What is sent after the end fills no memory, whatever it pretends to be."""
        for before in (PING_OF_A_TERABYTE, MESSAGE_OF_A_GIGABYTE, CORRUPT, b"\x81\x02hi"):
            for after in (b"\0", b"\xff", frame("x" * 100, 0, fin=False), frame(b"", 9)):
                peer = self.server.open("/ws", DEFLATE)
                peer.send(before)
                most = 0
                for _ in range(50):
                    peer.send((after * 4096)[:4096])
                    most = max(most, kept(peer.protocol))
                self.assertLess(most, 1000, (before[:2], after[:2]))

    def test_a_message_that_had_begun_is_forgotten(self):
        """A closing connection holds no part of a message any more, once something comes."""
        peer = self.server.open("/ws", DEFLATE)
        packed = zlib.compressobj(wbits=-15)
        peer.send(frame(packed.compress(b"{" * 60_000) + packed.flush(), rsv=4, fin=False))
        self.assertGreater(kept(peer.protocol), 60_000)
        peer.protocol.close(CloseCode.TOO_SLOW, "slow_consumer")
        peer.send(frame("x", 0))
        self.assertLess(kept(peer.protocol), 1000)
        self.assertIsNone(peer.protocol._perMessageCompress)

    def test_hopeless(self):
        """A client that cannot come to its close frame in time is not read from any more, has its
        5 s to read ours, and is gone then."""
        for data in (PING_OF_A_TERABYTE, MESSAGE_OF_A_GIGABYTE, b"\x81\x02hi" + frame("") * 5000):
            peer = self.server.open()
            peer.send(*(data[at : at + 4096] for at in range(0, len(data), 4096)))
            self.assertFalse(peer.transport.reading)
            self.assertIsNone(peer.ended)
            self.server.advance(6)
            self.assertEqual(peer.ended, "aborted")

    def test_never_answered(self):
        """A client that goes on as if nothing had happened is dropped at the deadline."""
        peer = self.server.open()
        peer.send(frame(b"bin", 2))
        for _ in range(10):
            peer.say(type="ping")
            self.server.advance(0.5)
        self.assertEqual([opcode for opcode, _ in peer.frames()], [8])
        self.server.advance(1)
        self.assertEqual(peer.ended, "aborted")
        peer.lose(clean=False)
        self.assertEqual(self.ended(code="1003", initiator="server"), 1)
