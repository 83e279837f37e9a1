"""A client pays for what it sends: in the rate limit, and in the end with its connection."""

from collections.abc import Callable
from typing import Final, Protocol

from odin.access.limits import RateLimit
from odin.errors import LimitExceeded, RateLimited
from odin.gateway.answering import Answering, Shared
from odin.gateway.costs import TEXT_BYTES, cost, size_of_names
from odin.wire.codes import CloseCode, close_reason
from odin.wire.messages import AnyRequest, Reply, Subscribe, Unsubscribe, request_id

_OFFENCE_WINDOW_S: Final = 10
_MALFORMED: Final = RateLimit(5 / _OFFENCE_WINDOW_S, 4)  # the fifth in the window: 1008
_REFUSED: Final = RateLimit(20 / _OFFENCE_WINDOW_S, 19)  # rate-limit refusals; then 4429
_MIN_NAMES_PER_REQUEST: Final = 1024


class Terms(Shared, Protocol):
    """What holds for all clients of a server."""

    rate: RateLimit
    max_channels: int  # subscriptions per client, 0 = any number
    max_kept: int  # bytes that they, and its requests that wait, may take
    monotonic: Callable[[], float]


class Paying(Answering):
    """A client in its rate limit; each kind of offence has a bucket of its own."""

    __slots__ = ("_offences", "_tat")

    _context: Terms

    def __init__(self, context: Terms) -> None:
        super().__init__(context)
        self._tat = 0.0
        self._offences: tuple[tuple[str, float], ...] = ()  # (kind, its bucket)

    def control_frame(self) -> None:
        """A ping, an unasked pong or a short fragment: they count in the rate limit, too."""
        self._pay()

    def _pay(self, text: bytes = b"") -> bool:
        """Count one message in the rate limit; False if it must not be served."""
        context = self._context
        if not context.rate.rate:
            return True
        try:
            self._tat = context.rate.take(self._tat, context.monotonic())
        except RateLimited as error:
            self._refuse(error, request_id(text))
            if self._offends("rate", _REFUSED):
                self.close(CloseCode.RATE_LIMITED, close_reason("rate_limited", "back off"))
            return False
        if len(text) >= TEXT_BYTES:
            self._charge(len(text) // TEXT_BYTES)
        return True

    def _take(self, request: AnyRequest) -> Reply | None:
        """Pay for a request, and answer it in its turn. Raises: RequestError."""
        self._check_number_of_names(request)
        paid_for = cost(request, self._patterns())
        self._charge(paid_for - 1)
        room = self._context.max_kept - self._kept()
        return self.take(request, cheap=paid_for == 1, room=room)

    def _patterns(self) -> frozenset[str]:
        """What it gets."""
        return self.group.patterns if self.group is not None else frozenset()

    def _kept(self) -> int:
        """About how many bytes that takes."""
        group = self.group
        return size_of_names(len(group.patterns), group.text_size) if group is not None else 0

    def _malformed(self) -> None:
        """It sent something that is no JSON object."""
        if self._offends("malformed", _MALFORMED):
            text = "too many that are no JSON object"
            self.close(CloseCode.POLICY, close_reason("bad_messages", text))

    def _charge(self, count: int) -> None:
        if count:
            context = self._context
            self._tat = context.rate.charge(self._tat, count, context.monotonic())

    def _check_number_of_names(self, request: AnyRequest) -> None:
        most = max(_MIN_NAMES_PER_REQUEST, self._context.max_channels)
        if isinstance(request, Subscribe | Unsubscribe) and len(request.data.channels) > most:
            raise LimitExceeded(f"at most {most} channels in one request")

    def _offends(self, kind: str, limit: RateLimit) -> bool:
        """Count an offence; whether it is one too many of its kind."""
        buckets = dict(self._offences)
        try:
            buckets[kind] = limit.take(buckets.get(kind, 0.0), self._context.monotonic())
        except RateLimited:
            return True
        self._offences = tuple(buckets.items())
        return False
