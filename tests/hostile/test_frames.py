"""Frames that cost the server more than their sender."""

import json
import time

from tests.hostile.field import SECONDS, TURN, Field
from tests.integration.clients import CLOSE, PING, TEXT, frame

_CONTINUATION = 0
_PING_MESSAGE = frame(TEXT, b'{"type":"ping"}')


class FrameAttacks(Field):
    """One anonymous client that breaks RFC 6455, or uses all of it."""

    def test_ping_flood(self) -> None:
        """120 KB of ping frames cost no more than finding their end (A2)."""
        with self.attack("A2 20,000 ping frames", cost=3000, turn=TURN, peak_mb=4):
            self.opened().pour(frame(PING) * 20_000)

    def test_ping_flood_goes_on(self) -> None:
        """What comes behind the limit, until the connection ends, is not counted one by one (A2)."""
        with self.attack("A2 ping frames without end", cost=9000 * SECONDS, turn=TURN, peak_mb=4):
            self.opened().pour(frame(PING) * 500_000, SECONDS)

    def test_endless_ping(self) -> None:
        """The payload of a control frame that is too long is not kept (A4)."""
        with self.attack("A4 a ping of 2^40 bytes", peak_mb=4, turn=TURN):
            client = self.opened()
            client.send(frame(PING, length=1 << 40))
            client.pour(bytes(64 << 20))

    def test_corrupt_deflate(self) -> None:
        """What follows data that does not inflate is neither kept nor parsed again (A20)."""
        with self.attack("A20 4 MB behind corrupt deflate", cost=5000, turn=TURN, peak_mb=4):
            client = self.hostile()
            client.open("?channels=none", "Sec-WebSocket-Extensions: permessage-deflate\r\n")
            client.send(frame(TEXT, b"\xff" * 64, rsv=4))
            client.pour(_PING_MESSAGE * 200_000)

    def test_corrupt_deflate_is_closed(self) -> None:
        """Behind it the client's close frame is found, and ends the connection at once (A20)."""
        with self.attack("A20 the close after corrupt deflate"):
            first, second = self.hostile(), self.hostile()
            for each in (first, second):
                each.open("?channels=none", "Sec-WebSocket-Extensions: permessage-deflate\r\n")
            for each in (first, second):  # the first says nothing, and is dropped at the deadline
                each.send(frame(TEXT, b"\xff" * 64, rsv=4))
                self.assertEqual(each.closed()[0], 1007)
            closing = time.monotonic()
            second.send(frame(CLOSE, (1007).to_bytes(2, "big")))
            self.assertTrue(second.ended())
            took_s = time.monotonic() - closing
            self.assertTrue(first.ended())
            self.assertLess(took_s, (time.monotonic() - closing) / 2)

    def test_first_fragment(self) -> None:
        """A fragment in one segment with the handshake is the beginning of its message (A15)."""
        with self.attack("A15 a fragment behind the handshake"):
            client = self.hostile()
            client.open_with(frame(TEXT, b'{"type":"pi', fin=False))
            time.sleep(0.1)
            client.send(frame(_CONTINUATION, b'ng"}'))
            answer = client.message()
            self.assertIsNotNone(answer, "closed")
            self.assertEqual(answer["type"], "pong")

    def test_fragments(self) -> None:
        """Messages in the smallest fragments cost no more than what is allowed (A29)."""
        text = b'{"type":"ping","nonce":"%b"}' % (b"n" * 65_000)
        parts = [text[at : at + 16] for at in range(0, len(text), 16)]
        message = frame(TEXT, parts[0], fin=False) + b"".join(
            frame(_CONTINUATION, part, fin=part is parts[-1]) for part in parts[1:]
        )
        with self.attack("A29 fragments of 16 bytes", cost=4000, turn=TURN, peak_mb=4):
            self.opened().pour(message * 60)

    def test_fragments_behind_close(self) -> None:
        """Behind a close frame of the server's nothing is put together (A29)."""
        parts = frame(TEXT, b"x", fin=False) + frame(_CONTINUATION, b"x" * 16, fin=False) * 4000
        with self.attack("A29 fragments behind a close", cost=5000, turn=TURN, peak_mb=4):
            client = self.opened()
            client.send(frame(TEXT, b"x") * 5)
            self.assertEqual(client.closed()[0], 1008)
            client.pour((parts + frame(_CONTINUATION)) * 40)

    def test_long_id(self) -> None:
        """An `id` with more digits than Python reads is still JSON (A38)."""
        with self.attack("A38 ids of 5,000 digits"):
            client = self.opened()
            for _ in range(6):
                client.send(frame(TEXT, b'{"type":"ping","id":' + b"9" * 5000 + b"}"))
                answer = client.message()
                self.assertIsNotNone(answer, "closed: a sixth one is too many")
                self.assertNotIn("id", answer)
                self.assertLess(len(json.dumps(answer)), 500)
