"""The resting state and the lane: the same answers as Autobahn's parser, with nothing kept."""

import dis
import gc
import sys
import zlib

from autobahn.websocket.protocol import WebSocketProtocol
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from odin.gateway.resting import RestingProtocol, _unmasked
from odin.wire.codes import CloseCode
from tests.connections import Server, frame


def kept(protocol):
    """How many bytes of what arrived a connection holds, with what holds them."""
    size, seen, left = 0, set(), list(protocol.__dict__.values())
    while left:
        value = left.pop()
        if id(value) not in seen and isinstance(value, bytes | bytearray | list | tuple | dict):
            seen.add(id(value))
            size += sys.getsizeof(value)
            left += gc.get_referents(value)
    return size


def deflated(data):
    """A compressed message, in one frame."""
    packer = zlib.compressobj(wbits=-15)
    return frame((packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4], rsv=4)


class RestingTests(SynchronousTestCase):
    def setUp(self):
        self.server = Server()

    def test_open_connection_holds_nothing(self):
        """After the handshake, and after a message, the instance dictionary is empty."""
        peer = self.server.open()
        self.assertEqual(peer.protocol.__dict__, {})
        peer.say(type="ping")
        self.assertEqual(peer.protocol.__dict__, {})

    def test_rests_again_after_the_parser(self):
        """After fragments, binary-safe control frames and split reads it rests again."""
        peer = self.server.open()
        whole = frame('{"type":"ping","id":1}')
        peer.send(whole[:3], whole[3:9], whole[9:])
        peer.send(frame('{"type":"pi', 1, fin=False), frame('ng","id":2}', 0))
        peer.send(frame(b"hey", 9))
        got = peer.frames()
        self.assertEqual([opcode for opcode, _ in got], [1, 1, 10])
        self.assertEqual(peer.protocol.__dict__, {})

    def test_partial_frame_is_kept(self):
        """Half a frame waits for its other half."""
        peer = self.server.open()
        whole = frame('{"type":"ping","id":7}')
        peer.send(whole[:10])
        self.assertEqual(peer.messages(), [])
        peer.send(whole[10:] + frame('{"type":"ping","id":8}'))
        self.assertEqual([each["id"] for each in peer.messages()], [7, 8])

    def test_several_frames_in_a_read(self):
        """Whole frames in one read are all answered, in order, whatever is between them."""
        peer = self.server.open()
        parts = [frame(f'{{"type":"ping","id":{n}}}') for n in range(5)]
        parts.insert(2, frame(b"", 10))
        parts.insert(4, frame(b"x", 9))
        peer.send(b"".join(parts))
        ids = [each["id"] for each in peer.messages()]
        self.assertEqual(ids, [0, 1, 2, 3, 4])

    def test_nothing_after_the_close_frame(self):
        """A message in the same read as a close frame, behind it, is not answered."""
        peer = self.server.open()
        peer.send(frame(b"\x03\xe8", 8) + frame('{"type":"ping"}'))
        self.assertEqual([opcode for opcode, _ in peer.frames()], [8])

    def test_after_the_end(self):
        """A lost connection is closed for everybody, and holds nothing."""
        peer = self.server.open()
        peer.lose()
        self.assertEqual(peer.protocol.__dict__, {"state": WebSocketProtocol.STATE_CLOSED})
        self.assertIsNone(peer.protocol.transport)
        self.assertIsNone(peer.protocol.session)

    def test_compressed_messages_leave_no_zlib_state(self):
        """A client may compress; at rest no inflate window is held for it."""
        offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
        peer = self.server.open("/ws", offer)
        for n in range(2):
            peer.send(deflated(b'{"type":"ping","id":%d}' % n))
            self.assertEqual([each["id"] for each in peer.messages()], [n])
        self.assertIsNone(peer.protocol._perMessageCompress._decompressor)
        self.assertEqual(peer.protocol.__dict__, {})

    def test_half_a_message_is_one_buffer(self):
        """However small the pieces are that a message comes in, it takes no more than itself."""
        peer = self.server.open()
        whole = frame("x" * 60_000)
        peer.send(*(whole[at : at + 3] for at in range(0, 50_000, 3)))
        self.assertLess(kept(peer.protocol), 60_000)

    def test_class_answers_for_autobahn(self):
        """Every name that Autobahn sets on an instance has its open value on the class."""
        code = dis.get_instructions(WebSocketProtocol._connectionMade)
        made = {each.argval for each in code if each.opname == "STORE_ATTR"}
        self.assertIn("wasClean", made)
        for name in made - {"serverConnectionDropTimeoutCall"}:  # the client's
            self.assertTrue(hasattr(RestingProtocol, name), name)

    def test_private_names(self):
        """What the resting protocol calls and overrides in Autobahn is there."""
        for name in (
            "_dataReceived", "_connectionLost", "_fail_connection", "_parseExtensionsHeader",
            "succeedHandshake", "failHandshake", "sendData", "sendCloseFrame", "dropConnection",
            "onMessageFrameBegin", "sendPong", "consumeData", "_onOpen", "unregisterProducer",
            "processData", "onCloseFrame", "_protocol_violation", "_invalid_payload",
            "onMessageBegin", "onMessageFrameData", "onMessageFrameEnd", "onMessageEnd",
        ):  # fmt: skip
            self.assertTrue(hasattr(RestingProtocol.__mro__[1], name), name)

    @settings(max_examples=60, deadline=None)
    @given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
    def test_unmasking(self, payload, mask):
        """Unmasking at once is XOR byte by byte (RFC 6455 5.3)."""
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        self.assertEqual(_unmasked(mask, masked, len(masked)), payload)


