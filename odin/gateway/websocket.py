"""The WebSocket edge: an OdinProtocol for each connection (made by `factory`).

    TCP connection -> OpeningProtocol -> OdinProtocol -> Session
                      (see `plain`)      (frames: see `resting`)

One port serves both. A connection is HTTP until an upgrade, also after it was kept alive for some
requests, as a proxy does it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from autobahn.websocket.protocol import WebSocketProtocol
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from odin.gateway import handshake
from odin.gateway.admission import Admission
from odin.gateway.deflate import (
    is_deflate_offer,
)
from odin.gateway.opening import OpeningProtocol
from odin.gateway.session import Session
from odin.wire.codes import CloseCode, close_reason
from odin.wire.frames import PING

if TYPE_CHECKING:
    from odin.gateway.factory import OdinFactory

CLOSE_TIMEOUT_S: Final = 5  # for the peer's close frame, and for the last bytes to leave
_SMALL_FRAGMENT: Final = 1024  # bytes; smaller fragments count in the rate limit
_REASON_WORDS: Final = {
    CloseCode.PROTOCOL_ERROR: "protocol_error",
    CloseCode.INVALID_PAYLOAD: "invalid_payload",
    CloseCode.TOO_BIG: "too_big",
}
_SLOTS: Final = ("_ping", "bucket", "session")

# What is known of the last ping: none sent, sent, something came since, its pong came.
_NOTHING, _PINGED, _ALIVE, _PONGED = range(4)


class OdinProtocol(OpeningProtocol):
    """One connection: its handshake, its keep-alive, and its end."""

    __slots__ = _SLOTS

    factory: "OdinFactory"
    _answer = b""  # the 101, until the welcome goes out with it

    def __init__(self) -> None:
        super().__init__()
        self.session: Session | None = None
        self.bucket: set[Any] | None = None
        self._ping = _NOTHING

    # -- from Twisted

    def connectionMade(self) -> None:
        self.begin()
        self.factory.transports += 1
        self.factory.wheel.set(self, self.factory.times.handshake_s)

    def dataReceived(self, data: bytes) -> None:
        state = self.state
        if state == self.STATE_OPEN:
            if self._ping == _PINGED:
                self._ping = _ALIVE
            self.feed(data)
        elif state == self.STATE_CLOSING:
            self.seek_close(data)
        elif state == self.STATE_CONNECTING and not self._over:
            self.http_received(data)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        factory = self.factory
        factory.transports -= 1
        factory.wheel.clear(self)
        factory.behind.discard(self)
        self.http_lost(reason)
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
        else:
            self.http_left()

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

    @property
    def behind(self) -> bool:
        return bool(self.transport.behind)

    @property
    def pinged(self) -> bool:
        """Whether a pong is awaited."""
        return self._ping == _PINGED

    def hold(self, data: bytes, sent: int) -> None:
        self.transport.hold(data, sent)

    def close(self, code: CloseCode, reason: str) -> None:
        if self.state == self.STATE_OPEN and self._attached():
            self.sendCloseFrame(int(code), reason.encode())

    def look_again(self) -> None:
        if self.state == self.STATE_OPEN:
            if self._ping == _PINGED:
                self._ping = _ALIVE  # due before the pong has to be there
            self.factory.wheel.set(self, 0.0)

    # -- from the wheel

    def due(self) -> None:
        """The deadline: of the handshake, the request, the pong, or the end."""
        if self.transport is None:
            return
        if self.state == self.STATE_OPEN:
            self._keep_alive()
        elif self.state == self.STATE_CONNECTING and not self._over:
            self.http_late()
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
        wait_s = times.ping_interval_s
        if wait_s and self._ping != _NOTHING:
            self._ping = _NOTHING
            wait_s = max(wait_s - times.pong_s, 0.0)
        elif wait_s and (token_s is None or token_s > times.pong_s):
            self._ping = _PINGED
            self.transport.write(PING)
            wait_s = times.pong_s
        self._wait(wait_s, token_s)

    def wait(self, wait_s: float) -> None:
        """Be due in `wait_s` seconds, unless there are no pings, or earlier for the token."""
        assert self.session is not None
        token_s = self.session.token_event()
        if self.state == self.STATE_OPEN:
            self._wait(wait_s, token_s)

    def _wait(self, wait_s: float, token_s: float | None) -> None:
        pings = self.factory.times.ping_interval_s > 0
        if token_s is not None and (token_s <= wait_s or not pings):
            wait_s = token_s
            if self._ping == _PINGED:
                self._ping = _ALIVE  # due before the pong has to be there
        if pings or token_s is not None:
            self.factory.wheel.set(self, wait_s)
        else:
            self.factory.wheel.clear(self)

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        if self.state == self.STATE_CONNECTING:
            self._answer = data
        else:
            self.transport.write(data)

    # -- from the opening

    def upgrade(self, head: handshake.RequestHead, admission: Admission, rest: bytes) -> None:
        """Answer 101; `rest` came behind the head."""
        if admission.echo:
            self.__class__ = self.factory.echo_protocol
        self.data = rest
        self.websocket_protocols = handshake.protocols_of(head)
        offers = head.headers.get("sec-websocket-extensions")
        parsed = self._parseExtensionsHeader(offers) if offers else ()
        self.websocket_extensions = [each for each in parsed if is_deflate_offer(*each)]
        self._wskey = admission.key
        self._admission = admission
        self.succeedHandshake(admission.protocol)
        self.parsed()

    # -- from Autobahn, and from the lane

    def _onOpen(self) -> None:
        factory = self.factory
        admission: Admission = self._admission
        self.session = session = self._session(admission)
        factory.seats.change(1)
        factory.opened += 1
        session.open(self, self.transport.sink, admission.channels)
        if self._answer:
            self.write(b"")
        self.wait(factory.times.ping_interval_s)

    def _session(self, admission: Admission) -> Session:
        return Session(self.factory.context, admission.identity)

    def later(self, step: Callable[[], None]) -> None:
        self.factory.context.hub.later(step)

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
        else:
            self._count()

    def _count(self) -> None:
        """What is no message counts in the rate limit, too."""
        if self.state == self.STATE_OPEN and self.session is not None:
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
        if length < _SMALL_FRAGMENT and not self.current_frame.fin:
            self._count()

    def onPing(self, payload: bytes) -> None:
        self._count()
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
