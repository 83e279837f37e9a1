"""Who may connect: the decision on a handshake, the cheap questions first."""

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from odin.access.limits import AddressLimit
from odin.access.origins import OriginPolicy, TrustedProxies
from odin.access.tokens import ANONYMOUS, Identity, TokenVerifier
from odin.errors import HandshakeRefused, RateLimited, Unauthorized
from odin.gateway import handshake
from odin.wire.subjects import is_pattern, permission

_RETRY_SOON: Final = (("Retry-After", "1"),)
RETRY_LATER: Final = (("Retry-After", "5"),)


class Admission(NamedTuple):
    """What was decided about a handshake that may go on."""

    key: str
    echo: bool  # the compliance endpoint, not the feed
    protocol: str | None = None
    identity: Identity = ANONYMOUS
    channels: frozenset[str] | None = None


class Admissions:
    """Decides for one server. `full` says whether there is room for one more."""

    def __init__(
        self,
        *,
        path: str,
        echo_path: str | None,
        origins: OriginPolicy,
        proxies: TrustedProxies,
        addresses: AddressLimit,
        verifier: TokenVerifier,
        require_auth: bool,
        max_channels: int,
        clock: Callable[[], float],
        auth_failed: Callable[[str], None],
    ) -> None:
        self._path = path.rstrip("/")
        self._echo_path = echo_path
        self._origins = origins
        self._proxies = proxies
        self._addresses = addresses
        self._verifier = verifier
        self._require_auth = require_auth
        self._max_channels = max_channels
        self._clock = clock
        self._auth_failed = auth_failed

    def decide(
        self, head: handshake.RequestHead, peer: Callable[[], str], house: "House"
    ) -> Admission:
        """Whether a client may come in; `peer` gives the other end's address.

        Raises: HandshakeRefused.
        """
        key = handshake.check_upgrade(head)
        echo = head.path == self._echo_path
        if head.path != self._path and not echo:
            raise HandshakeRefused(404, "not_found", "no WebSocket here")
        if house.draining:
            raise HandshakeRefused(503, "draining", "restarting", _RETRY_SOON)
        if house.full:
            raise HandshakeRefused(503, "full", "no room", RETRY_LATER)
        headers = head.headers
        proxied = "x-forwarded-for" in headers or "forwarded" in headers
        if not self._origins.allows(headers.get("origin"), headers["host"], proxied=proxied):
            raise HandshakeRefused(403, "origin", "this Origin may not connect")
        if self._addresses.active:
            self._count(head, peer())
        if echo:
            return Admission(key, echo)
        identity = self._identity(head)
        offered = handshake.protocols_of(head)
        protocol = handshake.PROTOCOL if handshake.PROTOCOL in offered else None
        return Admission(key, echo, protocol, identity, self._channels(head, identity))

    def _count(self, head: handshake.RequestHead, peer: str) -> None:
        """Count the connection for the client's address. Raises: HandshakeRefused."""
        address = self._proxies.client(peer, head.headers)
        try:
            self._addresses.take(address, self._clock())
        except RateLimited as error:
            wait_s = str(max(1, round(error.retry_after_s)))
            raise HandshakeRefused(
                429, "address_rate", "too many connections", (("Retry-After", wait_s),)
            ) from None

    def _identity(self, head: handshake.RequestHead) -> Identity:
        """Raises: HandshakeRefused 401, the same for every cause."""
        token = handshake.token_of(head)
        if token is None:
            if not self._require_auth:
                return ANONYMOUS
            cause = "missing"
        else:
            try:
                return self._verifier.verify(token)
            except Unauthorized as error:
                cause = error.cause
        self._auth_failed(cause)
        challenge = "Bearer" if token is None else 'Bearer error="invalid_token"'
        raise HandshakeRefused(
            401,
            "unauthorized",
            "the token is missing or not valid",
            (("WWW-Authenticate", challenge),),
        )

    def _channels(self, head: handshake.RequestHead, identity: Identity) -> frozenset[str] | None:
        """The patterns of `?channels=`. Raises: HandshakeRefused 400, 403."""
        names = handshake.channels_of(head)
        if names is None:
            return None
        if not all(map(is_pattern, names)):
            raise HandshakeRefused(400, "bad_channel", "a channel is no subject or pattern")
        if not all(map(permission(identity.channels), names)):
            raise HandshakeRefused(403, "forbidden", "the token does not permit a channel")
        if self._max_channels and len(set(names)) > self._max_channels:
            raise HandshakeRefused(400, "limit_exceeded", f"at most {self._max_channels} channels")
        return frozenset(names)


class House(Protocol):
    """The state of the server that a decision depends on."""

    draining: bool

    @property
    def full(self) -> bool: ...
