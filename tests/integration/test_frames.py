"""Frames that break RFC 6455: each ends its connection with the right close code."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

from websockets.exceptions import ConnectionClosed

from tests.integration.clients import BINARY, CLOSE, HANDSHAKE, PING, PONG, TEXT, Wire, frame
from tests.integration.harness import MEMORY, OdinTestCase, eventually

CONTINUATION = 0
_PING = frame(TEXT, b'{"type":"ping"}')
_LIMIT = 65_536

# FAULTS rows 15 to 18: what is sent, and the codes it may end with
_BROKEN = {
    "unmasked": (frame(TEXT, b"{}", masked=False), (1002,)),
    "unmasked ping": (frame(PING, masked=False), (1002,)),
    "RSV1 without an extension": (frame(TEXT, b"{}", rsv=4), (1002,)),
    "RSV2": (frame(TEXT, b"{}", rsv=2), (1002,)),
    "RSV3": (frame(TEXT, b"{}", rsv=1), (1002,)),
    "RSV on a ping": (frame(PING, rsv=4), (1002,)),
    **{f"opcode {n}": (frame(n, b"x"), (1002,)) for n in (3, 7, 11, 15)},
    "a fragmented ping": (frame(PING, b"x", fin=False), (1002,)),
    "a fragmented close": (frame(CLOSE, fin=False), (1002,)),
    "a ping of 126 bytes": (frame(PING, b"x" * 126), (1002,)),
    "a pong of 126 bytes": (frame(PONG, b"x" * 126), (1002,)),
    "a close of 126 bytes": (frame(CLOSE, b"\x03\xe8" + b"x" * 124), (1002,)),
    "a continuation of nothing": (frame(CONTINUATION, b"x"), (1002,)),
    "a message within a message": (frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"), (1002,)),
    "a length in a longer form": (b"\x81\xfe\x00\x02" + bytes(4) + b"{}", (1002,)),
    "a length in the longest form": (b"\x81\xff" + bytes(7) + b"\x02" + bytes(4) + b"{}", (1002,)),
    "a close of one byte": (frame(CLOSE, b"x"), (1002,)),
    **{
        f"close code {code}": (frame(CLOSE, code.to_bytes(2, "big")), (1002,))
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    },
    "no UTF-8": (frame(TEXT, b'"\xff"'), (1007,)),
    "a surrogate": (frame(TEXT, b'"\xed\xa0\x80"'), (1007,)),
    "an overlong slash": (frame(TEXT, b'"\xc0\xaf"'), (1007,)),
    "above U+10FFFF": (frame(TEXT, b'"\xf4\x90\x80\x80"'), (1007,)),
    "an unfinished character": (frame(TEXT, b'"\xe2\x82'), (1007,)),
    "no UTF-8, in fragments": (
        frame(TEXT, b'"\xe2\x82', fin=False) + frame(CONTINUATION, b'\xff"'), (1007,)
    ),
    "no UTF-8, in a first fragment": (frame(TEXT, b"\xff", fin=False), (1007,)),
    "no UTF-8 in a close": (frame(CLOSE, b"\x03\xe8\xff"), (1002, 1007)),
    "binary": (frame(BINARY, b"{}"), (1003,)),
    "empty binary": (frame(BINARY), (1003,)),
    "binary, in fragments": (
        frame(BINARY, b"{", fin=False) + frame(CONTINUATION, b"}"), (1003,)
    ),
    "a message one byte too big": (frame(TEXT, b"x" * (_LIMIT + 1)), (1009,)),
    "a length of 1 GB": (frame(TEXT, length=1 << 30), (1009,)),
    "a length of 2^63 - 1": (frame(TEXT, length=(1 << 63) - 1), (1009,)),
    "a length of 2^63": (frame(TEXT, length=1 << 63), (1002, 1009)),
    "fragments without end": (
        frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"y" * 4096, fin=False) * 17, (1009,)
    ),
    "a nonce of 1 MB": (frame(TEXT, b'{"type":"ping","nonce":"%b"}' % (b"n" * 1_000_000)), (1009,)),
    "a channel of 1 MB": (
        frame(TEXT, b'{"type":"subscribe","data":{"channels":["%b"]}}' % (b"c" * 1_000_000)),
        (1009,),
    ),
}  # fmt: skip


class BrokenFrameTests(OdinTestCase):
    """A server with nothing but these clients, and one that watches."""

    def test_close_codes(self) -> None:
        """Each ends with its close code and a machine word, in every position."""
        for name, (data, codes) in _BROKEN.items():
            for before in (b"", _PING):  # behind a good frame it takes another way through
                wire = self.websocket()
                wire.send(before + data)
                code, reason = wire.closed()
                self.assertIn(code, codes, (name, bool(before)))
                self.assertRegex(reason, "^[a-z_]+(: .+)?$", name)
                wire.close()
        eventually(lambda: self.odin.clients() == 0, "the end of all connections")

    def test_byte_by_byte(self) -> None:
        """The pieces that a frame arrives in make no difference."""
        for name in ("unmasked", "no UTF-8", "binary", "RSV2", "a message within a message"):
            data, codes = _BROKEN[name]
            wire = self.websocket()
            for position in range(len(data)):
                wire.send(data[position : position + 1])
            self.assertIn(wire.closed()[0], codes, name)

    def test_good_frames(self) -> None:
        """All that the RFC allows is understood."""
        text = '{"type":"ping","nonce":"é€😀"}'.encode()
        cases = {
            "whole": frame(TEXT, text),
            "fragments": b"".join(
                frame(CONTINUATION if n else TEXT, text[n : n + 1], fin=n == len(text) - 1)
                for n in range(len(text))
            ),
            "a ping in the middle": frame(TEXT, text[:5], fin=False)
            + frame(PONG, b"unasked")
            + frame(CONTINUATION, text[5:]),
            "empty fragments": frame(TEXT, b"", fin=False)
            + frame(CONTINUATION, text, fin=False)
            + frame(CONTINUATION),
            "of the largest size": frame(TEXT, text[:-1] + b" " * (_LIMIT - len(text)) + b"}"),
            "two in one segment": frame(TEXT, text) + frame(TEXT, text),
        }
        for name, data in cases.items():
            wire = self.websocket()
            wire.send(data)
            opcode, reply = wire.receive()
            self.assertEqual(opcode, TEXT, name)
            self.assertIn('"nonce":"é€😀"', reply.decode(), name)

    def test_behind_the_handshake(self) -> None:
        """A first fragment may come with the handshake, and the rest of its message later."""
        wire = self.wire()
        wire.send(HANDSHAKE + "\r\n" + frame(TEXT, b'{"type":"pi', fin=False).decode("latin-1"))
        self.assertEqual(wire.response().status, 101)
        self.assertEqual(wire.receive()[0], TEXT)
        wire.send(frame(CONTINUATION, b'ng","id":5}'))
        self.assertEqual(json.loads(wire.receive()[1])["id"], 5)

    def test_ping_frames(self) -> None:
        """A ping is answered with its payload."""
        wire = self.websocket()
        for payload in (b"", b"x" * 125, b"\xff\x00"):
            wire.send(frame(PING, payload))
            self.assertEqual(wire.receive(), (PONG, payload))

    def test_client_closes(self) -> None:
        """A close frame is answered with its code, and the connection ends."""
        for sent, answered in ((b"\x03\xe8bye", 1000), (b"\x0f\xa0", 4000), (b"", 1005)):
            wire = self.websocket()
            wire.send(frame(CLOSE, sent) + _PING)  # nothing counts behind a close frame
            self.assertIn(wire.closed()[0], (answered, 1000))
            self.assertTrue(wire.ended())

    def test_vanished(self) -> None:
        """Clients that reset, or end without a close frame, are counted and forgotten."""
        name = 'odin_disconnects_total{code="1006",initiator="client"}'
        eventually(lambda: self.odin.clients() == 0, "an empty server")
        before = self.odin.metric(name)
        for data in (b"", frame(TEXT, b"x", fin=False), frame(TEXT, length=100)):
            wire = self.websocket()
            wire.send(data)
            wire.close()
        eventually(lambda: self.odin.metric(name) == before + 3, "three lost connections")
        self.assertEqual(self.odin.clients(), 0)

    def test_others_notice_nothing(self) -> None:
        """While others break every rule, a good client loses nothing."""
        client = self.client()
        for n, (data, _codes) in enumerate(_BROKEN.values()):
            self.websocket().send(data)
            self.odin.publish("a.b", {"n": n})
        self.assertEqual([client.receive()["n"] for _ in _BROKEN], list(range(len(_BROKEN))))


class FloodTests(OdinTestCase):
    """FAULTS row 20, with a small rate limit."""

    environment = {"LIMITS_MESSAGES_PER_SECOND": "1", "LIMITS_MESSAGE_BURST": "5"}

    def test_floods(self) -> None:
        """Whatever a client floods with counts in its rate limit, and ends with 4429."""
        fragment = frame(CONTINUATION, fin=False)
        floods = {
            "messages": _PING * 60,
            "no JSON": frame(TEXT, b"x") * 60,
            "ping frames": frame(PING) * 60,
            "pong frames": frame(PONG) * 60,
            "pong frames with payload": frame(PONG, b"x") * 60,
            "empty fragments": frame(TEXT, fin=False) + fragment * 60,
            "empty messages": frame(TEXT) * 60,
        }
        for name, data in floods.items():
            wire = self.websocket()
            wire.send(data)
            self.assertIn(wire.closed()[0], (4429, 1008), name)

    def test_close_flood(self) -> None:
        """Only the first close frame counts."""
        wire = self.websocket()
        wire.send(frame(CLOSE, b"\x03\xe8") * 1000)
        self.assertEqual(wire.closed()[0], 1000)
        self.assertTrue(wire.ended())

    def test_told_before(self) -> None:
        """Over the limit a request is refused with the time to wait, and is not served."""
        wire = self.websocket()
        wire.send(b"".join(frame(TEXT, b'{"type":"ping","id":%d}' % n) for n in range(8)))
        replies = [json.loads(wire.receive()[1]) for _ in range(8)]
        self.assertEqual([each["type"] for each in replies], ["pong"] * 5 + ["error"] * 3)
        error = replies[-1]
        self.assertEqual((error["code"], error["id"]), ("rate_limited", 7))
        self.assertTrue(0 < error["retryAfterMs"] <= 1000)

        def answered() -> bool:
            time.sleep(0.3)
            wire.send(_PING)
            return bool(json.loads(wire.receive()[1])["type"] == "pong")

        eventually(answered, "service after the pause")

    def test_feed_is_not_limited(self) -> None:
        """The limit is for what a client sends, not for what it gets."""
        client = self.client()
        for n in range(50):
            self.odin.publish("a.b", {"n": n})
        self.assertEqual([client.receive()["n"] for _ in range(50)], list(range(50)))


class AfterTheEndTests(OdinTestCase):
    """What comes behind our close frame, with the default limits."""

    def offering(self) -> Wire:
        """An open WebSocket that may compress."""
        wire = self.wire()
        response = wire.upgrade("Sec-WebSocket-Extensions: permessage-deflate\r\n")
        self.assertIn("permessage-deflate", response.headers["sec-websocket-extensions"])
        self.assertEqual(wire.receive()[0], TEXT)
        return wire

    def test_closing_handshake(self) -> None:
        """Whatever was wrong: a client that answers our close frame is let go without a reset."""
        broken = {
            name: data
            for name, (data, _) in _BROKEN.items()
            if "close" not in name and "length of" not in name
        }
        broken["corrupt deflate"] = frame(TEXT, b"\xff" * 64, rsv=4)
        for name, data in broken.items():
            wire = self.offering()
            wire.send(data)
            self.assertNotEqual(wire.closed()[0], 1006, name)
            wire.send(frame(CLOSE, b"\x03\xe8"))
            self.assertEqual(wire.socket.recv(1), b"", name)
            wire.close()

    def test_memory(self) -> None:
        """A client that sends on and on fills no memory, whatever it pretends to send."""
        client = self.client()
        before = self.odin.peak()
        endless = [self.offering() for _ in range(6)]
        for wire, data in zip(
            endless,
            (
                frame(PING, length=1 << 40),
                frame(CLOSE, length=1 << 40),
                frame(TEXT, length=1 << 40),
                frame(TEXT, b"\xff" * 64, rsv=4) + frame(BINARY, length=1 << 40),
                frame(TEXT, masked=False) + frame(BINARY, bytes(100), fin=False) * 10_000,
                frame(PING) * 10_000,
            ),
            strict=True,
        ):
            wire.send(data)
            self.assertIn(wire.closed()[0], (1002, 1007, 1009, 4429), data[:12])
        with ThreadPoolExecutor(len(endless)) as pool:
            for _ in pool.map(lambda wire: wire.send(bytes(30 << 20)), endless):
                pass  # until the deadline
        self.assertLess(self.odin.peak() - before, 10 << 20)
        self.assertEqual(client.ask({"type": "ping"})["type"], "pong")

    def test_a_flood_of_pings(self) -> None:
        """What is over the limit is not answered any more, and nothing behind the close frame."""
        wire = self.websocket()
        wire.send(frame(PING) * 3000 + frame(CLOSE, b"\x03\xe8"))
        opcodes = []
        while (received := wire.receive())[0] != CLOSE:
            opcodes.append(received[0])
        self.assertEqual(int.from_bytes(received[1][:2]), 4429)
        self.assertLess(opcodes.count(PONG), 200)
        self.assertLessEqual(opcodes.count(TEXT), 20)
        self.assertEqual(wire.receive()[0], -1)
        eventually(lambda: self.odin.clients() == 0, "the end of the connection")


class AliveTests(OdinTestCase):
    """Pings from the server, in a hurry, but with time to answer on a busy machine."""

    environment = {"WEBSOCKET_PING_INTERVAL": "0.5", "WEBSOCKET_PONG_TIMEOUT": "2"}

    def test_alive(self) -> None:
        """A client that answers stays, and any traffic is an answer."""
        wire, client = self.websocket(), self.client()
        for _ in range(2):
            while wire.receive()[0] != PING:
                pass
            wire.send(_PING)
        wire.send(frame(PONG))
        self.assertEqual(client.ask({"type": "ping"})["type"], "pong")


class KeepaliveTests(OdinTestCase):
    """Pings from the server, in a hurry."""

    environment = {"WEBSOCKET_PING_INTERVAL": "0.5", "WEBSOCKET_PONG_TIMEOUT": "0.5"}

    def test_dead(self) -> None:
        """A client that is silent is dropped after pongTimeout."""
        name = 'odin_disconnects_total{code="1006",initiator="server"}'
        before = self.odin.metric(name)
        wire = self.websocket()
        self.assertEqual(wire.receive()[0], PING)
        self.assertTrue(wire.ended())
        self.assertEqual(self.odin.metric(name), before + 1)

    def test_close_without_answer(self) -> None:
        """A client that never answers the close frame is dropped all the same."""
        wire = self.websocket()
        wire.send(frame(BINARY))
        self.assertEqual(wire.closed()[0], 1003)
        eventually(lambda: self.odin.clients() == 0, "the end of the connection")
        with self.assertRaises((ConnectionClosed, OSError)):
            while True:
                wire.socket.sendall(_PING)
                time.sleep(0.02)


class EchoTests(OdinTestCase):
    """/echo, which has no rate limit."""

    options = (*MEMORY, "--echo")

    def test_a_client_that_does_not_read(self) -> None:
        """It is not read from, and what waits for it is little; all is there once it reads."""
        wire = self.wire(receive_buffer=1 << 16)
        wire.send(HANDSHAKE.replace("{path}", "/echo") + "\r\n")
        self.assertEqual(wire.response().status, 101)
        before = self.odin.peak()
        count, message = 400, frame(BINARY, b"x" * 100_000)
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(wire.send, message * count)
            with self.assertRaises(TimeoutError):
                sending.result(2)
            self.assertLess(self.odin.peak() - before, 10 << 20)
            for _ in range(count):
                self.assertEqual(wire.receive(), (BINARY, b"x" * 100_000))
            sending.result()
