"""What a client is subscribed to, and its requests to read or change that: one after the other.

    request -> take -> answer             nothing is under way: at once
                    -> Line -> answer     when all requests before it have been carried out

A request is carried out whole before the next one begins: what was published until then goes by
the old patterns, then comes the acknowledgement, then the replay or the snapshot, then the feed by
the new patterns. One that waits for the broker holds back those behind it, and so does one that
brings a replay while the client has not read the last. Permissions and limits are those of the
moment at which a request is carried out, not of the moment at which it came.
"""

from collections.abc import Iterable
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from odin.access.tokens import Identity
from odin.delivery.history import Replay
from odin.delivery.hub import Hub
from odin.errors import BadChannel, Forbidden, LimitExceeded, RateLimited, RequestError
from odin.gateway.line import Line
from odin.gateway.outflow import Outflow, Tally
from odin.wire.codes import CloseCode, close_reason
from odin.wire.frames import text_frame
from odin.wire.messages import (
    AnyRequest,
    Error,
    Rejection,
    Reply,
    Subscribe,
    SubscriptionAck,
    SubscriptionList,
    Subscriptions,
    Unsubscribe,
    UnsubscriptionAck,
    encode,
)
from odin.wire.subjects import EVERYTHING, is_pattern, permitted

_MIN_NAMES_PER_REQUEST: Final = 1024
_EVERYTHING: Final = frozenset((EVERYTHING,))
_NOTHING: Final[frozenset[str]] = frozenset()


class Replays(Protocol):
    """Where a client's missed messages come from."""

    def replay(
        self, patterns: frozenset[str], epoch: str, offset: int
    ) -> "Replay | Deferred[Replay | None] | None": ...

    def snapshot(self, patterns: frozenset[str]) -> Iterable[bytes]: ...


class Feed(Protocol):
    """Where the feed is."""

    epoch: str
    offset: int


class Surroundings(Tally, Protocol):
    """What all clients of a server have in common here."""

    replied: int  # messages to single clients

    @property
    def hub(self) -> Hub: ...
    @property
    def bridge(self) -> Feed: ...
    @property
    def replays(self) -> Replays: ...
    @property
    def max_channels(self) -> int:
        """Subscriptions per client, 0 = any number."""


