"""The HTTP channel that the gateway feeds, and the tree of resources."""

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web import http

from odin.errors import HandshakeRefused
from odin.web.health import Livez
from odin.web.site import Channel, Root, Site, UpgradeOnly


class ChannelTests(SynchronousTestCase):
    def setUp(self):
        root = Root({"livez": Livez(), "deep/livez": Livez(), "ws": UpgradeOnly()})
        site = Site(root, Clock(), idle_timeout_s=60, max_body_bytes=1000)
        self.channel, self.transport = site.channel(), StringTransport()
        self.channel.makeConnection(self.transport)

    def ask(self, request):
        """The answer to a request line and headers, as (status, head, body)."""
        self.transport.clear()
        self.channel.dataReceived(request)
        head, _, body = self.transport.value().partition(b"\r\n\r\n")
        return int(head.split()[1]) if head else None, head, body

    def test_paths(self):
        """A page answers with and without a slash; all else is 404; a wrong method 405."""
        for target, method, status in (
            ("/livez", "GET", 200), ("/livez/", "GET", 200), ("/livez", "HEAD", 200),
            ("/deep/livez", "GET", 200), ("/livez", "POST", 405), ("/livez", "BREW", 405),
            ("/livez/x", "GET", 404), ("/", "GET", 404), ("/nope", "POST", 404),
            ("/deep", "GET", 404), ("/ws", "GET", 426), ("/ws", "POST", 405),
        ):  # fmt: skip
            request = f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            self.assertEqual(self.ask(request)[0], status, (method, target))

    def test_hardened(self):
        """No answer is cached or sniffed, or tells where it was linked from."""
        _status, head, _body = self.ask(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        for line in (b"Cache-Control: no-store", b"Referrer-Policy: no-referrer"):
            self.assertIn(line, head)

    def test_idle_and_receiving(self):
        """The gateway can tell between requests from in the middle of one."""
        self.assertTrue(self.channel.idle)
        self.channel.dataReceived(b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na")
        self.assertEqual((self.channel.idle, self.channel.receiving), (False, True))
        self.channel.dataReceived(b"bc")
        self.assertEqual((self.channel.idle, self.channel.receiving), (True, False))

    def test_body_limit(self):
        """A body over the limit is refused by its announced length, or once it is that long."""
        head = b"POST /livez HTTP/1.1\r\nHost: x\r\n"
        for rest in (
            b"Content-Length: 1001\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001 + b"\r\n",
        ):
            self.setUp()
            error = self.assertRaises(HandshakeRefused, self.channel.dataReceived, head + rest)
            self.assertEqual(error.status, 413)

    def test_detach(self):
        """A detached channel has let go of its transport and its timer."""
        self.channel.detach()
        self.assertEqual((self.channel.transport, self.transport.producer), (None, None))

    def test_private_names(self):
        """The names of HTTPChannel that the channel leans on are there."""
        for name in ("requests", "_buffer", "_dataBuffer", "_handlingRequest", "_networkProducer"):
            self.assertTrue(hasattr(self.channel, name), name)
        self.assertTrue(issubclass(Channel, http.HTTPChannel))
