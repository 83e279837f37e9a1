"""The HTTP side of a port: a tree of resources, and the channel that the gateway feeds.

Leans on private names of twisted.web.http.HTTPChannel: this module only (tests/test_site.py).
"""

from typing import TYPE_CHECKING, Any, cast

from twisted.web import http, server
from twisted.web.resource import IResource, Resource

from odin.errors import HandshakeRefused
from odin.web.resources import JsonResource, NotFound, harden, problem

if TYPE_CHECKING:
    from twisted.internet.interfaces import IConsumer


class Root(Resource):
    """Paths to resources; anything else is 404."""

    def __init__(self, pages: dict[str, Resource]) -> None:
        super().__init__()
        for path, page in pages.items():
            self._mount([each.encode() for each in path.strip("/").split("/")], page)

    def _mount(self, segments: list[bytes], page: Resource) -> None:
        node: Resource = self
        for segment in segments[:-1]:
            child = node.children.get(segment)
            if child is None:
                child = NotFound()
                node.putChild(segment, child)
            node = child
        node.putChild(segments[-1], page)

    def getChild(self, path: bytes, request: server.Request) -> Resource:
        return NotFound()


class UpgradeOnly(JsonResource):
    """The WebSocket's path, asked for without an upgrade: 426."""

    def render_GET(self, request: server.Request) -> bytes:
        harden(request)
        request.setHeader(b"Upgrade", b"websocket")
        request.setHeader(b"Sec-WebSocket-Version", b"13")
        return problem(request, 426, "upgrade_required", "connect with a WebSocket client")


class LimitedRequest(server.Request):
    """A request whose body is refused when it is too large, before it is read."""

    max_body_bytes = 1 << 20

    def gotLength(self, length: int | None) -> None:
        if length is not None and length > self.max_body_bytes:
            raise HandshakeRefused(413, "too_large", "the body is too large")
        super().gotLength(length)

    def handleContentChunk(self, data: bytes) -> None:
        assert self.content is not None
        if self.content.tell() + len(data) > self.max_body_bytes:
            raise HandshakeRefused(413, "too_large", "the body is too large")
        super().handleContentChunk(data)


class Channel(http.HTTPChannel):
    """One connection's HTTP side, while it is that (see gateway.websocket)."""

    @property
    def idle(self) -> bool:
        """Between two requests, with nothing buffered."""
        return not (self.requests or self._buffer or self._dataBuffer)

    @property
    def receiving(self) -> bool:
        """In the middle of a request."""
        return bool(self._buffer) or (bool(self.requests) and not self._handlingRequest)

    def detach(self) -> None:
        """Let go of the transport: the connection is upgraded."""
        self.setTimeout(None)
        cast("IConsumer", self._networkProducer).unregisterProducer()
        self.transport = None


class Site(server.Site):
    """A site without an access log: a logged URL could hold a token."""

    displayTracebacks = False
    noisy = False

    def __init__(
        self, root: IResource, reactor: Any, *, idle_timeout_s: float, max_body_bytes: int
    ) -> None:
        request = type("Request", (LimitedRequest,), {"max_body_bytes": max_body_bytes})
        super().__init__(root, requestFactory=request, timeout=idle_timeout_s, reactor=reactor)

    def log(self, request: http.Request) -> None:
        pass

    def plain(self) -> server.Site:
        """The same resources for a port of their own, without WebSockets."""
        site: Any = server.Site(self.resource, timeout=self.timeOut, reactor=self.reactor)
        site.log = self.log
        site.displayTracebacks = site.noisy = False
        return cast("server.Site", site)

    def channel(self) -> Channel:
        """A channel for a connection of the gateway, as HTTPFactory.buildProtocol makes them."""
        channel: Any = Channel()
        channel.factory = channel.site = self
        channel.requestFactory = self.requestFactory
        channel.timeOut = self.timeOut
        channel.callLater = self.reactor.callLater
        return cast("Channel", channel)