class Subscriber(Outflow):
    """A client and its subscriptions.

    `answer` is for the subclass to define; the methods below answer those requests that it hands
    to `take`, and no others.
    """

    __slots__ = ("_context", "_explicit", "_line", "awaiting", "identity")

    _log = Logger()

    def __init__(self, context: Surroundings, identity: Identity) -> None:
        super().__init__(context)
        self._context = context
        self._explicit = False  # has it ever subscribed, or does it get everything it may see
        self._line: Line | None = None  # only while a request is under way
        self.identity = identity
        self.awaiting = 0  # a line, and answers of the broker that are outstanding elsewhere

    def answer(self, request: AnyRequest) -> Reply | None:
        """Carry a request out; its reply, if that was not sent already. Raises: RequestError."""
        raise NotImplementedError

    # -- one after the other

    def take(self, request: AnyRequest) -> Reply | None:
        """Answer a request now, or when those before it have been carried out.

        Raises: RequestError.
        """
        line = self._line
        if line is None:
            if self._may_begin(request):
                return self.answer(request)
            line = self._begin_line()
        line.add(request)
        return None

    def caught_up(self, sink: Any) -> None:
        super().caught_up(sink)
        if self._line is not None:
            try:
                self._go_on()
            except Exception:
                self._broken(Failure())

    def detach(self) -> None:
        super().detach()
        self._end_line()

    def _begin_line(self) -> Line:
        self._line = line = Line()
        self.awaiting += 1
        return line

    def _end_line(self) -> None:
        if self._line is not None:
            self._line = None
            self.awaiting -= 1

    def _go_on(self) -> None:
        """Carry out what waits, up to a request that has to wait itself."""
        line = self._line
        while line is not None and line is self._line and not line.asking:
            head = line.head
            if head is None:
                self._end_line()
            elif self._may_begin(head):
                self._carry_out(line.pop())
            else:
                return

    def _carry_out(self, request: AnyRequest) -> None:
        try:
            reply = self.answer(request)
        except RequestError as error:
            self._refuse(error, request.id)
        else:
            if reply is not None:
                self._reply(reply)

    def _may_begin(self, request: AnyRequest) -> bool:
        """Whether a request brings no replay, or no other one waits for the client to read it."""
        if not isinstance(request, Subscribe):
            return True
        backlog, wanted = self._backlog, request.data
        return backlog is None or not (
            (wanted.snapshot or wanted.recover is not None) and backlog.replaying
        )

    # -- the requests

    def _subscribe(self, request: Subscribe) -> None:
        self._check_number_of_names(request.data.channels)
        subscribed, rejected = self._sorted(request.data.channels)
        recover = request.data.recover
        found = None
        if subscribed and recover is not None:
            patterns = self._own_patterns().union(subscribed)
            found = self._context.replays.replay(patterns, recover.epoch, recover.offset)
        if isinstance(found, Deferred):
            line = self._line or self._begin_line()
            line.asking = True
            found.addBoth(self._found, line, request, subscribed, rejected)
            found.addErrback(self._broken)
        else:
            self._subscribed(found, request, subscribed, rejected)

    def _found(
        self,
        found: Replay | Failure | None,
        line: Line,
        request: Subscribe,
        subscribed: list[str],
        rejected: list[Rejection],
    ) -> None:
        """The broker has answered. What was checked holds still: nothing came in between."""
        if self._line is not line:
            return  # gone, while the broker was asked
        line.asking = False
        if isinstance(found, Failure):
            self._failed("recovering", found, request.id)
        else:
            self._subscribed(found, request, subscribed, rejected)
        self._go_on()

    def _subscribed(
        self,
        replay: Replay | None,
        request: Subscribe,
        subscribed: list[str],
        rejected: list[Rejection],
    ) -> None:
        """Acknowledge; then comes what was missed or else the snapshot, and the feed goes on."""
        context, wanted = self._context, request.data
        patterns = self._own_patterns().union(subscribed)
        self._explicit = self._explicit or bool(subscribed)
        # also if nothing changes: the acknowledgement has an offset
        context.hub.resubscribe(self, patterns if subscribed else self._patterns())
        offset = context.bridge.offset
        if replay is not None and replay.messages and wanted.recover is not None:
            offset = wanted.recover.offset  # what follows goes on from there
        self._reply(
            SubscriptionAck(
                id=request.id,
                subscribed=subscribed,
                rejected=rejected,
                count=len(patterns),
                epoch=context.bridge.epoch,
                offset=offset,
                recovered=None if wanted.recover is None else replay is not None,
            )
        )
        if replay is not None:
            self.play(replay.chunks)
        elif wanted.snapshot and subscribed:
            self.play(context.replays.snapshot(frozenset(subscribed)))

    def _unsubscribe(self, request: Unsubscribe) -> Reply:
        self._check_number_of_names(request.data.channels)
        current = self._patterns()
        gone = [each for each in dict.fromkeys(request.data.channels) if each in current]
        remaining = current.difference(gone)
        if gone:
            self._explicit = True
            self._context.hub.resubscribe(self, remaining)
        return UnsubscriptionAck(id=request.id, unsubscribed=gone, count=len(remaining))

    def _subscriptions(self, request: Subscriptions) -> Reply:
        channels = sorted(self._patterns())
        return SubscriptionList(id=request.id, channels=channels, count=len(channels))

    def _become(self, identity: Identity) -> None:
        """Be somebody else; subscriptions that the new permissions do not cover end."""
        self.identity = identity
        patterns = self._default()
        if self._explicit:
            kept = (each for each in self._patterns() if permitted(identity.channels, each))
            patterns = frozenset(kept)
        self._context.hub.resubscribe(self, patterns)

    def _default(self) -> frozenset[str]:
        """What a client gets that never subscribed: everything it may see."""
        channels = self.identity.channels
        return _EVERYTHING if channels is None else frozenset(channels)

    def _patterns(self) -> frozenset[str]:
        """What it gets."""
        return self.group.patterns if self.group is not None else _NOTHING

    def _own_patterns(self) -> frozenset[str]:
        """What it subscribed to itself; the first subscription replaces the default."""
        return self._patterns() if self._explicit else _NOTHING

    def _sorted(self, channels: list[str]) -> tuple[list[str], list[Rejection]]:
        """(channels to subscribe to, refusals of the others)."""
        wanted = set(self._own_patterns())
        subscribed: dict[str, None] = {}
        rejected = []
        for channel in channels:
            try:
                self._check_channel(channel, 0 if channel in wanted else len(wanted) + 1)
            except RequestError as error:
                rejected.append(
                    Rejection(channel=channel[:255], code=error.code, message=str(error))
                )
            else:
                wanted.add(channel)
                subscribed[channel] = None
        return list(subscribed), rejected

    def _check_number_of_names(self, channels: list[str]) -> None:
        most = max(_MIN_NAMES_PER_REQUEST, self._context.max_channels)
        if len(channels) > most:
            raise LimitExceeded(f"at most {most} channels in one request")

    def _check_channel(self, channel: str, count: int) -> None:
        """Raises: BadChannel, Forbidden, LimitExceeded. `count`: subscriptions it would make."""
        if not is_pattern(channel):
            raise BadChannel("not a subject or pattern (a.b, a.*, a.>), at most 255 bytes")
        if not permitted(self.identity.channels, channel):
            raise Forbidden("the token does not permit this channel")
        limit = self._context.max_channels
        if limit and count > limit:
            raise LimitExceeded(f"at most {limit} channels per client")

    # -- answers

    def _reply(self, message: Reply) -> None:
        if self.outlet is not None:
            self._context.replied += 1
            self.tell(text_frame(encode(message)))

    def _refuse(self, error: RequestError, request_id: int | str | None) -> None:
        retry_after_ms = None
        if isinstance(error, RateLimited):
            retry_after_ms = max(1, round(error.retry_after_s * 1000))
        self._reply(
            Error(id=request_id, code=error.code, message=str(error), retryAfterMs=retry_after_ms)
        )

    def _failed(self, what: str, failure: Failure, request_id: int | str | None) -> None:
        error = failure.value
        if isinstance(error, RequestError):
            self._refuse(error, request_id)
        else:
            self._log.failure("{what} failed", failure, what=what)
            self._refuse(RequestError("the server failed"), request_id)

    def _broken(self, failure: Failure) -> None:
        """A defect, while a request was carried out: nobody knows how far it got."""
        self._log.failure("a request failed", failure)
        self.close(CloseCode.INTERNAL, close_reason("internal"))
