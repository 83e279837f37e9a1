"""Plain HTTP on a connection: one whole request at a time, then its answer.

    head -> body -> answer -> (it has left, in a later turn) -> head -> ..

Heads are checked here, as strictly as a handshake, and bodies gathered; a page is asked only when
all of its request is there. What comes meanwhile waits: one read of it, the rest in the kernel.
Knows no Autobahn: the internal listener works with it in a process that has none.
"""

from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.python.failure import Failure

from odin.errors import HandshakeRefused
from odin.gateway import handshake
from odin.gateway.body import Body
from odin.gateway.handshake import RequestHead
from odin.wire.messages import encode

_IDLE_S: Final = 60  # between two requests
_LINGER_S: Final = 2  # for the peer to read a refusal before the connection goes
_CLOSE_S: Final = 5  # for the last bytes to leave
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
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


class Exchange(Protocol):
    """A request and its answer; see odin.web.site."""

    def begin(self, head: RequestHead, body: bytes) -> None: ...
    def lost(self, reason: Failure) -> None: ...


# (transport, what to call once the answer is written)
MakeExchange = Callable[[Any, Callable[[], None]], Exchange]


class PlainHttp:
    """The HTTP side of a protocol.

    The factory has `wheel`, `times`, `meter`, `http` (makes an Exchange), `later` (runs a callable
    in a later turn) and `max_body_bytes`. The transport tells what `transport.Listener` says.

    Its attributes are the instance's only while there is something to say: a WebSocket has none.
    """

    factory: Any
    transport: Any
    data = b""  # of the next head, or what came while an answer is on its way
    _head: RequestHead | None = None  # of the request whose body comes, or that is answered
    _body: Body | None = None
    _answering = False  # until the answer has left and the turn is over
    _exchange: Exchange | None = None  # until the answer is written
    _served = False  # whether there was a plain request
    _paused = False
    _half_closed = False  # the peer sends no more
    _over = False  # nothing more is read

    # -- from the subclass

    def http_received(self, data: bytes) -> None:
        """Bytes of a connection that is no WebSocket yet."""
        if self._answering:
            self.data += data
            if not self._paused:
                self._paused = True
                self.transport.pauseProducing()
        elif self._body is not None:
            self._gather(data)
        else:
            if self._served and not self.data:
                data = data.lstrip(b"\r\n")  # RFC 9112 2.2
                if not data:
                    return
                self.factory.wheel.set(self, self.factory.times.read_s)
            self.data += data
            self._gather(b"")

    def http_left(self) -> None:
        """No byte waits any more for the kernel to take it."""
        if self._answering and self._exchange is None:
            self._left()

    def http_late(self) -> None:
        """A deadline has come: of a request, between two, or of an answer that does not leave."""
        if self._answering and not self.transport.behind:
            return  # the request has come while the wheel was at it
        self._over = True
        if self._served:
            self.transport.loseConnection()
            self.factory.wheel.set(self, _CLOSE_S)
        else:
            self.factory.meter.rejected("timeout")
            self.transport.abortConnection()

    def http_lost(self, reason: Failure) -> None:
        """The connection is gone."""
        if self._exchange is not None:
            self._exchange.lost(reason)

    def half_closed(self) -> bool:
        """The peer sends no more; whether the connection stays, for an answer."""
        if self._answering and not self._over:
            self._half_closed = True
            return True
        return False

    def asks_upgrade(self, head: RequestHead, rest: bytes) -> bool:
        """Whether the request made the connection something else. Raises: HandshakeRefused."""
        return False

    # -- a request

    def _gather(self, data: bytes) -> None:
        """Go as far as what is there allows."""
        try:
            body = self._body
            if body is None:
                body = self._take_head()
                if body is None:
                    return
                data, self.data = self.data, b""
            rest = body.take(data)
            if rest is None:
                return
            self._body, self.data = None, rest
            self._serve(body.content)
        except HandshakeRefused as refusal:
            self._refuse(refusal)
        except Exception:
            self.factory.log_failure("a request failed")
            self._refuse(HandshakeRefused(500, "internal", "the server failed"))

    def _take_head(self) -> Body | None:
        """The body that is to come, if the head is there and of a plain request.

        Raises: HandshakeRefused.
        """
        data = self.data
        found = data.find(handshake.END)
        end = found + len(handshake.END) if found >= 0 else -1
        handshake.check_sizes(data, end)
        if end < 0:
            return None
        head = handshake.parse_head(data[:end])
        if head.wants_websocket() and self.asks_upgrade(head, data[end:]):
            return None
        self._body = body = Body(handshake.body_length(head), self.factory.max_body_bytes)
        self._head, self.data = head, data[end:]
        if not self._served:
            self._served = True
            self.factory.wheel.set(self, self.factory.times.read_s)
        if head.expects_continue and not self.data:
            self.transport.write(_CONTINUE)
        return body

    def _serve(self, body: bytes) -> None:
        head = self._head
        assert head is not None
        self.factory.wheel.clear(self)
        self._answering = True
        exchange = self._exchange = self.factory.http(self.transport, self._answered)
        exchange.begin(head, body)

    def _answered(self) -> None:
        """The answer is written."""
        self._exchange = None
        if not self._over and not self.transport.behind:
            self._left()

    def _left(self) -> None:
        """The answer has left."""
        if self._head is not None and self._head.persistent:
            self.factory.later(self._go_on)
        else:
            self._lose()

    def _go_on(self) -> None:
        """Begin with the next request, if there is one."""
        if self._over or self.transport is None:
            return
        self._answering, self._head = False, None
        paused, half_closed = self._paused, self._half_closed
        self._paused = False  # an upgrade forgets all this
        self.data = self.data.lstrip(b"\r\n")
        if self.data:
            self.factory.wheel.set(self, self.factory.times.read_s)
            self._gather(b"")
        else:
            self.factory.wheel.set(self, _IDLE_S)
        if self._answering:
            self._paused = paused
        elif half_closed:
            if not self._over:
                self._lose()
        elif paused:
            self.transport.resumeProducing()

    # -- its end

    def _lose(self) -> None:
        self._over = True
        self.data = b""
        self.transport.loseConnection()
        self.factory.wheel.set(self, _CLOSE_S)

    def _refuse(self, refusal: HandshakeRefused) -> None:
        """Answer with a status and let go, giving the peer time to read it."""
        self.factory.meter.rejected(refusal.cause)
        self._over = True
        self.data, self._body = b"", None
        self.transport.write(refusal_of(refusal))
        # not loseConnection: with unread bytes the kernel would reset, and the answer be lost
        self.transport.loseWriteConnection()
        self.factory.wheel.set(self, _LINGER_S)


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
