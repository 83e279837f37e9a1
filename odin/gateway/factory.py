"""Makes the connections of one server, and holds what all of them share."""

from typing import Any, Final, NamedTuple, Protocol, cast

from autobahn.twisted.websocket import WebSocketServerFactory
from twisted.logger import Logger

from odin import __version__
from odin.access.limits import Seats
from odin.errors import HandshakeRefused
from odin.gateway import handshake
from odin.gateway.admission import RETRY_LATER, Admission, Admissions
from odin.gateway.deflate import accept_any_deflate, accept_deflate, accept_none
from odin.gateway.plain import MakeExchange, refusal_of
from odin.gateway.session import Context, Session
from odin.gateway.timers import Wheel
from odin.gateway.websocket import OdinProtocol
from odin.wire.codes import ABNORMAL, NO_STATUS, CloseCode

ECHO_MAX_BYTES: Final = 16 << 20
_LATE_S: Final = 0.02
_KNOWN_CODES: Final = frozenset(int(code) for code in CloseCode) | {NO_STATUS, ABNORMAL}


class Meter(Protocol):
    """What the edge tells about its connections."""

    def rejected(self, cause: str) -> None: ...
    def closed(self, code: str, initiator: str, seconds: float) -> None: ...
    def error(self, kind: str) -> None: ...


class Times(NamedTuple):
    """How long things may take, in seconds."""

    handshake_s: float
    read_s: float  # for a plain request
    write_s: float  # without a byte taken by the peer
    ping_interval_s: float  # 0 = no pings
    pong_s: float


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
        seats: Seats,
        most_transports: int,
        compression: bool,
        wheel: Wheel,
        meter: Meter,
        http: MakeExchange,
        echo: type[OdinProtocol] | None = None,
    ) -> None:
        """`most_transports`: connections of all kinds, beyond which descriptors run out."""
        super().__init__(server=f"Odin/{__version__}", reactor=reactor)
        self.context = context
        self.times = times
        self.wheel = wheel
        self.meter = meter
        self.http = http
        self.later = context.hub.later
        self.max_body_bytes = context.max_message_bytes
        self.seats = seats
        self.opened = 0  # WebSockets since the start
        self.transports = 0  # connections of all kinds
        self._most_transports = most_transports
        self.draining = False
        self.behind: set[OdinProtocol] = set()
        self._admissions = admissions
        self.setProtocolOptions(
            versions=[13],
            webStatus=False,
            maxMessagePayloadSize=context.max_message_bytes,
            maxFramePayloadSize=context.max_message_bytes,
            failByDrop=False,  # True would hide 1002, 1007 and 1009 behind a dropped connection
            openHandshakeTimeout=0,  # the wheel keeps all times
            closeHandshakeTimeout=0,
            perMessageCompressionAccept=accept_deflate if compression else accept_none,
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
    def connections(self) -> int:
        """Open WebSockets."""
        return self.seats.taken

    @property
    def full(self) -> bool:
        return self.seats.full

    @property
    def room(self) -> int:
        """For how many more connections, of whatever kind, there are descriptors."""
        return self._most_transports - self.transports

    @property
    def pressed(self) -> bool:
        """Whether the feed is late, so that newcomers have to wait."""
        return self.context.hub.pressed(_LATE_S)

    def refusal(self) -> bytes:
        """What somebody gets for whom there is no descriptor; counted."""
        self.meter.rejected("full")
        return refusal_of(HandshakeRefused(503, "full", "no room", RETRY_LATER))

    def buildProtocol(self, _address: object) -> OdinProtocol:
        return cast("OdinProtocol", self.protocol())

    def decide(self, head: handshake.RequestHead, transport: Any) -> Admission:
        """Raises: HandshakeRefused."""
        return self._admissions.decide(head, lambda: getattr(transport.getPeer(), "host", ""), self)

    def ended(self, protocol: OdinProtocol, session: Session) -> None:
        """A WebSocket is gone: count it, by its close code and who began."""
        self.seats.change(-1)
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
