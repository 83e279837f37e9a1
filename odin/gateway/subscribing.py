"""What a client is subscribed to, and its requests to read or change that.

What was published until a request is carried out goes by the old patterns. Then comes the
acknowledgement, then the replay or the snapshot, then the feed by the new patterns. Permissions
and limits are those of that moment, not of the moment at which the request came.
"""

from collections.abc import Callable
from typing import Final, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from odin.access.tokens import Identity
from odin.delivery.hub import Hub
from odin.delivery.playback import Playback
from odin.errors import BadChannel, Forbidden, LimitExceeded, RequestError, Unauthorized
from odin.gateway.costs import size_of_names
from odin.gateway.outflow import Watch
from odin.gateway.paying import Paying, Terms
from odin.wire.messages import (
    Rejection,
    Reply,
    Subscribe,
    SubscriptionAck,
    SubscriptionList,
    Subscriptions,
    Unsubscribe,
    UnsubscriptionAck,
)
from odin.wire.subjects import EVERYTHING, is_pattern, permission

_NO_PATTERN: Final = "not a subject or pattern (a.b, a.*, a.>), at most 255 bytes and 16 tokens"
_EVERYTHING: Final = frozenset((EVERYTHING,))


class Replays(Watch, Protocol):
    """Where a client's missed messages come from."""

    def replay(
        self, patterns: frozenset[str], epoch: str, offset: int, gone: Callable[[], bool]
    ) -> "Playback | Deferred[Playback | None] | None": ...

    def snapshot(self, patterns: frozenset[str]) -> Playback: ...


class Feed(Protocol):
    """Where the feed is."""

    epoch: str
    offset: int


class Surroundings(Terms, Protocol):
    """What subscriptions need of it."""

    @property
    def hub(self) -> Hub: ...
    @property
    def bridge(self) -> Feed: ...
    @property
    def replays(self) -> Replays: ...
    @property
    def wall(self) -> Callable[[], float]:
        """Seconds since 1970."""


class Subscriber(Paying):
    """A client and its subscriptions. Its methods answer requests that `take` has let through."""

    __slots__ = ("_explicit", "identity")

    _context: Surroundings

    def __init__(self, context: Surroundings, identity: Identity) -> None:
        super().__init__(context)
        self._explicit = False  # has it ever subscribed, or does it get everything it may see
        self.identity = identity

    def _subscribe(self, request: Subscribe) -> None:
        self._check_token()
        subscribed, rejected = self._sorted(request.data.channels)
        recover = request.data.recover
        found = None
        if subscribed and recover is not None:
            patterns = self._own_patterns().union(subscribed)
            found = self._context.replays.replay(
                patterns, recover.epoch, recover.offset, self._is_gone
            )
        if isinstance(found, Deferred):
            # what was checked holds still then: no other request is carried out before
            self._wait_for(found, lambda it: self._found(it, request, subscribed, rejected))
        else:
            self._subscribed(found, request, subscribed, rejected)

    def _found(
        self,
        found: Playback | Failure | None,
        request: Subscribe,
        subscribed: list[str],
        rejected: list[Rejection],
    ) -> None:
        if isinstance(found, Failure):
            self._failed("recovering", found, request.id)
            return
        try:
            self._check_token()  # it took its time
        except Unauthorized as error:
            self._refuse(error, request.id)
        else:
            self._subscribed(found, request, subscribed, rejected)

    def _subscribed(
        self,
        replay: Playback | None,
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
        if replay and wanted.recover is not None:
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
            self.play(replay)
        elif wanted.snapshot and subscribed:
            self.play(context.replays.snapshot(frozenset(subscribed)))

    def _unsubscribe(self, request: Unsubscribe) -> Reply:
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
            patterns = frozenset(filter(permission(identity.channels), self._patterns()))
        self._context.hub.resubscribe(self, patterns)

    def _check_token(self) -> None:
        """Raises: Unauthorized, if it has ended: what is there goes on, for a time of grace."""
        self.identity.check(self._context.wall())

    def _is_gone(self) -> bool:
        return self.outlet is None

    def _default(self) -> frozenset[str]:
        """What a client gets that never subscribed: everything it may see."""
        channels = self.identity.channels
        return _EVERYTHING if channels is None else frozenset(channels)

    def _own_patterns(self) -> frozenset[str]:
        """What it subscribed to itself; the first subscription replaces the default."""
        return self._patterns() if self._explicit else frozenset()

    def _sorted(self, channels: list[str]) -> tuple[list[str], list[Rejection]]:
        """(channels to subscribe to, refusals of the others)."""
        own = self._own_patterns()
        room = _Room(len(own), self._kept() if own else 0, self._context)
        may_see = permission(self.identity.channels)
        subscribed: dict[str, None] = {}
        rejected = []
        for channel in channels:
            try:
                if not is_pattern(channel):
                    raise BadChannel(_NO_PATTERN)
                if not may_see(channel):
                    raise Forbidden("the token does not permit this channel")
                if channel not in own and channel not in subscribed:
                    room.take(channel)
            except RequestError as error:
                rejected.append(
                    Rejection(channel=channel[:255], code=error.code, message=str(error))
                )
            else:
                subscribed[channel] = None
        return list(subscribed), rejected


class _Room:
    """How many more subscriptions a client may have."""

    def __init__(self, count: int, size: int, context: Terms) -> None:
        """`count`, `size`: of those that it has."""
        self._context = context
        self._count = count
        self._size = size

    def take(self, channel: str) -> None:
        """Count one more. Raises: LimitExceeded."""
        most, most_bytes = self._context.max_channels, self._context.max_kept
        size = self._size + size_of_names(1, len(channel))
        if most and self._count >= most:
            raise LimitExceeded(f"at most {most} channels per client")
        if size > most_bytes:
            raise LimitExceeded(f"the names of a client's channels take {most_bytes} bytes at most")
        self._count += 1
        self._size = size
