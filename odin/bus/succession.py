"""One process takes the feed over from another, and nobody sees a seam.

With JetStream there is nothing to do: both read the same stream, with the same offsets. With plain
NATS each process numbers what it receives, so the successor goes on with the numbering of its
predecessor:

    predecessor:  record -> state -> relay each message .................. end
    successor:    (follows: own messages are kept, relayed ones are sent)  lead

Each message reaches the successor twice, by the relay and from the broker. Those of the broker
that the relay brought as well are dropped, by what they say and how often, whatever the order;
the others are the ones that the predecessor did not get any more.
"""

from collections import Counter, deque
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final

import msgspec
from zope.interface import implementer

from odin.bus.bridge import Bridge
from odin.bus.interfaces import IBus, IReceiver
from odin.delivery.message import Message

_DIGEST: Final = 12  # bytes
_CHUNK: Final = 1 << 20  # bytes of frames in one part of the state

Send = Callable[[str, object], None]


class FeedHead(msgspec.Struct):
    """The numbering; what `record` saw since it began, as digests."""

    epoch: str
    offset: int
    floor: int
    recorded: bytes


class Ring(msgspec.Struct):
    """A part of the history; without times, last values of channels."""

    messages: list[tuple[str, int, bytes]]  # channel, offset, frame
    times: list[float]


class Nonces(msgspec.Struct):
    """The nonces that were seen: texts, numbers, digests."""

    young: list[Any]
    old: list[Any]
    turned_at: float


class Relayed(msgspec.Struct):
    """Messages of the feed as the broker sent them."""

    messages: list[tuple[str, bytes, int]]  # subject, payload, offset


def _digest(subject: str, payload: bytes) -> bytes:
    return blake2b(subject.encode() + b"\0" + payload, digest_size=_DIGEST).digest()


class Predecessor:
    """The side that gives the feed. `record` must begin before the successor subscribes."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._recorded: list[bytes] = []
        self._relayed: list[tuple[str, bytes, int]] = []

    def record(self) -> None:
        """Remember what is received from now on."""
        self._recorded.clear()
        self._bridge.relay = self._record

    def stop(self) -> None:
        """The successor needs nothing any more, or is gone."""
        self._bridge.relay = None
        self._recorded.clear()
        self._relayed.clear()

    def state(self) -> list[tuple[str, object]]:
        """Messages (kind, content) that hold the whole feed; what comes from now on is relayed."""
        bridge, history = self._bridge, self._bridge.history
        head = FeedHead(bridge.epoch, bridge.offset, history.floor, b"".join(self._recorded))
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
        self._recorded.append(_digest(subject, payload))

    def _relay(self, subject: str, payload: bytes, offset: int) -> None:
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

    def __init__(self, bus: IBus, bridge: Bridge, *, follows: bool) -> None:
        self.following = follows
        self._bridge = bridge
        self._has_state = False
        self._gap = False
        self._connected = False
        self._own: deque[tuple[bytes, str, bytes]] = deque()  # not relayed yet
        self._own_count: Counter[bytes] = Counter()
        self._relayed: Counter[bytes] = Counter()  # not received from the broker yet
        if follows:
            bus.attach(self)

    # -- from the bus

    def received(self, subject: str, payload: bytes, offset: int = 0) -> None:
        if not self.following and not self._relayed:
            self._bridge.received(subject, payload, offset)
            return
        digest = _digest(subject, payload)
        if _spend(self._relayed, digest):
            return
        if self.following:
            self._own.append((digest, subject, payload))
            self._own_count[digest] += 1
        else:
            self._bridge.received(subject, payload, offset)

    def remember(self, subject: str, payload: bytes, offset: int, *, ring: bool) -> None:
        self._bridge.remember(subject, payload, offset, ring=ring)

    def controlled(self, subject: str, payload: bytes) -> None:
        self._bridge.controlled(subject, payload)

    def status_changed(
        self, connected: bool, epoch: str | None = None, offset: int = 0, *, gap: bool = False
    ) -> None:
        if not self.following:
            self._bridge.status_changed(connected, epoch, offset, gap=gap)
            return
        self._gap = self._gap or self._connected  # it was there, and changed
        self._connected = connected

    # -- from the predecessor

    def adopt(self, head: FeedHead) -> None:
        """Go on with this numbering."""
        self._has_state = True
        self._bridge.adopt(head.epoch, head.offset, head.floor)
        for at in range(0, len(head.recorded), _DIGEST):
            self._match(head.recorded[at : at + _DIGEST])

    def fill(self, ring: Ring) -> None:
        """Take a part of the history in."""
        self._bridge.refill(ring.messages, ring.times)

    def know(self, nonces: Nonces) -> None:
        self._bridge.nonces.refill(nonces.young, nonces.old, nonces.turned_at)

    def relayed(self, messages: Relayed) -> None:
        for subject, payload, offset in messages.messages:
            self._match(_digest(subject, payload))
            self._bridge.received(subject, payload, offset)

    def lead(self) -> None:
        """The predecessor gives no more: the feed is ours. Idempotent."""
        if not self.following:
            return
        self.following = False
        bridge = self._bridge
        if not self._has_state:
            bridge.status_changed(self._connected)
        elif self._gap or not self._connected:
            bridge.status_changed(self._connected, gap=True)
        rest = []
        while self._own:  # of messages that say the same, the last are those that were not relayed
            digest, subject, payload = self._own.pop()
            if _spend(self._own_count, digest):
                rest.append((subject, payload))
        for subject, payload in reversed(rest):
            bridge.received(subject, payload)

    def forget(self) -> None:
        """Nothing that was relayed can be on its way from the broker any more."""
        self._relayed.clear()

    def _match(self, digest: bytes) -> None:
        """A message was relayed: the same one of the broker is not to be sent."""
        if not _spend(self._own_count, digest):
            self._relayed[digest] += 1
            return
        own = self._own
        while own and own[0][0] not in self._own_count:
            own.popleft()


def _spend(counts: "Counter[bytes]", digest: bytes) -> bool:
    count = counts.get(digest, 0)
    if count <= 0:
        return False
    if count == 1:
        del counts[digest]
    else:
        counts[digest] = count - 1
    return True
