"""The WebSocket edge: OdinFactory makes an OdinProtocol for each connection.

    TCP connection -> request head -> upgrade     -> Session (frames by Autobahn)
                                   -> plain HTTP  -> an HTTP channel on the same transport
                                   -> neither     -> refused with a status

One port serves both. A connection is HTTP until an upgrade, also after it was kept alive for some
requests, as a proxy does it.

Leans on private names of autobahn.websocket: this module only (tests/test_websocket.py names
them).
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from autobahn.websocket.protocol import WebSocketProtocol
from twisted.internet.error import ConnectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from odin import __version__
from odin.access.limits import AddressLimit
from odin.access.origins import OriginPolicy, TrustedProxies
from odin.access.tokens import ANONYMOUS, Identity
from odin.errors import HandshakeRefused, RateLimited, Unauthorized
from odin.gateway import handshake
from odin.gateway.session import Context, Session
from odin.gateway.timers import Wheel
from odin.wire.codes import ABNORMAL, CloseCode, close_reason
from odin.wire.frames import PING
from odin.wire.messages import encode
from odin.wire.subjects import is_pattern, permitted

CLOSE_TIMEOUT_S: Final = 5  # for the peer's close frame, and for the last bytes to leave
_LINGER_S: Final = 2  # for the peer to read a refusal before the connection goes
_TINY_FRAGMENT: Final = 16  # bytes; smaller continuation frames count in the rate limit
_REASON_WORDS: Final = {
    CloseCode.PROTOCOL_ERROR: "protocol_error",
    CloseCode.INVALID_PAYLOAD: "invalid_payload",
    CloseCode.TOO_BIG: "too_big",
}
_STATUS_TEXTS: Final = {
    400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 413: "Content Too Large", 414: "URI Too Long", 426: "Upgrade Required",
    429: "Too Many Requests", 431: "Request Header Fields Too Large",
    503: "Service Unavailable", 505: "HTTP Version Not Supported",
}  # fmt: skip
_KNOWN_CODES: Final = frozenset(int(code) for code in CloseCode) | {1005, ABNORMAL}

# What is known of the last ping: none sent, sent, something came since, its pong came.
_NOTHING, _PONG, _ANSWERED, _PONGED = range(4)


class Meter(Protocol):
    """What the edge tells about its connections."""

    def rejected(self, cause: str) -> None: ...
    def auth_failed(self, cause: str) -> None: ...
    def opened(self) -> None: ...
    def closed(self, code: str, initiator: str, seconds: float) -> None: ...
    def error(self, kind: str) -> None: ...


class HttpChannel(Protocol):
    """The HTTP side of a connection; see odin.web.channel."""

    idle: bool  # between two requests, nothing buffered
    receiving: bool  # in the middle of a request

    def makeConnection(self, transport: Any) -> None: ...
    def dataReceived(self, data: bytes) -> None: ...
    def connectionLost(self, reason: Failure) -> None: ...
    def detach(self) -> None:
        """Let go of the transport: the connection is upgraded."""


class Policy(NamedTuple):
    """Who may connect, and how long things may take."""

    path: str
    origins: OriginPolicy
    proxies: TrustedProxies
    addresses: AddressLimit
    require_auth: bool
    max_connections: int  # 0 = any number
    handshake_timeout_s: float
    read_timeout_s: float
    write_timeout_s: float
    ping_interval_s: float  # 0 = no pings
    pong_timeout_s: float
    compression: bool


class Admission(NamedTuple):
    """What was decided about a handshake."""

    identity: Identity
    channels: frozenset[str] | None
    protocol: str | None
    key: str


class _Fired:
    """Stands in for the Deferreds that Autobahn keeps per connection and nobody here waits for."""

    def callback(self, _result: object) -> None:
        pass


class _Quiet:
    """Autobahn's log, per connection and eager: what matters is counted instead."""

    def debug(self, *_args: object, **_kwargs: object) -> None:
        pass

    trace = info = warn = error = debug


