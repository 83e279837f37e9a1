"""The HTTP side of a port: pages by their paths, and one exchange for each request.

The gateway has checked the request and has all of it. Nothing is parsed here but the query: a body
is a page's own affair, never a form.
"""

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request, datetimeToString
from twisted.web.http_headers import Headers
from twisted.web.server import NOT_DONE_YET

from odin.gateway.handshake import RequestHead
from odin.web.resources import JsonResource, NotFound, finish, problem


class UpgradeOnly(JsonResource):
    """The WebSocket's path, asked for without an upgrade: 426."""

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"Upgrade", b"websocket")
        request.setHeader(b"Sec-WebSocket-Version", b"13")
        return problem(request, 426, "upgrade_required", "connect with a WebSocket client")


class Site:
    """Paths to pages; anything else is 404. A slash at the end makes no difference."""

    _log = Logger()

    def __init__(self) -> None:
        self._pages: dict[str, JsonResource] = {}
        self._nothing = NotFound()

    def mount(self, pages: Mapping[str, JsonResource]) -> None:
        """Answer at these paths, too."""
        self._pages |= {f"/{path.strip('/')}": page for path, page in pages.items()}

    def exchange(self, transport: Any, answered: Callable[[], None]) -> "Exchange":
        """For one request on `transport`; `answered` is called when the answer is written."""
        return Exchange(self, transport, answered)

    def render(self, path: str, request: Request) -> None:
        """Answer, now or later."""
        try:
            body = self._pages.get(path, self._nothing).render(request)
        except Exception:
            self._log.failure("a page failed")
            body = problem(request, 500, "internal", "the server failed")
        if body is not NOT_DONE_YET:
            finish(request, body)


class Exchange:
    """One request and its answer; what a Request calls its channel.

    The answer is one write: 2 system calls less than as twisted.web writes it.
    """

    __slots__ = ("_answered", "_parts", "_request", "_site", "transport")

    def __init__(self, site: Site, transport: Any, answered: Callable[[], None]) -> None:
        self.transport = transport
        self._site = site
        self._answered = answered
        self._parts: list[bytes] = []
        self._request: Request | None = None

    # -- for the gateway

    def begin(self, head: RequestHead, body: bytes) -> None:
        """Ask the page. Once."""
        channel: Any = self  # what an HTTPChannel is to a Request, no more
        request = self._request = Request(channel)
        request.method = head.method.encode()
        request.uri = head.target.encode()
        request.clientproto = head.version.encode()
        path, _, query = head.target.partition("?")
        request.path = path.encode()
        request.args = _arguments(query)
        request.content = BytesIO(body)
        # UTF-8 of what was read as Latin-1: pages see the same text as a handshake, and each can
        # be decoded
        request.requestHeaders = Headers(
            {name.encode(): [value.encode()] for name, value in head.headers.items()}
        )
        request.setHeader(b"Date", datetimeToString())
        if not head.persistent:
            request.setHeader(b"Connection", b"close")
        self._site.render(head.path, request)

    def lost(self, reason: Failure) -> None:
        """The connection is gone; what the page says from now on goes nowhere."""
        if self._request is not None:
            self._request.connectionLost(reason)

    # -- for the Request (as twisted.web's HTTP/2 streams do it)

    def getPeer(self) -> Any:
        return self.transport.getPeer()

    def getHost(self) -> Any:
        return self.transport.getHost()

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        self._parts.append(b"%b %b %b\r\n" % (version, code, reason))
        for name, values in headers.getAllRawHeaders():
            self._parts += [b"%b: %b\r\n" % (name, value) for value in values]
        self._parts.append(b"\r\n")

    def write(self, data: bytes) -> None:
        self._parts.append(data)

    def writeSequence(self, parts: list[bytes]) -> None:
        self._parts += parts

    def requestDone(self, _request: Request) -> None:
        self.transport.write(b"".join(self._parts))
        self._parts.clear()
        self._answered()


def _arguments(query: str) -> dict[bytes, list[bytes]]:
    """The arguments of a query, as bytes in whatever encoding the client chose."""
    if not query:
        return {}
    found = parse_qs(query, keep_blank_values=True, encoding="latin-1")
    return {
        name.encode("latin-1"): [each.encode("latin-1") for each in values]
        for name, values in found.items()
    }