class TurnsTests(SynchronousTestCase):
    """What inflates to much is served in several turns."""

    LONG = b'{"type":"ping","id":%d,"data":"' + b"0" * 60_000 + b'"}'

    def setUp(self):
        self.server = Server()
        offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
        self.peer = self.server.open("/ws", offer)
        self.read = b"".join(deflated(self.LONG % n) for n in range(20))

    def ids(self):
        return [each["id"] for each in self.peer.messages()]

    def test_one_after_the_other(self):
        """A turn serves a few, and nothing is read meanwhile; all are served, in order."""
        self.assertLess(len(self.read), 4096)
        self.peer.protocol.dataReceived(self.read)
        served, turns = self.ids(), 1
        self.assertLess(len(served), 4)
        while not self.peer.transport.reading:
            self.assertLess(len(served), 4 * turns)
            for _ in range(len(self.server.soon)):
                self.server.soon.pop(0)()
            served += self.ids()
            turns += 1
        self.assertEqual(served, list(range(20)))
        self.assertTrue(self.peer.protocol.at_rest)

    def test_more_comes_meanwhile(self):
        """TLS may deliver although nothing is read: it waits behind the others."""
        self.peer.protocol.dataReceived(self.read)
        for _ in range(2):
            self.peer.protocol.dataReceived(frame('{"type":"ping","id":20}'))
        self.server.turn()
        self.assertEqual(self.ids(), [*range(20), 20, 20])

    def test_the_end_meanwhile(self):
        """Who is closed or gone is not served any more; the close frame behind it all is seen."""
        self.peer.protocol.dataReceived(self.read + frame(b"\x03\xe8", 8))
        self.assertLess(len(self.ids()), 5)
        self.peer.protocol.close(CloseCode.GOING_AWAY, "going_away")
        self.server.turn()
        self.assertEqual([opcode for opcode, _ in self.peer.frames()], [8])
        self.assertEqual(self.peer.ended, "lost")
        self.setUp()
        self.peer.protocol.dataReceived(self.read)
        self.peer.lose()
        self.assertLess(len(self.ids()), 5)
        self.server.turn()
        self.assertEqual(self.ids(), [])


class LaneAgainstParserTests(SynchronousTestCase):
    """The lane changes no answer: the same bytes, cut in any way, get the same replies."""

    POOL = (
        frame('{"type":"ping","id":1}'),
        frame('{"type":"ping","id":"\u00e9\u20ac"}'),
        frame(""),
        frame("x" * 126),
        frame('{"type":"subscriptions"}', fin=False) + frame("", 0),
        frame(b"p", 9),
        frame(b"", 10),
        frame(b"\xff\xfe"),
        frame(b"bin", 2),
        frame("rsv", rsv=2),
        b"\x81\xfe\x00\x05" + b"\0\0\0\0hello",
        b"\x81\x05hello",
        frame("z" * 70_000),
        frame(b"\x03\xe9bye", 8),
    )

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.sampled_from(POOL), max_size=6), st.lists(st.integers(1, 40), max_size=20))
    def test_cut_anywhere(self, parts, cuts):
        """One read of everything, or many small ones: the same frames come back."""
        stream = b"".join(parts)
        pieces, at = [], 0
        for size in cuts:
            pieces.append(stream[at : at + size])
            at += size
        pieces.append(stream[at:])
        answers = []
        for reads in ([stream], [each for each in pieces if each], _bytes_of(stream[:400])):
            if reads and b"".join(reads) != stream:
                continue
            peer = Server().open()
            peer.send(*reads)
            answers.append(peer.frames())
        self.assertTrue(all(each == answers[0] for each in answers), answers)


def _bytes_of(stream):
    return [stream[i : i + 1] for i in range(len(stream))]
