"""One client's conversation, no I/O: requests in, replies and notices out."""

from collections.abc import Callable
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final, Protocol

from odin import __version__
from odin.access.limits import RateLimit
from odin.access.tokens import ANONYMOUS, Identity, TokenVerifier
from odin.delivery.hub import Hub
from odin.errors import (
    BadChannel,
    Forbidden,
    NotJSON,
    RequestError,
    Unauthorized,
)
from odin.gateway.outflow import Outlet
from odin.gateway.subscribing import Replays, Subscriber
from odin.wire.codes import CloseCode, close_reason
from odin.wire.messages import (
    AnyRequest,
    Auth,
    AuthAck,
    ConnectionEstablished,
    FeedStatus,
    Heartbeat,
    HeartbeatReply,
    Ping,
    Pong,
    Position,
    Publish,
    PublishAck,
    Reconnect,
    Reply,
    Subscribe,
    Subscriptions,
    TokenExpiring,
    Unsubscribe,
    decode_request,
)
from odin.wire.subjects import is_subject, permitted

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

_CAPABILITIES: Final = ("price-updates", "trade-notifications", "market-stats")
_WARN_BEFORE_S: Final = 60  # tokenExpiring before the token ends
_GRACE_S: Final = 25  # and time after it to refresh, before 4401


class Publisher(Protocol):
    """The side of the bridge that a session uses."""

    epoch: str
    offset: int
    live: bool

    def publish(self, subject: str, payload: bytes) -> "Deferred[Any]": ...


class Context:
    """What all sessions of a server share."""

    def __init__(
        self,
        *,
        hub: Hub,
        bridge: Publisher,
        replays: Replays,
        verifier: TokenVerifier,
        rate: RateLimit,
        node: str,
        heartbeat_interval_ms: int,
        max_message_bytes: int,
        max_channels: int,
        max_kept: int,
        max_pending: int,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
        auth_failed: Callable[[str], None],
    ) -> None:
        """`max_channels`: subscriptions per client, 0 = any number. `max_kept`: bytes that they
        and the requests of one client may take, `max_pending`: that may wait for it. Clocks in
        seconds."""
        self.hub = hub
        self.bridge = bridge
        self.replays = replays
        self.verifier = verifier
        self.rate = rate
        self.node = node
        self.heartbeat_interval_ms = heartbeat_interval_ms
        self.max_message_bytes = max_message_bytes
        self.max_channels = max_channels
        self.max_kept = max_kept
        self.max_pending = max_pending
        self.monotonic = monotonic
        self.wall = wall
        self.auth_failed = auth_failed
        self.started = monotonic()
        self.opened = 0  # sessions so far
        self.numbered = 0  # the last number of a client id
        self.received = 0  # messages from clients
        self.replied = 0  # messages to single clients
        self.conflated = 0
        self.dropped = 0
        self._nonces = 0
        self.run = token_hex(3)  # a node's nonces stay different over a restart

    def nonce(self) -> str:
        """A new nonce for one of our own messages."""
        self._nonces += 1
        return f"{self.node}-{self.run}-{self._nonces}"

    def wall_ms(self) -> int:
        return int(self.wall() * 1000)


