"""One process takes the feed over from another, and nobody sees a seam.

With JetStream there is nothing to do: both read the same stream, with the same offsets. With plain
NATS each process numbers what it receives, so the successor goes on with the numbering of its
predecessor:

    predecessor:  record ........ state -> relay each message .............. end
    successor:            fence   (follows: own messages are kept, relayed ones are sent)  lead

Each message reaches the successor twice, by the relay and from the broker. Those of the broker
that the relay brought as well are dropped, by what they say and how often, whatever the order;
the others are the ones that the predecessor did not get any more.

Where to begin counting is told by a fence: a message that the successor sends through the broker
to both, once it is subscribed. What came before it to both counts for neither. The broker may
give two processes messages of two publishers in different orders, so what came within SETTLE_S of
the fence is compared as well.
"""

import secrets
from collections.abc import Callable
from typing import Any, Final

import msgspec
from zope.interface import implementer

from odin.bus.bridge import Bridge
from odin.bus.interfaces import FENCE, IBus, IReceiver
from odin.bus.overlap import Overlap, digest_of, digests
from odin.delivery.message import Message

SETTLE_S: Final = 0.5  # from the fence to the state, at least
_NO_FENCE_S: Final = 2.0  # after which none is expected any more: the broker forbids it
_CHUNK: Final = 1 << 20  # bytes of frames in one part of the state

Send = Callable[[str, object], None]


class FeedHead(msgspec.Struct):
    """The numbering; what `record` saw since it began, as digests, before and after the fence."""

    epoch: str
    offset: int
    floor: int
    live: bool
    before: bytes
    after: bytes


class Ring(msgspec.Struct):
    """A part of the history; without times, last values of channels."""

    messages: list[tuple[str, int, bytes]]  # channel, offset, frame
    times: list[float]


class Nonces(msgspec.Struct):
    """The nonces that were seen, by channel: texts, numbers, digests."""

    young: dict[str, list[Any]]
    old: dict[str, list[Any]]
    turned_at: float


class Relayed(msgspec.Struct):
    """Messages of the feed as the broker sent them."""

    messages: list[tuple[str, bytes, int]]  # subject, payload, offset


