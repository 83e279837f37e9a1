"""One ordered consumer of a stream (ADR-17 of NATS): ephemeral, without acknowledgements.

Each message tells its sequence in the stream and its number in the delivery. When a number is
missing, or the consumer falls silent, the consumer is of no more use and must be replaced by a new
one that begins where this one ended.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

import nats.errors
from nats.js.api import AckPolicy, ConsumerConfig

from odin.bus.reading import FeedClient

REQUEST_TIMEOUT_S: Final = 5.0
_HEARTBEAT_S: Final = 0.2  # the second one says how far it has read in a stream of others
_SILENCE_S: Final = 2.0  # without a heartbeat: the consumer, or its node, is gone
_INACTIVE_S: Final = 30.0  # after which the broker forgets a consumer that nobody listens to


class Place(NamedTuple):
    """Where a message stands, from its reply subject."""

    sequence: int  # in the stream
    number: int  # in the delivery
    at_ns: int  # stored, nanoseconds since 1970
    pending: int  # how many come after it


def place_of(reply: bytes) -> Place:
    """$JS.ACK.[domain.account.]stream.consumer.delivered.sequence.number.time.pending[.random]

    Raises: ValueError, TypeError, if it is not that.
    """
    tokens = reply.split(b".")
    at = 5 if len(tokens) == 9 else 7
    return Place(*map(int, tokens[at : at + 4]))


Take = Callable[[str, bytes, Place], None]


class Created(NamedTuple):
    """How a consumer begins."""

    start: int  # the sequence before the first that it may deliver
    messages: bool  # whether there are any


class Consumer:
    """An ordered consumer, from `start` until `stop` or until something is missing."""

    def __init__(self, client: FeedClient, stream: str, take: Take) -> None:
        """`take` gets each message in order; it must not raise."""
        self.broken = False
        self.position = 0  # everything up to this sequence has been taken, or is not for us
        self._client = client
        self._stream = stream
        self._take: Take | None = take
        self._inbox = client.new_inbox()
        self._subscription: Any = None
        self._name = ""
        self._number = 0  # of the last message
        self._heard_at = time.monotonic()

    async def start(self, *, listen: bool = True, **settings: Any) -> Created:
        """Create it at the broker. Without `listen` it only tells where it would begin.

        Raises: nats.errors.Error, TimeoutError.
        """
        client = self._client
        if listen:
            self._subscription = await client.take(self._inbox, self._received)
        config = ConsumerConfig(
            deliver_subject=self._inbox,
            ack_policy=AckPolicy.NONE,
            max_deliver=1,
            flow_control=True,
            idle_heartbeat=_HEARTBEAT_S,
            inactive_threshold=_INACTIVE_S,
            mem_storage=True,
            num_replicas=1,
            **settings,
        )
        manager = client.jetstream(timeout=REQUEST_TIMEOUT_S)
        info = await manager.add_consumer(self._stream, config)
        self._name = info.name
        delivered = info.delivered
        begun = delivered is not None and bool(delivered.consumer_seq)
        start = delivered.stream_seq if delivered is not None else 0
        return Created(start, begun or bool(info.num_pending))

    @property
    def silent(self) -> bool:
        """Whether not even a heartbeat came for too long."""
        return time.monotonic() - self._heard_at > _SILENCE_S

    def excuse(self) -> None:
        """Count the silence from now on: it was this process that stood still."""
        self._heard_at = time.monotonic()

    def stop(self) -> None:
        """Take nothing more, and let the broker forget it, without waiting for that."""
        self._take = None
        if not self._client.is_closed:
            _in_background(self._end())

    async def _end(self) -> None:
        client = self._client
        if self._subscription is not None:
            await client.leave(self._subscription)
        if self._name:
            delete = f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._name}"
            await client.publish(delete, b"", reply=client.new_inbox())

    def _received(self, subject: str, payload: bytes, reply: bytes, headers: bytes) -> None:
        if self._take is None:
            return
        self._heard_at = time.monotonic()
        try:
            if not reply.startswith(b"$JS.ACK."):
                self._heartbeat(reply, headers)
                return
            place = place_of(reply)
        except (ValueError, TypeError):  # nothing that JetStream sends
            self._broke()
            return
        if place.number != self._number + 1:
            self._broke()
            return
        self._number = place.number
        self.position = place.sequence
        self._take(subject, payload, place)

    def _heartbeat(self, reply: bytes, headers: bytes) -> None:
        """Idle heartbeats tell where we should be, flow control wants an answer, 409 is the end."""
        stalled = _header(headers, b"Nats-Consumer-Stalled:")
        if reply or stalled:
            _in_background(self._client.publish((reply or stalled).decode(), b""))
        last = _header(headers, b"Nats-Last-Consumer:")
        if headers.startswith(b"NATS/1.0 409") or (last and int(last) != self._number):
            self._broke()
        elif last and (reached := _header(headers, b"Nats-Last-Stream:")):
            self.position = max(self.position, int(reached))

    def _broke(self) -> None:
        self.broken, self._take = True, None


def _header(headers: bytes, name: bytes) -> bytes:
    at = headers.find(name)
    return headers[at + len(name) : headers.find(b"\r\n", at)].strip() if at >= 0 else b""


def _in_background(work: Coroutine[Any, Any, None]) -> None:
    """Send something that needs no answer; it may be lost with its connection."""

    async def run() -> None:
        with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
            await work

    asyncio.ensure_future(run()).add_done_callback(lambda task: task.cancelled())