class OdinProtocol(WebSocketServerProtocol):  # type: ignore[misc] # autobahn has no types
    """One connection.

    Autobahn reads and checks the frames; this class decides on the handshake, keeps time, and
    sends. The configuration is on the class, one subclass for each factory.
    """

    CONFIG_ATTRS = ()
    log = _Quiet()
    peer = "client"
    is_server = True
    is_open = is_closed = _Fired()
    factory: "OdinFactory"

    def __init__(self) -> None:
        self.session: Session | None = None
        self.bucket: set[Any] | None = None
        self._http: HttpChannel | None = None
        self._awaiting = _NOTHING
        self._refused = False

    # -- from Twisted

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)  # Autobahn reads its own option too early to do it
        WebSocketProtocol._connectionMade(self)
        self.factory.wheel.set(self, self.factory.policy.handshake_timeout_s)

    def dataReceived(self, data: bytes) -> None:
        state = self.state
        if state == self.STATE_OPEN:
            if self._awaiting == _PONG:
                self._awaiting = _ANSWERED
            self._dataReceived(data)
        elif state == self.STATE_CONNECTING and not self._refused:
            http = self._http
            if http is None or http.idle:
                self._head_received(data)
            else:
                self._http_received(data)
        elif state == self.STATE_CLOSING:
            self._dataReceived(data)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        factory = self.factory
        factory.wheel.clear(self)
        factory.behind.discard(self)
        if self._http is not None:
            self._http.connectionLost(reason)
            self._http = None
        session = self.session
        self._leave()
        if session is None:
            self.state = self.STATE_CLOSED
            return
        WebSocketProtocol._connectionLost(self, reason)
        self.session = None
        factory.ended(self, session)

    # -- from the transport

    def fellBehind(self) -> None:
        self.factory.behind.add(self)
        if self.session is not None:
            self.session.fell_behind()

    def caughtUp(self) -> None:
        self.factory.behind.discard(self)
        if self.session is not None:
            self.session.caught_up(self.transport.socket)

    def overflowed(self, pending: int) -> None:
        if self.session is not None:  # an HTTP response may be as long as it likes
            self.close(CloseCode.TOO_SLOW, close_reason("slow_consumer", f"{pending} bytes queued"))

    def stalled(self) -> None:
        """Nothing left for `writeTimeout`: a peer that does not read."""
        if self.state == self.STATE_OPEN:
            seconds = f"{self.factory.policy.write_timeout_s:g}"
            self.close(CloseCode.TOO_SLOW, close_reason("slow_consumer", f"no byte in {seconds} s"))
        else:
            self.transport.abortConnection()

    # -- the outlet of the session

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def hold(self, data: bytes, sent: int) -> None:
        self.transport.hold(data, sent)

    def close(self, code: CloseCode, reason: str) -> None:
        if self.state == self.STATE_OPEN and self._in_hub():
            self.sendCloseFrame(int(code), reason.encode())

    # -- from the wheel

    def due(self) -> None:
        """The deadline: of the handshake, the request, the pong, or the end."""
        if self.state == self.STATE_OPEN:
            self._keep_alive()
        elif self.state == self.STATE_CONNECTING and not self._refused and self._http is None:
            self.factory.meter.rejected("timeout")
            self.transport.abortConnection()
        elif self._http is not None and not self._refused:
            self.transport.loseConnection()
            self.factory.wheel.set(self, CLOSE_TIMEOUT_S)
            self._refused = True
        else:
            self.transport.abortConnection()

    def _keep_alive(self) -> None:
        policy, wheel = self.factory.policy, self.factory.wheel
        if self._awaiting == _PONG:
            self.wasNotCleanReason = "no pong"
            self.dropConnection(abort=True)
            return
        assert self.session is not None
        wait_s = self.session.token_event()
        if self.state != self.STATE_OPEN:
            return
        after_s = policy.ping_interval_s
        if after_s and self._awaiting in (_ANSWERED, _PONGED):
            self._awaiting = _NOTHING
            after_s = max(after_s - policy.pong_timeout_s, 0)
        elif after_s:
            self.transport.write(PING)
            self._awaiting = _PONG
            after_s = policy.pong_timeout_s
        if wait_s is not None and (not after_s or wait_s < after_s):
            # a token event before the pong is due would take its place: not while one is awaited
            after_s = wait_s if self._awaiting != _PONG else after_s
        if after_s or policy.ping_interval_s:
            wheel.set(self, after_s)

    # -- the request head

    def _head_received(self, data: bytes) -> None:
        """Gather a request head, then decide what this connection is."""
        if not self.data and self._http is not None:
            data = data.lstrip(b"\r\n")
            self.factory.wheel.set(self, self.factory.policy.read_timeout_s)
        self.data += data
        end = self.data.find(handshake.END)
        end = end + len(handshake.END) if end >= 0 else -1
        try:
            handshake.check_sizes(self.data, end)
            if end < 0:
                return
            if b"upgrade" in self.data[:end].lower():
                head = handshake.parse_head(self.data[:end])
                if head.wants_websocket():
                    self._upgrade(head, self.factory.admit(head, self.transport), end)
                    return
        except HandshakeRefused as refusal:
            self._refuse(refusal)
            return
        except Exception:
            self.factory.log_failure("handshake failed")
            self._refuse(HandshakeRefused(500, "internal", "the server failed"))
            return
        if self._http is None:
            self._http = self.factory.http()
            self._http.makeConnection(self.transport)
        request, self.data = self.data, b""
        self.factory.wheel.set(self, self.factory.policy.read_timeout_s)  # for the body
        self._http_received(request)

    def _http_received(self, data: bytes) -> None:
        """Bytes of a plain request, whose body has a deadline; idle time is the channel's."""
        assert self._http is not None
        try:
            self._http.dataReceived(data)
        except HandshakeRefused as refusal:
            self._refuse(refusal)
            return
        if self.bucket is not None and not self._http.receiving and not self._refused:
            self.factory.wheel.clear(self)

    def _upgrade(self, head: handshake.RequestHead, admission: Admission, end: int) -> None:
        if self._http is not None:
            self._http.detach()
            self._http = None
        self.data = self.data[end:]
        self.websocket_version = 13
        self.websocket_protocols = handshake.protocols_of(head)
        self.websocket_extensions = self._parseExtensionsHeader(
            head.headers.get("sec-websocket-extensions", "")
        )
        self._wskey = admission.key
        self._admission = admission
        self.succeedHandshake(admission.protocol)

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

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: object = None) -> None:
        """From Autobahn: an extension offer that makes no sense."""
        self._refuse(HandshakeRefused(code, "bad_request", reason))

    # -- from Autobahn

    def _onOpen(self) -> None:
        factory, admission = self.factory, self._admission
        del self._admission
        self.session = Session(factory.context, admission.identity)
        factory.connections += 1
        factory.meter.opened()
        self.session.open(self, getattr(self.transport, "sink", None), admission.channels)
        wait_s = self.session.token_event()
        waits = [each for each in (factory.policy.ping_interval_s, wait_s) if each]
        if waits and self.state == self.STATE_OPEN:
            factory.wheel.set(self, min(waits))
        else:
            factory.wheel.clear(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.state != self.STATE_OPEN or self.session is None:
            return
        if isBinary:
            self.factory.meter.error("binary")
            self.close(
                CloseCode.UNSUPPORTED_DATA, close_reason("unsupported_data", "send text messages")
            )
            return
        try:
            self.session.received(payload)
        except Exception:
            self.factory.log_failure("a request failed")
            self.factory.meter.error("internal")
            self.close(CloseCode.INTERNAL, close_reason("internal"))

    def onMessageFrameBegin(self, length: int) -> None:
        super().onMessageFrameBegin(length)
        if length < _TINY_FRAGMENT and self.current_frame.opcode == 0 and self.session is not None:
            self.session.control_frame()

    def onPing(self, payload: bytes) -> None:
        if self.session is not None:
            self.session.control_frame()
        self.sendPong(payload)

    def onPong(self, payload: bytes) -> None:
        if self._awaiting == _ANSWERED:
            self._awaiting = _PONGED
        elif self.session is not None:
            self.session.control_frame()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        pass

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        self.transport.write(data)

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

    def unregisterProducer(self) -> None:
        pass

    def _fail_connection(self, code: int = 1001, reason: str = "going away") -> None:
        if not self.failedByMe:
            self.factory.meter.error(_REASON_WORDS.get(CloseCode(code), "other"))
        word = _REASON_WORDS.get(CloseCode(code), "going_away")
        super()._fail_connection(code, close_reason(word, reason))

    def _in_hub(self) -> bool:
        return self.session is not None and self.session.outlet is not None

    def _leave(self) -> None:
        if self.session is not None and self.session.outlet is not None:
            self.session.end()


class OdinFactory(WebSocketServerFactory):  # type: ignore[misc] # autobahn has no types
    """Makes the connections of one server and decides on their handshakes."""

    _log = Logger()
    noisy = False

    def __init__(
        self,
        *,
        reactor: Any,
        context: Context,
        policy: Policy,
        wheel: Wheel,
        meter: Meter,
        http: Callable[[], HttpChannel],
    ) -> None:
        super().__init__(server=f"Odin/{__version__}", reactor=reactor)
        self.context = context
        self.policy = policy
        self.wheel = wheel
        self.meter = meter
        self.http = http
        self.connections = 0  # open WebSockets
        self.draining = False
        self.behind: set[OdinProtocol] = set()
        self.setProtocolOptions(
            versions=[13],
            webStatus=False,
            maxMessagePayloadSize=context.max_message_bytes,
            maxFramePayloadSize=context.max_message_bytes,
            failByDrop=False,
            openHandshakeTimeout=0,  # the wheel keeps all times
            closeHandshakeTimeout=0,
            autoPingInterval=0,
            perMessageCompressionAccept=_accept_deflate if policy.compression else _accept_none,
        )
        attributes: dict[str, Any] = {"factory": self, "trackedTimings": None}
        for name in WebSocketServerProtocol.CONFIG_ATTRS:
            value = getattr(self, name)
            attributes[name] = staticmethod(value) if callable(value) else value
        self.protocol = type("OdinProtocol", (OdinProtocol,), attributes)

    def buildProtocol(self, _address: object) -> OdinProtocol:
        protocol: OdinProtocol = self.protocol()
        return protocol

    def admit(self, head: handshake.RequestHead, transport: Any) -> Admission:
        """Decide on an upgrade, the cheap questions first. Raises: HandshakeRefused."""
        policy = self.policy
        key = handshake.check_upgrade(head)
        if head.path != policy.path:
            raise HandshakeRefused(404, "not_found", "no WebSocket here")
        if self.draining:
            raise HandshakeRefused(503, "draining", "restarting", (("Retry-After", "1"),))
        if policy.max_connections and self.connections >= policy.max_connections:
            raise HandshakeRefused(503, "full", "no room for more", (("Retry-After", "5"),))
        headers = head.headers
        if not policy.origins.allows(headers.get("origin"), headers["host"]):
            raise HandshakeRefused(403, "origin", "this Origin may not connect")
        address = policy.proxies.client(
            transport.getPeer().host, headers.get("x-forwarded-for"), headers.get("forwarded")
        )
        try:
            policy.addresses.take(address, self.context.monotonic())
        except RateLimited as error:
            wait = str(max(1, round(error.retry_after_s)))
            raise HandshakeRefused(
                429, "address_rate", "too many connections", (("Retry-After", wait),)
            ) from None
        identity = self._identity(head)
        protocols = handshake.protocols_of(head)
        return Admission(
            identity=identity,
            channels=self._channels(head, identity),
            protocol=handshake.PROTOCOL if handshake.PROTOCOL in protocols else None,
            key=key,
        )

    def ended(self, protocol: OdinProtocol, session: Session) -> None:
        """A WebSocket is gone: count it, by its close code and who began."""
        self.connections -= 1
        if protocol.closedByMe or (protocol.droppedByMe and not protocol.remoteCloseCode):
            initiator, code = "server", protocol.localCloseCode or ABNORMAL
        else:
            initiator, code = "client", protocol.remoteCloseCode or ABNORMAL
            if protocol.wasClean and not protocol.remoteCloseCode:
                code = 1005
        word = str(code) if code in _KNOWN_CODES else "other"
        seconds = self.context.monotonic() - session.opened_at
        self.meter.closed(word, initiator, seconds)

    def log_failure(self, text: str) -> None:
        """Log the exception that is being handled: a defect of ours."""
        self._log.failure(text)

    def _identity(self, head: handshake.RequestHead) -> Identity:
        token = handshake.token_of(head)
        if token is None:
            if not self.policy.require_auth:
                return ANONYMOUS
            cause = "missing"
        else:
            try:
                return self.context.verifier.verify(token)
            except Unauthorized as error:
                cause = error.cause
        self.meter.auth_failed(cause)
        challenge = "Bearer" if token is None else 'Bearer error="invalid_token"'
        raise HandshakeRefused(
            401,
            "unauthorized",
            "the token is missing or not valid",
            (("WWW-Authenticate", challenge),),
        )

    def _channels(
        self, head: handshake.RequestHead, identity: Identity
    ) -> frozenset[str] | None:
        names = handshake.channels_of(head)
        if names is None:
            return None
        if not all(map(is_pattern, names)):
            raise HandshakeRefused(400, "bad_channel", "a channel is no subject or pattern")
        if not all(permitted(identity.channels, each) for each in names):
            raise HandshakeRefused(403, "forbidden", "the token does not permit a channel")
        most = self.context.max_channels
        if most and len(set(names)) > most:
            raise HandshakeRefused(400, "limit_exceeded", f"at most {most} channels")
        return frozenset(names)


def _accept_deflate(offers: list[Any]) -> PerMessageDeflateOfferAccept | None:
    """Take a permessage-deflate offer (RFC 7692): messages to us may be compressed.

    The feed is sent as it is, which the extension allows message by message: one frame for all.
    """
    for offer in offers:
        if isinstance(offer, PerMessageDeflateOffer):
            return PerMessageDeflateOfferAccept(offer)
    return None


def _accept_none(_offers: list[Any]) -> None:
    return None
