"""A connection until it is a WebSocket: its request heads, plain HTTP, and refusals.

request head -> upgrade     -> `upgrade`, provided by the subclass
             -> plain HTTP  -> an HTTP channel on the same transport
             -> neither     -> refused with a status
"""

from typing import Any, Final, Protocol, cast

from twisted.python.failure import Failure

from odin.errors import HandshakeRefused
from odin.gateway import handshake
from odin.gateway.admission import Admission
from odin.gateway.handshake import RequestHead
from odin.gateway.resting import RestingProtocol
from odin.wire.messages import encode

_LINGER_S: Final = 2  # for the peer to read a refusal before the connection goes
_STATUS_TEXTS: Final = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    414: "URI Too Long",
    426: "Upgrade Required",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


class HttpChannel(Protocol):
    """The HTTP side of a connection; see odin.web.site."""

    @property
    def idle(self) -> bool: ...
    @property
    def receiving(self) -> bool: ...
    def makeConnection(self, transport: Any) -> None: ...
    def dataReceived(self, data: bytes) -> None: ...
    def connectionLost(self, reason: Failure) -> None: ...
    def detach(self) -> None: ...


class OpeningProtocol(RestingProtocol):
    """What a connection is before its upgrade, and remains without one."""

    __slots__ = ()

    factory: Any
    _http: HttpChannel | None = None  # while the connection is plain HTTP
    _refused = False

    def upgrade(self, head: RequestHead, admission: Admission, rest: bytes) -> None:
        """Be a WebSocket from now on; `rest` came behind the head."""
        raise NotImplementedError

    def opening(self, data: bytes) -> None:
        """Bytes of a connection that is no WebSocket yet."""
        if self._http is None or self._http.idle:
            self._head_received(data)
        else:
            self._http_received(data)

    def _head_received(self, data: bytes) -> None:
        """Gather a request head, then decide what this connection is."""
        if self._http is not None and not self.data:
            data = data.lstrip(b"\r\n")  # RFC 9112 2.2, between two requests
            self.factory.wheel.set(self, self.factory.times.read_s)
        self.data += data
        found = self.data.find(handshake.END)
        end = found + len(handshake.END) if found >= 0 else -1
        try:
            handshake.check_sizes(self.data, end)
            if end < 0:
                return
            if b"upgrade" in self.data[:end].lower():
                head = handshake.parse_head(self.data[:end])
                if head.wants_websocket():
                    admission = self.factory.decide(head, self.transport)
                    if self._http is not None:
                        self._http.detach()
                        self._http = None
                    self.upgrade(head, admission, self.data[end:])
                    return
        except HandshakeRefused as refusal:
            self._refuse(refusal)
            return
        except Exception:
            self.factory.log_failure("a handshake failed")
            self._refuse(HandshakeRefused(500, "internal", "the server failed"))
            return
        if self._http is None:
            self._http = self.factory.http()
            self._http.makeConnection(self.transport)
        request, self.data = self.data, b""
        self.factory.wheel.set(self, self.factory.times.read_s)  # for the body
        self._http_received(request)

    def _http_received(self, data: bytes) -> None:
        """Bytes of a plain request, whose body has a deadline; idle time is the channel's."""
        http = cast("HttpChannel", self._http)
        try:
            http.dataReceived(data)
        except HandshakeRefused as refusal:
            self._refuse(refusal)
            return
        if not http.receiving and not self._refused:
            self.factory.wheel.clear(self)

    def _refuse(self, refusal: HandshakeRefused) -> None:
        """Answer with a status and let go, giving the peer time to read it."""
        self.factory.meter.rejected(refusal.cause)
        self._refused = True
        self.data = b""
        self.transport.write(refusal_of(refusal))
        # not loseConnection: with unread bytes the kernel would reset, and the answer be lost
        self.transport.loseWriteConnection()
        self.factory.wheel.set(self, _LINGER_S)

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: object = None) -> None:
        """From Autobahn: an extension offer that makes no sense."""
        self._refuse(HandshakeRefused(code, "bad_request", reason))


def refusal_of(refusal: HandshakeRefused) -> bytes:
    """The HTTP response that says so."""
    body = encode({"error": {"code": refusal.cause, "message": str(refusal)}})
    status = refusal.status
    lines = [
        f"HTTP/1.1 {status} {_STATUS_TEXTS.get(status, 'Internal Server Error')}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in refusal.headers),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
