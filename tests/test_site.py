"""Pages by their paths, and what a page gets to see of a request."""

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from odin.gateway.handshake import parse_head
from odin.web.answers import AnswerPage
from odin.web.health import Livez
from odin.web.resources import JsonResource, reply
from odin.web.site import Site, UpgradeOnly
from tests.connections import NotingTransport


class Mirror(JsonResource):
    """Answers with what it sees."""

    def render_POST(self, request):
        return reply(request, 200, {
            "args": {k.decode("latin-1"): [v.decode("latin-1") for v in values]
                     for k, values in request.args.items()},
            "content": request.content.read().decode(),
            "agent": request.requestHeaders.getRawHeaders("user-agent"),
        })  # fmt: skip


class Broken(JsonResource):
    def render_GET(self, request):
        raise ValueError("a defect")


class Later:
    """Answers when the test says so."""

    def __init__(self):
        self.asked = []

    def answer(self, page):
        self.asked.append(Deferred())
        return self.asked[-1]


class SiteTests(SynchronousTestCase):
    def setUp(self):
        self.later = Later()
        self.site = Site()
        self.site.mount({
            "": Livez(), "livez": Livez(), "deep/livez": Livez(), "ws": UpgradeOnly(),
            "mirror": Mirror(), "broken": Broken(), "health": AnswerPage(self.later, "health"),
        })  # fmt: skip
        self.transport = NotingTransport(None)
        self.answered = 0

    def begin(self, start, body=b"", *lines):
        """The exchange of a request."""
        head = "".join(f"{line}\r\n" for line in (start, "Host: x", *lines, ""))
        exchange = self.site.exchange(self.transport, self.count)
        exchange.begin(parse_head(head.encode("latin-1")), body)
        return exchange

    def count(self):
        self.answered += 1

    def ask(self, start, body=b"", *lines):
        """(status, head, body) of the answer to a request."""
        self.transport.written = b""
        self.begin(start, body, *lines)
        head, _, rest = self.transport.written.partition(b"\r\n\r\n")
        return int(head.split()[1]), head, rest

    def test_paths(self):
        """A page answers with and without a slash; all else is 404; a wrong method 405."""
        for target, method, status in (
            ("/", "GET", 200), ("/livez", "GET", 200), ("/livez/", "GET", 200),
            ("/livez", "HEAD", 200), ("/deep/livez?x=1", "GET", 200), ("/livez", "POST", 405),
            ("/livez", "BREW", 405), ("/livez", "render_GET", 405), ("/livez/x", "GET", 404),
            ("/nope", "POST", 404), ("/deep", "GET", 404), ("/ws", "GET", 426),
            ("/ws", "POST", 405), ("/mirror", "HEAD", 405), ("/" * 8000, "GET", 200),
            ("/x" * 4000, "GET", 404), ("/%6civez", "GET", 404),
        ):  # fmt: skip
            self.assertEqual(self.ask(f"{method} {target} HTTP/1.1")[0], status, (method, target))

    def test_one_write(self):
        """Head and body leave together, and then the gateway is told, once."""
        writes = []
        self.transport.write = writes.append
        self.begin("GET /livez HTTP/1.1")
        self.assertEqual((len(writes), self.answered), (1, 1))

    def test_head(self):
        """HEAD has the headers of GET, its length too, and no body."""
        _, got, _ = self.ask("GET /livez HTTP/1.1")
        _, head, body = self.ask("HEAD /livez HTTP/1.1")
        self.assertEqual((head, body), (got, b""))

    def test_head_later(self):
        """The same for an answer that comes later."""
        self.begin("HEAD /health HTTP/1.1")
        self.later.asked[0].callback((200, b"all is well"))
        self.assertIn(b"Content-Length: 11\r\n", self.transport.written)
        self.assertTrue(self.transport.written.endswith(b"\r\n\r\n"))

    def test_hardened(self):
        """No answer is cached or sniffed, or tells where it was linked from."""
        for target in ("/livez", "/nope", "/ws", "/broken"):
            _status, head, _body = self.ask(f"GET {target} HTTP/1.1")
            for line in (b"Cache-Control: no-store", b"Referrer-Policy: no-referrer"):
                self.assertIn(line, head)
        self.flushLoggedErrors(ValueError)

    def test_persistence(self):
        """The answer says when it is the last one."""
        for version, lines, last in (
            ("1.1", (), False), ("1.1", ("Connection: keep-alive, Close",), True),
            ("1.0", (), True), ("1.0", ("Connection: keep-alive",), True),
        ):  # fmt: skip
            head = self.ask(f"GET /livez HTTP/{version}", b"", *lines)[1]
            self.assertEqual(b"Connection: close" in head, last, (version, lines))

    def test_what_a_page_sees(self):
        """Arguments come from the query alone, whatever the body claims to be."""
        form = "Content-Type: application/x-www-form-urlencoded"
        _, _, body = self.ask("POST /mirror?a=1&a=%ff&b= HTTP/1.1", b"a=2&token=x", form)
        self.assertEqual(
            body,
            b'{"args":{"a":["1","\xc3\xbf"],"b":[""]},"content":"a=2&token=x","agent":null}\n',
        )
        parts = 'Content-Type: multipart/form-data; boundary="x'
        self.assertEqual(self.ask("POST /mirror HTTP/1.1", b"--x\r\n", parts)[0], 200)

    def test_any_header_can_be_read(self):
        """Bytes that are no UTF-8 are seen as a handshake sees them: Latin-1."""
        _, _, body = self.ask("POST /mirror HTTP/1.1", b"", "User-Agent: caf\xe9")
        self.assertIn('"agent":["café"]'.encode(), body)

    def test_defect(self):
        """A page that fails is logged; the client gets 500 and no details."""
        status, _, body = self.ask("GET /broken HTTP/1.1")
        self.assertEqual((status, b"defect" in body, b"internal" in body), (500, False, True))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_gone_meanwhile(self):
        """An answer that comes after its client has gone goes nowhere."""
        exchange = self.begin("GET /health HTTP/1.1")
        exchange.lost(Failure(ValueError()))
        self.later.asked[0].callback((200, b"x"))
        self.assertEqual((self.transport.written, self.answered), (b"", 0))
