"""permessage-deflate (RFC 7692): taken from clients, and never a way to fill the memory."""

import json
import zlib

from tests.integration.clients import TEXT, Wire, frame
from tests.integration.harness import MEMORY, OdinTestCase

BROWSER = "permessage-deflate; client_max_window_bits"
_COMPRESSED = 4  # RSV1


def deflated(data: bytes) -> bytes:
    """A message as RFC 7692 7.2.1 compresses it."""
    packer = zlib.compressobj(wbits=-15)
    return (packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


def answers_much_at_once(case: OdinTestCase, wire: Wire) -> None:
    """Look whether a server answers 4 KiB that inflate to 1.2 MB, which may compress."""
    long = b'{"type":"ping","id":%d,"data":"' + b"0" * 60_000 + b'"}'
    wire.send(b"".join(frame(TEXT, deflated(long % n), rsv=_COMPRESSED) for n in range(20)))
    case.assertEqual([json.loads(wire.receive()[1])["id"] for _ in range(20)], list(range(20)))
    wire.send(frame(TEXT, b'{"type":"ping","id":20}'))
    case.assertEqual(json.loads(wire.receive()[1])["id"], 20)


class DeflateTests(OdinTestCase):
    """Compression as configured by default."""

    def offering(self, offer: str) -> tuple[Wire, str]:
        """An open WebSocket with this offer, and what the server took of it."""
        wire = self.wire()
        response = wire.upgrade(f"Sec-WebSocket-Extensions: {offer}\r\n")
        self.assertEqual(response.status, 101, offer)
        self.assertEqual(wire.receive()[0], TEXT)
        return wire, response.headers.get("sec-websocket-extensions", "")

    def test_offers(self) -> None:
        """What a browser offers is taken; what cannot be met is declined (RFC 7692 5.1)."""
        taken = (
            BROWSER,
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits=15",
            "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; server_max_window_bits=10; client_max_window_bits",
            f"x-webkit-deflate-frame, {BROWSER}",
            "permessage-deflate; client_max_window_bits=8, permessage-deflate",
        )
        declined = (
            "x-webkit-deflate-frame",
            "permessage-deflate; unknown_parameter",
            "permessage-deflate; unknown_parameter=1",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=x",
            "permessage-deflate; client_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        )
        for offer in taken:
            self.assertIn("permessage-deflate", self.offering(offer)[1], offer)
        for offer in declined:
            self.assertEqual(self.offering(offer)[1], "", offer)

    def test_what_is_asked_of_the_server_is_answered(self) -> None:
        """Parameters for the server's side come back in the answer (RFC 7692 7.1)."""
        for parameter in ("server_no_context_takeover", "server_max_window_bits=10"):
            self.assertIn(parameter, self.offering(f"permessage-deflate; {parameter}")[1])

    def test_unknown_parameter_beside_a_good_offer(self) -> None:
        """An offer that cannot be met does not spoil the one behind it."""
        _wire, answer = self.offering(f"permessage-deflate; unknown_parameter, {BROWSER}")
        self.assertIn("permessage-deflate", answer)

    def test_compressed_messages(self) -> None:
        """Compressed messages are understood, whole and in fragments, beside plain ones."""
        wire, _answer = self.offering(BROWSER)
        text = b'{"type":"ping","nonce":"n"}'
        packed = deflated(text)
        for data in (
            frame(TEXT, packed, rsv=_COMPRESSED),
            frame(TEXT, text),
            frame(TEXT, packed[:5], rsv=_COMPRESSED, fin=False) + frame(0, packed[5:]),
            frame(TEXT, packed, rsv=_COMPRESSED),
        ):
            wire.send(data)
            self.assertEqual(json.loads(wire.receive()[1])["nonce"], "n")

    def test_much_at_once(self) -> None:
        """Messages that inflate to much are all answered in order, in however many turns."""
        wire, _answer = self.offering(BROWSER)
        answers_much_at_once(self, wire)

    def test_library(self) -> None:
        """A client library that compresses everything gets on with us, both ways."""
        client = self.client(compression="deflate")
        self.assertTrue(client.socket.protocol.extensions)
        for n in range(5):
            ping = {"type": "ping", "nonce": f"{n}" * 200}
            self.assertEqual(client.ask(ping)["nonce"], ping["nonce"])
            self.odin.publish("a.b", {"n": n, "x": "y" * 5000})
            self.assertEqual(client.receive()["n"], n)

    def test_bombs(self) -> None:
        """A message that unpacks to more than the limit is 1009, before it is unpacked."""
        before = self.odin.get("/stats").json()["memory"]["resident"]
        for size in (70_000, 1 << 20, 60 << 20):
            wire, _answer = self.offering(BROWSER)
            packed = deflated(b'"' + b"0" * size)
            wire.send(frame(TEXT, packed, rsv=_COMPRESSED))
            self.assertEqual(wire.closed()[0], 1009, size)
        after = self.odin.get("/stats").json()["memory"]["resident"]
        self.assertLess(after - before, 30 << 20)

    def test_bomb_in_fragments(self) -> None:
        """The same when it comes in many small fragments."""
        wire, _answer = self.offering(BROWSER)
        packed = deflated(b"0" * (10 << 20))
        parts = [packed[at : at + 1000] for at in range(0, len(packed), 1000)]
        wire.send(frame(TEXT, parts[0], rsv=_COMPRESSED, fin=False))
        for part in parts[1:]:
            wire.send(frame(0, part, fin=False))
        self.assertEqual(wire.closed()[0], 1009)

    def test_broken(self) -> None:
        """What does not unpack is 1007, or 1002, and the others go on."""
        client = self.client()
        for data in (b"\xff" * 20, b"\x06", deflated(b"{}")[:-1] + b"\xff\xff"):
            wire, _answer = self.offering(BROWSER)
            wire.send(frame(TEXT, data, rsv=_COMPRESSED))
            self.assertIn(wire.closed()[0], (1002, 1007), data)
        wire, _answer = self.offering(BROWSER)
        wire.send(frame(TEXT, deflated(b'"\xff"'), rsv=_COMPRESSED))
        self.assertEqual(wire.closed()[0], 1007)
        self.assertEqual(client.ask({"type": "ping"})["type"], "pong")

    def test_switched_off(self) -> None:
        """enableCompression=false declines every offer."""
        odin = self.start(*MEMORY, WEBSOCKET_ENABLE_COMPRESSION="false")
        response = self.wire(odin).upgrade(f"Sec-WebSocket-Extensions: {BROWSER}\r\n")
        self.assertEqual(response.status, 101)
        self.assertNotIn("sec-websocket-extensions", response.headers)
