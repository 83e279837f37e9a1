"""The WebSocket edge: OdinFactory makes an OdinProtocol for each connection.

    TCP connection -> request head -> upgrade     -> Session (frames: see `resting`)
                                   -> plain HTTP  -> an HTTP channel on the same transport
                                   -> neither     -> refused with a status

One port serves both. A connection is HTTP until an upgrade, also after it was kept alive for some
requests, as a proxy does it.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol, cast

from autobahn.twisted.websocket import WebSocketServerFactory
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from autobahn.websocket.protocol import WebSocketProtocol
from twisted.internet.error import ConnectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from odin import __version__
from odin.errors import HandshakeRefused
from odin.gateway import handshake
from odin.gateway.admission import Admission, Admissions
from odin.gateway.resting import RestingProtocol
from odin.gateway.session import Context, Session
from odin.gateway.timers import Wheel
from odin.wire.codes import ABNORMAL, NO_STATUS, CloseCode, close_reason
from odin.wire.frames import PING
from odin.wire.messages import encode

CLOSE_TIMEOUT_S: Final = 5  # for the peer's close frame, and for the last bytes to leave
ECHO_MAX_BYTES: Final = 16 << 20
_LINGER_S: Final = 2  # for the peer to read a refusal before the connection goes
_TINY_FRAGMENT: Final = 16  # bytes; smaller continuation frames count in the rate limit
_REASON_WORDS: Final = {
    CloseCode.PROTOCOL_ERROR: "protocol_error",
    CloseCode.INVALID_PAYLOAD: "invalid_payload",
    CloseCode.TOO_BIG: "too_big",
}
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
_KNOWN_CODES: Final = frozenset(int(code) for code in CloseCode) | {NO_STATUS, ABNORMAL}
_SLOTS: Final = ("_ping", "bucket", "session")

# What is known of the last ping: none sent, sent, something came since, its pong came.
_NOTHING, _PINGED, _ALIVE, _PONGED = range(4)


class Meter(Protocol):
    """What the edge tells about its connections."""

    def rejected(self, cause: str) -> None: ...
    def closed(self, code: str, initiator: str, seconds: float) -> None: ...
    def error(self, kind: str) -> None: ...


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


class Times(NamedTuple):
    """How long things may take, in seconds."""

    handshake_s: float
    read_s: float  # for a plain request
    write_s: float  # without a byte taken by the peer
    ping_interval_s: float  # 0 = no pings
    pong_s: float


class OdinProtocol(RestingProtocol):
    """One connection: its handshake, its keep-alive, and its end."""

    __slots__ = _SLOTS

    factory: "OdinFactory"
    _http: HttpChannel | None = None  # while the connection is plain HTTP
    _answer = b""  # the 101, until the welcome goes out with it
    _refused = False

    def __init__(self) -> None:
        super().__init__()
        self.session: Session | None = None
        self.bucket: set[Any] | None = None
        self._ping = _NOTHING

    # -- from Twisted

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)  # Autobahn reads its own option too early to do it
        self.begin()
        self.factory.wheel.set(self, self.factory.times.handshake_s)

    def dataReceived(self, data: bytes) -> None:
        state = self.state
        if state == self.STATE_OPEN:
            if self._ping == _PINGED:
                self._ping = _ALIVE
            self.feed(data)
        elif state == self.STATE_CLOSING:
            self.feed(data)
        elif state == self.STATE_CONNECTING and not self._refused:
            if self._http is None or self._http.idle:
                self._head_received(data)
            else:
                self._http_received(data)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        factory = self.factory
        factory.wheel.clear(self)
        factory.behind.discard(self)
        if self._http is not None:
            self._http.connectionLost(reason)
        session = self.session
        if session is not None:
            self._leave()
            WebSocketProtocol._connectionLost(self, reason)
            factory.ended(self, session)
        self.session = None
        self.end()

    # -- from the transport

    def fellBehind(self) -> None:
        self.factory.behind.add(self)
        if self.session is not None:
            self.session.fell_behind()

    def caughtUp(self) -> None:
        self.factory.behind.discard(self)
        if self.session is not None:
            self.session.caught_up(self.transport.sink)

    def overflowed(self, pending: int) -> None:
        if self.session is not None:  # an HTTP response may be as long as it likes
            self.close(CloseCode.TOO_SLOW, close_reason("slow_consumer", f"{pending} bytes queued"))

    def stalled(self) -> None:
        """Nothing left for `writeTimeout`: the peer does not read."""
        if self.state == self.STATE_OPEN:
            self.close(CloseCode.TOO_SLOW, close_reason("slow_consumer", "takes nothing"))
        else:
            self.transport.abortConnection()

    # -- the outlet of the session

    def write(self, data: bytes) -> None:
        if self._answer:
            data, self._answer = self._answer + data, b""
        self.transport.write(data)

    def hold(self, data: bytes, sent: int) -> None:
        self.transport.hold(data, sent)

    def close(self, code: CloseCode, reason: str) -> None:
        if self.state == self.STATE_OPEN and self._attached():
            self.sendCloseFrame(int(code), reason.encode())

    # -- from the wheel

    def due(self) -> None:
        """The deadline: of the handshake, the request, the pong, or the end."""
        if self.transport is None:
            return
        if self.state == self.STATE_OPEN:
            self._keep_alive()
        elif self.state == self.STATE_CONNECTING and not self._refused:
            self._refused = True
            if self._http is None:
                self.factory.meter.rejected("timeout")
                self.transport.abortConnection()
            else:
                self.transport.loseConnection()
                self.factory.wheel.set(self, CLOSE_TIMEOUT_S)
        else:
            self.transport.abortConnection()

    def _keep_alive(self) -> None:
        times = self.factory.times
        if self._ping == _PINGED:
            self.wasNotCleanReason = "no pong"
            self.dropConnection(abort=True)
            return
        assert self.session is not None
        token_s = self.session.token_event()
        if self.state != self.STATE_OPEN:
            return  # the token had ended
        next_s = times.ping_interval_s
        if next_s and self._ping != _NOTHING:
            self._ping = _NOTHING
            next_s = max(next_s - times.pong_s, 0.0)
        elif next_s and (token_s is None or token_s > times.pong_s):
            self._ping = _PINGED
            self.transport.write(PING)
            next_s = times.pong_s
        if token_s is not None and self._ping != _PINGED:
            # the ping waits for the token's moment, which must not wait for a pong
            next_s = min(next_s, token_s) if times.ping_interval_s else token_s
        if times.ping_interval_s or token_s is not None:
            self.factory.wheel.set(self, next_s)

    # -- the request head

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
                    self._upgrade(head, admission, self.data[end:])
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

    def _upgrade(self, head: handshake.RequestHead, admission: Admission, rest: bytes) -> None:
        """Answer 101, and be a WebSocket; `rest` came behind the head."""
        if self._http is not None:
            self._http.detach()
            self._http = None
        if admission.echo:
            self.__class__ = self.factory.echo_protocol
        self.data = rest
        self.websocket_protocols = handshake.protocols_of(head)
        offers = head.headers.get("sec-websocket-extensions")
        parsed = self._parseExtensionsHeader(offers) if offers else ()
        self.websocket_extensions = [each for each in parsed if _is_deflate_offer(*each)]
        self._wskey = admission.key
        self._admission = admission
        self.succeedHandshake(admission.protocol)
        if self.state == self.STATE_OPEN and not (self.data or self.current_frame):
            self.rest()

    def _refuse(self, refusal: HandshakeRefused) -> None:
        """Answer with a status and let go, giving the peer time to read it."""
        self.factory.meter.rejected(refusal.cause)
        self._refused = True
        self.data = b""
        body = encode({"error": {"code": refusal.cause, "message": str(refusal)}})
        status = refusal.status
        lines = [
            f"HTTP/1.1 {status} {_STATUS_TEXTS.get(status, 'Internal Server Error')}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *(f"{name}: {value}" for name, value in refusal.headers),
        ]
        self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        # not loseConnection: with unread bytes the kernel would reset, and the answer be lost
        self.transport.loseWriteConnection()
        self.factory.wheel.set(self, _LINGER_S)

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        if self.state == self.STATE_CONNECTING:
            self._answer = data
        else:
            self.transport.write(data)

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: object = None) -> None:
        """From Autobahn: an extension offer that makes no sense."""
        self._refuse(HandshakeRefused(code, "bad_request", reason))

    # -- from Autobahn, and from the lane

    def _onOpen(self) -> None:
        factory = self.factory
        admission: Admission = self._admission
        self.session = session = self._session(admission)
        factory.connections += 1
        factory.opened += 1
        session.open(self, self.transport.sink, admission.channels)
        if self._answer:
            self.write(b"")
        token_s = session.token_event()
        waits = [each for each in (factory.times.ping_interval_s, token_s) if each]
        if waits and self.state == self.STATE_OPEN:
            factory.wheel.set(self, min(waits))
        elif self.state == self.STATE_OPEN:
            factory.wheel.clear(self)

    def _session(self, admission: Admission) -> Session:
        return Session(self.factory.context, admission.identity)

    def text(self, payload: bytes) -> None:
        if self.session is None:
            return
        try:
            self.session.received(payload)
        except Exception:
            self.factory.log_failure("a request failed")
            self.factory.meter.error("internal")
            self.close(CloseCode.INTERNAL, close_reason("internal"))

    def pong(self) -> None:
        if self._ping == _ALIVE:
            self._ping = _PONGED
        elif self.session is not None:
            self.session.control_frame()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.state != self.STATE_OPEN:
            return
        if isBinary:
            self.factory.meter.error("binary")
            self.close(CloseCode.UNSUPPORTED_DATA, close_reason("unsupported_data", "send text"))
        else:
            self.text(payload)

    def onMessageFrameBegin(self, length: int) -> None:
        super().onMessageFrameBegin(length)
        if length < _TINY_FRAGMENT and self.current_frame.opcode == 0 and self.session is not None:
            self.session.control_frame()

    def onPing(self, payload: bytes) -> None:
        if self.session is not None:
            self.session.control_frame()
        self.sendPong(payload)

    def onPong(self, payload: bytes) -> None:
        self.pong()

    def sendCloseFrame(
        self, code: int | None = None, reasonUtf8: bytes | None = None, isReply: bool = False
    ) -> None:
        """Every close frame comes by here: the feed ends before it, and time runs."""
        if self.state == self.STATE_OPEN:
            self._leave()
            self.factory.wheel.set(self, CLOSE_TIMEOUT_S)
        super().sendCloseFrame(code, reasonUtf8, isReply)

    def dropConnection(self, abort: bool = False) -> None:
        self._leave()
        if self.state != self.STATE_CLOSED:
            self.factory.wheel.set(self, CLOSE_TIMEOUT_S)
        # after a clean closing handshake: the last bytes may leave, no reset
        super().dropConnection(abort and not self.wasClean)

    def _fail_connection(self, code: int = CloseCode.GOING_AWAY, reason: str = "") -> None:
        word = _REASON_WORDS.get(CloseCode(code), "going_away")
        if not self.failedByMe:
            self.factory.meter.error(word)
        super()._fail_connection(code, close_reason(word, reason))

    def _attached(self) -> bool:
        return self.session is not None and self.session.outlet is not None

    def _leave(self) -> None:
        """End the session, once: nothing of the feed follows a close frame."""
        if self.session is not None and self.session.outlet is not None:
            self.session.end()


class OdinFactory(WebSocketServerFactory):  # type: ignore[misc] # autobahn has no types
    """Makes the connections of one server."""

    _log = Logger()
    noisy = False

    def __init__(
        self,
        *,
        reactor: Any,
        context: Context,
        admissions: Admissions,
        times: Times,
        max_connections: int,
        compression: bool,
        wheel: Wheel,
        meter: Meter,
        http: Callable[[], HttpChannel],
        echo: type[OdinProtocol] | None = None,
    ) -> None:
        super().__init__(server=f"Odin/{__version__}", reactor=reactor)
        self.context = context
        self.times = times
        self.wheel = wheel
        self.meter = meter
        self.http = http
        self.connections = 0  # open WebSockets
        self.opened = 0  # since the start
        self.draining = False
        self.behind: set[OdinProtocol] = set()
        self._admissions = admissions
        self._max_connections = max_connections
        self.setProtocolOptions(
            versions=[13],
            webStatus=False,
            maxMessagePayloadSize=context.max_message_bytes,
            maxFramePayloadSize=context.max_message_bytes,
            failByDrop=False,  # True would hide 1002, 1007 and 1009 behind a dropped connection
            openHandshakeTimeout=0,  # the wheel keeps all times
            closeHandshakeTimeout=0,
            perMessageCompressionAccept=_accept_deflate if compression else _accept_none,
        )
        self.protocol = OdinProtocol.configured(self)
        if echo is not None:
            self.echo_protocol = echo.configured(
                self,
                maxMessagePayloadSize=ECHO_MAX_BYTES,
                maxFramePayloadSize=ECHO_MAX_BYTES,
                perMessageCompressionAccept=accept_any_deflate,
            )

    @property
    def full(self) -> bool:
        return self.connections >= self._max_connections

    def buildProtocol(self, _address: object) -> OdinProtocol:
        return cast("OdinProtocol", self.protocol())

    def decide(self, head: handshake.RequestHead, transport: Any) -> Admission:
        """Raises: HandshakeRefused."""
        return self._admissions.decide(head, lambda: getattr(transport.getPeer(), "host", ""), self)

    def ended(self, protocol: OdinProtocol, session: Session) -> None:
        """A WebSocket is gone: count it, by its close code and who began."""
        self.connections -= 1
        if protocol.closedByMe or (protocol.droppedByMe and not protocol.wasClean):
            initiator, code = "server", protocol.localCloseCode or ABNORMAL
        elif protocol.wasClean:
            initiator, code = "client", protocol.remoteCloseCode or NO_STATUS
        else:
            initiator, code = "client", ABNORMAL
        word = str(int(code)) if code in _KNOWN_CODES else "other"
        self.meter.closed(word, initiator, self.context.monotonic() - session.opened_at)

    def log_failure(self, text: str) -> None:
        """Log the exception that is being handled: a defect of ours."""
        self._log.failure(text)


def _is_deflate_offer(name: str, parameters: Any) -> bool:
    """Whether Autobahn can make something of an offer; others are declined (RFC 7692 5.1)."""
    if name != PerMessageDeflateOffer.EXTENSION_NAME:
        return False
    try:
        PerMessageDeflateOffer.parse(parameters)
    except Exception:  # that is what Autobahn raises
        return False
    return True


def accept_any_deflate(offers: list[Any]) -> PerMessageDeflateOfferAccept | None:
    """Take a permessage-deflate offer (RFC 7692) as it is made."""
    for offer in offers:
        if isinstance(offer, PerMessageDeflateOffer):
            return PerMessageDeflateOfferAccept(offer)
    return None


def _accept_deflate(offers: list[Any]) -> PerMessageDeflateOfferAccept | None:
    """Take an offer for what clients send, each message for itself, so that a resting connection
    holds no zlib state (40 KB).

    The feed is sent as it is, which the extension allows message by message: one frame for all.
    """
    for offer in offers:
        if isinstance(offer, PerMessageDeflateOffer):
            return PerMessageDeflateOfferAccept(
                offer, request_no_context_takeover=offer.accept_no_context_takeover
            )
    return None


def _accept_none(_offers: list[Any]) -> None:
    return None
