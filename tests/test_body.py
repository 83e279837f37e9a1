"""The bodies of plain requests, good and bad, in any pieces."""

from twisted.trial.unittest import SynchronousTestCase

from odin.errors import HandshakeRefused
from odin.gateway.body import Body

GOOD = (
    (0, b"", b""), (3, b"abc", b"abc"), (100, b"x" * 100, b"x" * 100),
    (None, b"0\r\n\r\n", b""), (None, b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
    (None, b"000003\r\nabc\r\n000\r\n\r\n", b"abc"), (None, b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    (None, b"1\r\na\r\n2\r\n\r\n\r\n0\r\n\r\n", b"a\r\n"),
    (None, b"1;x=y\r\na\r\n1 ; z=\"q\"\r\nb\r\n0;last\r\n\r\n", b"ab"),
    (None, b"1\r\na\r\n0\r\nX-Sum: 1\r\nY: caf\xe9\r\n\r\n", b"a"),
    (None, b"64\r\n" + b"x" * 100 + b"\r\n0\r\n\r\n", b"x" * 100),
)  # fmt: skip
BAD = (
    (400, b"\r\n"), (400, b"x\r\n"), (400, b"-1\r\n"), (400, b"+1\r\n"), (400, b"0x1\r\n"),
    (400, b" 1\r\na\r\n"), (400, b"1 \r\na\r\n"), (400, b"1\na\r\n0\r\n\r\n"), (400, b"123456789\r\n"),
    (400, b"1\r\nab\r\n"), (400, b"1\r\na\n0\r\n\r\n"), (400, b"1;x\x00\r\na\r\n"), (400, b"1;x\ny\r\na\r\n"),
    (400, b"1;" + b"x" * 300 + b"\r\n"), (400, b"1;" + b"x" * 300), (400, b"\xb2\r\naa\r\n"),
    (400, b"0\r\nno colon\r\n\r\n"), (400, b"0\r\n: y\r\n\r\n"), (400, b"0\r\nX: a\x0bb\r\n\r\n"),
    (400, b"0\r\n" + b"X: y\r\n" * 17), (400, b"0\r\n folded: y\r\n\r\n"),
    (413, b"65\r\n"), (413, b"64\r\n" + b"x" * 100 + b"\r\n1\r\n"), (413, b"ffffffff\r\n"),
)  # fmt: skip


class BodyTests(SynchronousTestCase):
    def test_good(self):
        """A body is what it says, and what comes behind it is left alone, however it is cut."""
        for length, wire, content in GOOD:
            for size in (1, 2, 3, 7, 1000):
                body, data, rest = Body(length, 100), wire + b"GET", None
                for at in range(0, max(len(wire), 1), size):
                    self.assertIsNone(rest, wire)
                    piece = data[at : at + size] if at + size < len(wire) else data[at:]
                    rest = body.take(piece)
                self.assertEqual((body.content, rest), (content, b"GET"), (wire, size))

    def test_bad(self):
        """What two servers could read in two ways is refused; too much before it is kept."""
        for status, wire in BAD:
            for size in (1, 1000):
                body = Body(None, 100)
                with self.assertRaises(HandshakeRefused) as caught:
                    for at in range(0, len(wire), size):
                        body.take(wire[at : at + size])
                self.assertEqual(caught.exception.status, status, wire)

    def test_announced(self):
        """A length over the limit is refused before the first byte."""
        self.assertEqual(self.assertRaises(HandshakeRefused, Body, 101, 100).status, 413)

    def test_tiny_chunks(self):
        """Many chunks of a byte are refused while they are few still; of a sensible size not."""
        tiny = Body(None, 1 << 20)
        self.assertIsNone(tiny.take(b"1\r\na\r\n" * 1024))
        self.assertEqual(self.assertRaises(HandshakeRefused, tiny.take, b"1\r\n").status, 400)
        sensible = Body(None, 1 << 20)
        for _ in range(5000):
            self.assertIsNone(sensible.take(b"20\r\n" + b"x" * 32 + b"\r\n"))

    def test_unfinished(self):
        """What surrounds the body is skipped, not kept."""
        body = Body(None, 100_000)
        for _ in range(1000):
            body.take(b"1;" + b"x" * 200 + b"\r\na\r\n")
        body.take(b"1;" + b"x" * 200)
        kept = sum(len(getattr(body, each)) for each in ("_content", "_held"))
        self.assertEqual(kept, 1000 + 202)
