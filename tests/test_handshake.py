"""Request heads, good and bad."""

from twisted.trial.unittest import SynchronousTestCase

from odin.errors import HandshakeRefused
from odin.gateway import handshake as h
from tests.connections import head


class HandshakeTests(SynchronousTestCase):
    def check(self, data):
        end = data.find(h.END)
        h.check_sizes(data, end + 4 if end >= 0 else -1)
        return h.check_upgrade(h.parse_head(data))

    def test_good(self):
        """Case, spaces and lists are as free as RFC 9110 has them."""
        for old, new in (
            (b"Upgrade: websocket", b"UPGRADE:   WebSocket "),
            (b"Connection: Upgrade", b"connection: keep-alive, upgrade"),
            (b"Host: localhost", b"Host: localhost\r\nX-Name: caf\xe9\x9f\tx"),
            (b"Host: localhost", b"Host: localhost\r\nContent-Length: 0"),
        ):
            key = self.check(head().replace(old, new))
            self.assertEqual(key, "dGhlIHNhbXBsZSBub25jZQ==")

    def test_bad(self):
        """What a proxy could read in another way is refused."""
        for status, old, new in (
            (400, b"GET /ws HTTP/1.1", b"GET  /ws HTTP/1.1"),
            (400, b"GET /ws HTTP/1.1", b"GET http://x/ws HTTP/1.1"),
            (400, b"GET /ws HTTP/1.1", b"GET /ws\x00 HTTP/1.1"),
            (400, b"GET /ws HTTP/1.1", b"GET /w\xc3\xa9 HTTP/1.1"),
            (400, b"GET /ws HTTP/1.1", b"GET /ws#x HTTP/1.1"),
            (400, b"GET /ws HTTP/1.1", b"GET /ws\tx HTTP/1.1"),
            (400, b"Host: localhost", b"Host: a\r\nHost: b"),
            (400, b"Host: localhost", b"Host : localhost"),
            (400, b"Host: localhost", b"Host: localhost\r\n folded"),
            (400, b"Host: localhost", b"Host: localhost\r\nnonsense"),
            (400, b"Host: localhost", b"Host: localhost\r\nX: a\x0bb"),
            (400, b"Host: localhost", b"Host: localhost\r\nX: a\nb"),
            (400, b"Host: localhost", b"X: y"),
            (400, b"Host: localhost", b"Host: localhost\r\nContent-Length: 5"),
            (400, b"Host: localhost", b"Host: localhost\r\nTransfer-Encoding: chunked"),
            (400, b"Connection: Upgrade", b"Connection: close"),
            (400, b"dGhlIHNhbXBsZSBub25jZQ==", b""),
            (400, b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZSBub25j"),
            (400, b"dGhlIHNhbXBsZSBub25jZQ==", b"!!!lIHNhbXBsZSBub25jZQ=="),
            (405, b"GET", b"PUT"), (405, b"GET", b"HEAD"),
            (426, b"Version: 13", b"Version: 12"), (426, b"Sec-WebSocket-Version: 13\r\n", b""),
            (426, b"Version: 13", b"Version: x"),
            (505, b"HTTP/1.1", b"HTTP/1.0"), (505, b"HTTP/1.1", b"HTTP/2.0"),
            (431, b"Host: localhost", b"Host: localhost\r\nX: " + b"y" * 9000),
            (431, b"Host: localhost", b"Host: localhost" + b"\r\nX: y" * 200),
            (414, b"/ws", b"/" + b"x" * 8200), (414, b"/ws", b"/" + b"x" * 9000),
        ):  # fmt: skip
            data = head().replace(old, new)
            self.assertNotEqual(data, head())
            error = self.assertRaises(HandshakeRefused, self.check, data)
            self.assertEqual(error.status, status, (new[:40], error))

    def test_growing(self):
        """A head that grows without end is refused while it grows."""
        error = self.assertRaises(HandshakeRefused, h.check_sizes, b"GET /" + b"x" * 9000, -1)
        self.assertEqual(error.status, 414)
        data = b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 3000
        error = self.assertRaises(HandshakeRefused, h.check_sizes, data, -1)
        self.assertEqual(error.status, 431)

    def test_tokens(self):
        """The token comes by header, subprotocol or query, in this order."""
        for lines, path, token in (
            ((), "/ws", None), ((), "/ws?token=q", "q"),
            (("Authorization: Bearer h",), "/ws?token=q", "h"),
            (("Authorization: Basic h",), "/ws", None),
            (("Sec-WebSocket-Protocol: odin.v1, odin.bearer.s",), "/ws?token=q", "s"),
        ):  # fmt: skip
            self.assertEqual(h.token_of(h.parse_head(head(path, *lines))), token)

    def test_channels(self):
        """?channels=a,b, once or more often."""
        for path, channels in (
            ("/ws", None), ("/ws?channels=a,b", ["a", "b"]),
            ("/ws?channels=", []), ("/ws?channels", []), ("/ws?channels=,", []),
            ("/ws?channels=&channels=a", ["a"]), ("/ws?token=", None),
            ("/ws?channels=a&channels=b.*", ["a", "b.*"]),
        ):  # fmt: skip
            self.assertEqual(h.channels_of(h.parse_head(head(path))), channels)
