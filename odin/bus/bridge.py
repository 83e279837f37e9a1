"""IBus <-> Hub: drop duplicates, number, encode once, remember."""

import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from odin.bus.interfaces import CONTROL, FENCE, IBus, IReceiver, Receipt, Stored
from odin.delivery.history import History
from odin.delivery.hub import Hub
from odin.delivery.message import Message
from odin.delivery.nonces import Nonce, NonceWindow
from odin.errors import BadChannel, Duplicate, Forbidden, NotJSON
from odin.wire.frames import payload_of, text_frame
from odin.wire.messages import (
    FeedStatus,
    encode,
    feed_message,
    feed_prefix,
    feed_timestamp,
    read_payload,
)
from odin.wire.subjects import PatternSet, covers, is_subject

_MAX_CHANNELS: Final = 65_536
_BROKERS_OWN: Final = ("$", "_INBOX", CONTROL)  # administration, answers, operators
_LOG_EVERY_S: Final = 10


class Meter(Protocol):
    """What the bridge tells about its messages."""

    def message(self, size: int) -> None:
        """One message goes out, `size` bytes as it is sent."""


class _Channel(NamedTuple):
    """What is known of a channel beforehand."""

    prefix: bytes
    conflate: bool


@implementer(IReceiver)
class Bridge:
    """Turns what the bus brings into messages for the hub, and what clients publish into payloads.

    `epoch` and `offset` number the feed. A bus with a numbering of its own (JetStream) brings both;
    else offsets count the messages that this server sent out, and the epoch is random: a new one
    whenever messages may have been missed, so that nobody can resume across the gap.
    """

    _log = Logger()

    def __init__(
        self,
        bus: IBus,
        hub: Hub,
        nonces: NonceWindow,
        history: History,
        *,
        conflate: Iterable[str],
        publishable: Iterable[str],
        control: Callable[[str, bytes], None],
        clock: Callable[[], float],
        wall: Callable[[], float],
        meter: Meter,
    ) -> None:
        """`conflate`: patterns of the channels whose newest message is all that matters.
        `publishable`: patterns of what clients may publish to, whatever their tokens permit.
        `control`: gets (what, payload) of operators' messages."""
        self.bus = bus
        self.history = history
        self.epoch = secrets.token_hex(8)
        self.offset = 0
        self.live = False  # whether the broker is there
        self.live_since = 0.0  # on the clock
        self.numbered = not bus.stores  # whether `epoch` is the one that counts
        self.messages = 0  # from the bus, all of them
        self.duplicates = 0
        self.malformed = 0
        self.sent = 0  # messages handed to the hub
        self.last_arrived = 0.0  # on the clock
        self.nonces = nonces
        self.relay: Callable[[str, bytes, int], None] | None = None  # each message sent, as it came
        self._hub = hub
        self._conflate = tuple(conflate)
        self._publishable = PatternSet(publishable)
        self._control = control
        self._clock = clock
        self._wall = wall
        self._meter = meter
        self._channels: dict[str, _Channel] = {}
        self._logged_at = -float(_LOG_EVERY_S)
        bus.attach(self)

    def received(self, subject: str, payload: bytes, offset: int = 0) -> None:
        """One message from the bus: to everybody who wants it, unless it came before."""
        arrived = self._clock()
        self.messages += 1
        message = self._message(subject, payload, offset, arrived)
        if message is not None:
            self.last_arrived = arrived
            self.sent += 1
            self.history.add(message, arrived)
            self._hub.deliver(message, arrived)
            if self.relay is not None:
                self.relay(subject, payload, message.offset)

    def remember(self, subject: str, payload: bytes, offset: int, *, ring: bool) -> None:
        """A message of the time before this server listened: for replays and snapshots only.

        `ring`: it is one of the unbroken sequence up to now, not only the last of its channel.
        """
        now = self._clock()
        if not ring:
            for last in self.encoded([Stored(subject, payload, offset)]):
                self.history.remember(last)
        elif (message := self._message(subject, payload, offset, now)) is not None:
            self.history.add(message, now)

    def encoded(
        self, stored: Iterable[Stored], nonces: set[tuple[str, Nonce]] | None = None
    ) -> list[Message]:
        """Messages of the bus's store as clients get them, without any state.

        Of several of a channel with the same nonce the first, as in the feed; none that is
        malformed. `nonces`: (channel, nonce) of those that came before these; new ones are added.
        """
        messages: list[Message] = []
        nonces = set() if nonces is None else nonces
        for subject, original, offset in stored:
            try:
                nonce, payload, is_object = read_payload(original)
                channel = self._channel(subject)
            except (NotJSON, BadChannel):
                continue
            if nonce is not None:
                if (subject, nonce) in nonces:
                    continue
                nonces.add((subject, nonce))
            frame = text_frame(feed_message(channel.prefix, offset, payload, is_object))
            messages.append(Message(subject, offset, frame, channel.conflate))
        return messages

    def status_changed(
        self, connected: bool, epoch: str | None = None, offset: int = 0, *, gap: bool = False
    ) -> None:
        """The broker went away, or came back; tell the clients.

        `epoch`: of the bus's own numbering, which goes on after `offset`; while it comes without a
        connection, messages of the time before follow (`remember`). `gap`: messages may have been
        missed for ever, which a bus with a numbering of its own says by another epoch.
        """
        renumbered = False
        if epoch is not None:
            if renumbered := epoch != self.epoch:
                self._renumber(epoch, offset)
            self.numbered = connected
        elif renumbered := gap:
            self._renumber(secrets.token_hex(8), self.offset)
        if connected != self.live or (connected and renumbered):
            self.live = connected
            if connected:
                self.live_since = self._clock()
                notice = FeedStatus(status="live", epoch=self.epoch, offset=self.offset)
            else:
                notice = FeedStatus(status="stale")
            self._hub.notify(text_frame(encode(notice)))

    def adopt(self, epoch: str, offset: int, floor: int, *, live: bool) -> None:
        """Go on with the numbering of another process; its history above `floor` follows.

        `live`: what its clients were told.
        """
        self._renumber(epoch, floor)
        self.offset = offset
        self.live, self.live_since = live, self._clock()

    def refill(self, messages: Iterable[tuple[str, int, bytes]], times: Sequence[float]) -> None:
        """Take over (channel, offset, frame) of another process's history.

        Without times they are last values of their channels.
        """
        for number, (subject, offset, frame) in enumerate(messages):
            message = Message(subject, offset, frame, self._channel(subject).conflate)
            if times:
                self.history.add(message, times[number])
            else:
                self.history.remember(message)

    def lag_s(self) -> float:
        """Age of the last message when it arrived, in seconds; 0 if nobody can say.

        By the broker's clock, or the message's own `timestamp`.
        """
        if self.bus.lag_s is not None:
            return self.bus.lag_s
        last = self.history.last
        at_ms = feed_timestamp(payload_of(last.frame)) if last is not None else None
        if at_ms is None:
            return 0.0
        arrived = self._wall() - (self._clock() - self.last_arrived)
        return max(0.0, arrived - at_ms / 1000)

    def controlled(self, subject: str, payload: bytes) -> None:
        """An operator's message, which only the broker's permissions guard; or a fence."""
        if subject == FENCE:
            if self.relay is not None:
                self.relay(subject, payload, 0)
            return
        self._control(subject.removeprefix(CONTROL), payload)

    def _renumber(self, epoch: str, offset: int) -> None:
        self.epoch, self.offset = epoch, offset
        self.history.begin(offset)

    def _message(self, subject: str, payload: bytes, offset: int, now: float) -> Message | None:
        """A new message of the feed; None for a duplicate, and for what is malformed."""
        try:
            nonce, payload, is_object = read_payload(payload)
            channel = self._channels.get(subject) or self._channel(subject)
        except (NotJSON, BadChannel) as error:
            self._malformed(subject, str(error), now)
            return None
        if nonce is not None and not self.nonces.add(subject, nonce, now):
            self.duplicates += 1
            return None
        self.offset = offset = offset or self.offset + 1
        message = feed_message(channel.prefix, offset, payload, is_object)
        self._meter.message(len(message))
        return Message(subject, offset, text_frame(message), channel.conflate)

    def _channel(self, subject: str) -> _Channel:
        """Raises: BadChannel for a subject that is not UTF-8."""
        channel = self._channels.get(subject)
        if channel is None:
            if len(self._channels) >= _MAX_CHANNELS:
                self._channels.clear()
            conflate = any(covers(each, subject) for each in self._conflate)
            try:
                prefix = feed_prefix(subject)
            except UnicodeEncodeError:
                raise BadChannel("the subject is not UTF-8") from None
            channel = self._channels[subject] = _Channel(prefix, conflate)
        return channel

    def publish(self, subject: str, payload: bytes) -> Deferred[Receipt | None]:
        """Put a client's message on the bus; where it is in the feed, if the bus knows.

        The one place that says what clients, by WebSocket and by HTTP, may publish to: subjects of
        the feed, and never what the broker or operators use.

        Raises, or fails with: BadChannel, Forbidden, NotJSON, Duplicate, Unavailable.
        """
        if not is_subject(subject):
            raise BadChannel(
                "not a subject: tokens separated by dots, no wildcards, spaces or controls"
            )
        if subject.startswith(_BROKERS_OWN) or not self._publishable.matches(subject):
            raise Forbidden("this subject is none that clients may publish to")
        nonce, _payload, _is_object = read_payload(payload)
        if nonce is not None and self.nonces.seen(subject, nonce, self._clock()):
            self.duplicates += 1
            raise Duplicate("a message with this nonce was seen before")
        return self.bus.publish(subject, payload)

    def _malformed(self, subject: str, why: str, now: float) -> None:
        self.malformed += 1
        if now - self._logged_at >= _LOG_EVERY_S:
            self._logged_at = now
            self._log.warn(
                "dropped a message on {subject!r}: {why} ({total} in all so far)",
                subject=subject[:100],
                why=why,
                total=self.malformed,
            )