class Predecessor:
    """The side that gives the feed. `record` must begin before the successor subscribes."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._recorded: list[bytes] = []
        self._fences: dict[bytes, int] = {}  # how many were recorded before each
        self._relayed: list[tuple[str, bytes, int]] = []
        self._epoch: str | None = None  # when the state was given

    @property
    def unbroken(self) -> bool:
        """Whether nothing can have been missed since the state was given."""
        return self._epoch in (None, self._bridge.epoch)

    def record(self) -> None:
        """Remember what is received from now on."""
        self.stop()
        self._bridge.relay = self._record

    def stop(self) -> None:
        """The successor needs nothing any more, or is gone."""
        self._bridge.relay = None
        self._recorded.clear()
        self._fences.clear()
        self._relayed.clear()
        self._epoch = None

    def state(self, fence: bytes) -> list[tuple[str, object]]:
        """Messages (kind, content) that hold the whole feed; what comes from now on is relayed."""
        bridge, history, recorded = self._bridge, self._bridge.history, self._recorded
        at = self._fences.get(fence, 0)
        before, after = b"".join(recorded[:at]), b"".join(recorded[at:])
        self._epoch = bridge.epoch
        head = FeedHead(bridge.epoch, bridge.offset, history.floor, bridge.live, before, after)
        self._recorded = []
        bridge.relay = self._relay
        ring, times, last = history.contents()
        parts: list[tuple[str, object]] = [("feed", head)]
        parts += [("ring", Ring(each, [])) for each, _ in _chunks(last, [])]
        parts += [("ring", Ring(each, when)) for each, when in _chunks(ring, times)]
        parts.append(("nonces", Nonces(*bridge.nonces.contents())))
        return parts

    def flush(self, send: Send) -> None:
        """Send what is to be relayed."""
        if self._relayed:
            send("relayed", Relayed(self._relayed))
            self._relayed = []

    def _record(self, subject: str, payload: bytes, _offset: int) -> None:
        if subject == FENCE:
            self._fences[payload] = len(self._recorded)
        else:
            self._recorded.append(digest_of(subject, payload))

    def _relay(self, subject: str, payload: bytes, offset: int) -> None:
        if subject != FENCE:
            self._relayed.append((subject, payload, offset))


def _chunks(
    messages: list[Message], times: list[float]
) -> list[tuple[list[tuple[str, int, bytes]], list[float]]]:
    done, part, size, start = [], [], 0, 0
    for number, each in enumerate(messages):
        part.append((each.channel, each.offset, each.frame))
        size += len(each.frame)
        if size > _CHUNK or number == len(messages) - 1:
            done.append((part, times[start : number + 1]))
            part, size, start = [], 0, number + 1
    return done


@implementer(IReceiver)
class Follower:
    """Between bus and bridge of a successor, until it leads; of others it is not there."""

    def __init__(
        self, bus: IBus, bridge: Bridge, *, follows: bool, clock: Callable[[], float]
    ) -> None:
        self.following = follows
        self.fence = secrets.token_hex(16).encode()
        self._bus = bus
        self._bridge = bridge
        self._clock = clock
        self._adopted = False
        self._complete = False  # whether the whole state came
        self._gap = False
        self._connected = False
        self._connected_at = 0.0
        self._fenced_at: float | None = None
        self._overlap = Overlap()
        if follows:
            bus.attach(self)

    @property
    def ready(self) -> bool:
        """Whether the predecessor may give its state."""
        if not self.following:
            return self._bus.connected
        if not self._connected:
            return False
        if not self._bus.shared:
            return True
        if self._fenced_at is None:
            return self._clock() - self._connected_at > _NO_FENCE_S
        return self._clock() - self._fenced_at > SETTLE_S

    # -- from the bus

    def received(self, subject: str, payload: bytes, offset: int = 0) -> None:
        if not self.following and not self._overlap.expected:
            self._bridge.received(subject, payload, offset)
            return
        digest = digest_of(subject, payload)
        if self._overlap.known(digest):
            return
        if self.following:
            late = self._fenced_at is None or self._clock() - self._fenced_at > SETTLE_S
            self._overlap.keep(digest, (subject, payload), late=late)
        else:
            self._bridge.received(subject, payload, offset)

    def remember(self, subject: str, payload: bytes, offset: int, *, ring: bool) -> None:
        self._bridge.remember(subject, payload, offset, ring=ring)

    def controlled(self, subject: str, payload: bytes) -> None:
        if subject == FENCE and payload == self.fence and self.following and not self._adopted:
            self._fenced_at = self._clock()
            self._overlap.fence()
            return
        self._bridge.controlled(subject, payload)

    def status_changed(
        self, connected: bool, epoch: str | None = None, offset: int = 0, *, gap: bool = False
    ) -> None:
        if not self.following:
            self._bridge.status_changed(connected, epoch, offset, gap=gap)
            return
        if self._connected:  # it was there, and changed
            self._gap = True
            self._overlap.drop()
        self._connected = connected
        if connected and not self._gap:
            self._connected_at = self._clock()
            if self._bus.shared:
                self._bus.publish(FENCE, self.fence).addErrback(lambda _failure: None)

    # -- from the predecessor

    def adopt(self, head: FeedHead) -> None:
        """Go on with this numbering."""
        self._adopted = True
        self._bridge.adopt(head.epoch, head.offset, head.floor, live=head.live)
        if self._bus.shared:
            self._overlap.begin(digests(head.before), digests(head.after))

    def fill(self, ring: Ring) -> None:
        """Take a part of the history in."""
        self._bridge.refill(ring.messages, ring.times)

    def know(self, nonces: Nonces) -> None:
        """The last part of the state."""
        self._bridge.nonces.refill(nonces.young, nonces.old, nonces.turned_at)
        self._complete = True

    def relayed(self, messages: Relayed) -> None:
        for subject, payload, offset in messages.messages:
            if self._bus.shared:
                self._overlap.relayed(digest_of(subject, payload))
            self._bridge.received(subject, payload, offset)

    def lead(self, *, unbroken: bool = True) -> None:
        """The predecessor gives no more: the feed is ours. Idempotent.

        `unbroken`: whether it has received everything since it gave its state.
        """
        if not self.following:
            return
        self.following = False
        gap = self._gap or not (unbroken and self._complete and self._connected)
        self._bridge.status_changed(self._connected, gap=gap)
        for subject, payload in self._overlap.rest(unbroken=not gap):
            self._bridge.received(subject, payload)

    def forget(self) -> None:
        """Nothing that was relayed can be on its way from the broker any more."""
        self._overlap.forget()
