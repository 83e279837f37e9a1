"""IBus <-> Hub: drop duplicates, number, encode once."""

from collections.abc import Callable
from typing import Final, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from odin.bus.interfaces import IBus, IReceiver
from odin.delivery.hub import Hub
from odin.delivery.nonces import NonceWindow
from odin.errors import BadChannel, Duplicate, NotJSON
from odin.wire.frames import text_frame
from odin.wire.messages import FeedStatus, encode, feed_message, feed_nonce, feed_prefix
from odin.wire.subjects import is_subject

_MAX_PREFIXES: Final = 65_536
_LOG_EVERY_S: Final = 10


class Meter(Protocol):
    """What the bridge tells about its messages."""

    def message(self, size: int) -> None:
        """One message goes out, `size` bytes as it is sent."""


@implementer(IReceiver)
class Bridge:
    """Turns what the bus brings into frames for the hub, and what clients publish into messages.

    `epoch` and `offset` number the feed: with a random epoch per start, offsets count the messages
    that this server sent out.
    """

    _log = Logger()

    def __init__(
        self,
        bus: IBus,
        hub: Hub,
        nonces: NonceWindow,
        *,
        epoch: str,
        clock: Callable[[], float],
        meter: Meter,
    ) -> None:
        self.bus = bus
        self.epoch = epoch
        self.offset = 0
        self.live = False  # whether the broker is there
        self.messages = 0  # from the bus, all of them
        self.duplicates = 0
        self.malformed = 0
        self._hub = hub
        self._nonces = nonces
        self._clock = clock
        self._meter = meter
        self._prefixes: dict[str, bytes] = {}
        self._logged_at = -float(_LOG_EVERY_S)
        bus.attach(self)

    def received(self, subject: str, payload: bytes) -> None:
        """One message from the bus: to everybody who wants it, unless it came before."""
        arrived = self._clock()
        self.messages += 1
        try:
            nonce, is_object = feed_nonce(payload)
        except NotJSON:
            self._malformed(subject, arrived)
            return
        if nonce is not None and not self._nonces.add(nonce, arrived):
            self.duplicates += 1
            return
        prefix = self._prefixes.get(subject)
        if prefix is None:
            if len(self._prefixes) >= _MAX_PREFIXES:
                self._prefixes.clear()
            prefix = self._prefixes[subject] = feed_prefix(subject)
        self.offset += 1
        message = feed_message(prefix, self.offset, payload, is_object)
        self._meter.message(len(message))
        self._hub.deliver(subject, text_frame(message), arrived)

    def status_changed(self, connected: bool) -> None:
        """Tell the clients that the feed went stale, or is live again."""
        if connected != self.live:
            self.live = connected
            status = "live" if connected else "stale"
            self._hub.notify(text_frame(encode(FeedStatus(status=status))))

    def publish(self, subject: str, payload: bytes) -> Deferred[None]:
        """Put a client's message on the bus.

        Raises, or fails with: BadChannel, NotJSON, Duplicate, Unavailable.
        """
        if not is_subject(subject):
            raise BadChannel(
                "not a subject: tokens separated by dots, no wildcards, spaces or controls"
            )
        nonce, _is_object = feed_nonce(payload)
        if nonce is not None and self._nonces.seen(nonce, self._clock()):
            self.duplicates += 1
            raise Duplicate("a message with this nonce was seen before")
        return self.bus.publish(subject, payload)

    def _malformed(self, subject: str, now: float) -> None:
        self.malformed += 1
        if now - self._logged_at >= _LOG_EVERY_S:
            self._logged_at = now
            self._log.warn(
                "dropped a message on {subject!r} that is not JSON ({total} in all so far)",
                subject=subject[:100],
                total=self.malformed,
            )