class Session(Subscriber):
    """A client from its open to its close.

    After `open` the hub sends to it (it is a Recipient) until `end`, which must be called exactly
    once, when the connection is lost or its close frame goes out.
    """

    __slots__ = ("_warned", "number", "opened_at")

    _context: Context

    def __init__(self, context: Context, identity: Identity = ANONYMOUS) -> None:
        super().__init__(context, identity)
        self.number = 0
        self.opened_at = 0.0
        self._warned = False

    @property
    def client_id(self) -> str:
        return f"{self._context.node}-{self.number:x}"

    def open(self, outlet: Outlet, sink: Any, channels: frozenset[str] | None = None) -> None:
        """Greet the client and let the feed begin.

        `sink`: the socket that may be sent to directly; None if all must go by `outlet`.
        `channels`: patterns asked for at connect (checked); None for everything it may see.
        """
        context = self._context
        context.opened += 1
        context.numbered += 1
        self.number = context.numbered
        self.opened_at = context.monotonic()
        self.outlet, self.sink = outlet, sink
        now_ms = context.wall_ms()
        self._reply(
            ConnectionEstablished(
                timestamp=now_ms,
                nonce=context.nonce(),
                clientId=self.client_id,
                serverTime=now_ms,
                capabilities=_CAPABILITIES,
                heartbeatInterval=context.heartbeat_interval_ms,
                maxMessageSize=context.max_message_bytes,
                epoch=context.bridge.epoch,
                offset=context.bridge.offset,
                node=context.node,
                version=__version__,
            )
        )
        if not context.bridge.live:
            self._reply(FeedStatus(status="stale"))
        self._explicit = channels is not None
        context.hub.register(self, self._default() if channels is None else channels)

    def end(self) -> None:
        """Leave the hub; no more is sent to this client."""
        self._context.hub.unregister(self)
        self.detach()

    def received(self, text: bytes) -> None:
        """One whole text message of the client, valid UTF-8, within the size limit."""
        context = self._context
        context.received += 1
        if not self._pay(text):
            return
        try:
            request = decode_request(text)
        except RequestError as error:
            self._refuse(error, error.request_id)
            if isinstance(error, NotJSON):
                self._malformed()
            return
        try:
            reply = _ANSWERS[type(request)](self, request)
        except RequestError as error:
            self._refuse(error, request.id)
        else:
            if reply is not None:
                self._reply(reply)

    def answer(self, request: AnyRequest) -> Reply | None:
        return _IN_TURN[type(request)](self, request)

    def token_event(self) -> float | None:
        """Warn before the token ends, close after its grace; seconds until there is more to do."""
        expires_at = self.identity.expires_at
        if expires_at is None:
            return None
        left = expires_at - self._context.wall()
        if left <= -_GRACE_S:
            reason = close_reason("token_expired", "refresh it and come back")
            self.close(CloseCode.TOKEN_EXPIRED, reason)
            return None
        if left > _WARN_BEFORE_S:
            return left - _WARN_BEFORE_S
        if not self._warned:
            self._warned = True
            self._reply(TokenExpiring(expiresAt=expires_at))
        return left + _GRACE_S

    def expect_restart(self, after_ms: int, resume: Position | None = None) -> None:
        """Tell the client that the connection will be closed, and where it is in the feed.

        `resume`: where it is, if that is not where the feed is.
        """
        bridge = self._context.bridge
        if resume is None:
            resume = Position(epoch=bridge.epoch, offset=bridge.offset)
        self._reply(Reconnect(afterMs=after_ms, resume=resume))

    def _ping(self, request: Ping) -> Reply:
        context = self._context
        nonce = request.nonce
        return Pong(
            id=request.id,
            timestamp=context.wall_ms(),
            nonce=context.nonce() if nonce is None or nonce == "" else nonce,
            originalTimestamp=request.timestamp,
            clientId=self.client_id,
        )

    def _heartbeat(self, request: Heartbeat) -> Reply:
        context = self._context
        now_ms = context.wall_ms()
        return HeartbeatReply(
            id=request.id,
            timestamp=now_ms,
            nonce=context.nonce(),
            serverTime=now_ms,
            uptime=int((context.monotonic() - context.started) * 1000),
        )

    def _auth(self, request: Auth) -> Reply:
        try:
            identity = self._context.verifier.verify(request.token)
        except Unauthorized as error:
            self._context.auth_failed(error.cause)
            raise
        self._warned = False
        self._become(identity)
        if self.outlet is not None:
            self.outlet.look_again()
        assert identity.expires_at is not None  # a verified token has one
        return AuthAck(id=request.id, userId=identity.user_id, expiresAt=identity.expires_at)

    def _publish(self, request: Publish) -> None:
        if not is_subject(request.channel):
            raise BadChannel("not a subject: no wildcards, spaces or empty tokens")
        self._check_token()
        if not permitted(self.identity.publish, request.channel):
            raise Forbidden("the token does not permit publishing here")
        done = self._context.bridge.publish(request.channel, bytes(request.data))
        self._await(done)
        done.addCallbacks(
            lambda receipt: self._reply(_published(request, receipt)),
            lambda failure: self._failed("publishing", failure, request.id),
        )

    def _await(self, answer: "Deferred[Any]") -> None:
        """Count an answer as outstanding until it is there."""
        self.awaiting += 1

        def there(result: Any) -> Any:
            self.awaiting -= 1
            return result

        answer.addBoth(there)


def _published(request: Publish, receipt: Any) -> PublishAck:
    """`receipt`: where the message is in the feed, None if the bus does not store it."""
    if receipt is None:
        return PublishAck(id=request.id)
    return PublishAck(id=request.id, offset=receipt.offset, epoch=receipt.epoch)


_Answers = dict[type[AnyRequest], Callable[[Session, Any], Reply | None]]
_IN_TURN: Final[_Answers] = {
    Subscribe: Session._subscribe,
    Unsubscribe: Session._unsubscribe,
    Subscriptions: Session._subscriptions,
    Auth: Session._auth,
}
_ANSWERS: Final[_Answers] = dict.fromkeys(_IN_TURN, Session._take) | {
    Ping: Session._ping,
    Heartbeat: Session._heartbeat,
    Publish: Session._publish,
}
