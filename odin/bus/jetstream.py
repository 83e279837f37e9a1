"""JetStream: the feed as a stream that remembers, read by ordered consumers (ADR-17 of NATS).

An ordered consumer is an ephemeral one without acknowledgements. Each message tells its sequence
in the stream (our offset) and its place in the delivery; when a place is missing, or the consumer
falls silent, it is replaced by a new one that begins behind the last message we have.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import nats.errors
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    ConsumerInfo,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StreamConfig,
    StreamInfo,
)
from nats.js.errors import NotFoundError
from twisted.logger import Logger

from odin.bus.interfaces import CONTROL, IReceiver, Stored
from odin.bus.reading import FeedClient
from odin.config import JetStream
from odin.wire.subjects import covers, overlaps, reduced

REQUEST_TIMEOUT_S: Final = 5.0
_HEARTBEAT_S: Final = 1.0
_SILENCE_S: Final = 3.0  # without heartbeats: the consumer is gone
_INACTIVE_S: Final = 30.0  # after which the broker forgets a consumer that nobody listens to


class _Place(NamedTuple):
    """Where a message stands, from its reply subject."""

    offset: int  # in the stream
    number: int  # in the delivery
    at_s: float  # stored, seconds since 1970
    pending: int  # how many come after it


def _place(reply: bytes) -> _Place:
    """$JS.ACK.[domain.account.]stream.consumer.delivered.offset.number.time.pending[.random]"""
    tokens = reply.split(b".")
    at = 5 if len(tokens) == 9 else 7
    return _Place(
        int(tokens[at]), int(tokens[at + 1]), int(tokens[at + 2]) / 1e9, int(tokens[at + 3])
    )


Take = Callable[[str, bytes, _Place], None]


class _Consumer:
    """One ordered consumer, from its creation until `stop` or until something is missing."""

    def __init__(self, client: FeedClient, stream: str, take: Take) -> None:
        self.broken = False
        self._client = client
        self._stream = stream
        self._take: Take | None = take
        self._inbox = client.new_inbox()
        self._subscription: Any = None
        self._name = ""
        self._number = 0  # of the last message
        self._heard_at = time.monotonic()

    async def start(self, **settings: Any) -> ConsumerInfo:
        client = self._client
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
        info: ConsumerInfo = await manager.add_consumer(self._stream, config)
        self._name = info.name
        return info

    @property
    def silent(self) -> bool:
        return time.monotonic() - self._heard_at > _SILENCE_S

    async def stop(self) -> None:
        """Forget it, here and at the broker, as far as that is there."""
        self._take = None
        try:
            if self._subscription is not None:
                await self._client.leave(self._subscription)
            if self._name:
                manager = self._client.jetstream(timeout=REQUEST_TIMEOUT_S)
                await manager.delete_consumer(self._stream, self._name)
        except (nats.errors.Error, OSError, TimeoutError):
            pass  # the broker forgets it by itself

    def _received(self, subject: str, payload: bytes, reply: bytes, headers: bytes) -> None:
        if self._take is None:
            return
        self._heard_at = time.monotonic()
        if not reply.startswith(b"$JS.ACK."):
            self._heartbeat(reply, headers)
            return
        place = _place(reply)
        if place.number != self._number + 1:
            self.broken, self._take = True, None
            return
        self._number = place.number
        self._take(subject, payload, place)

    def _heartbeat(self, reply: bytes, headers: bytes) -> None:
        """Idle heartbeats tell where we should be, flow control wants an answer, 409 is the end."""
        stalled = _header(headers, b"Nats-Consumer-Stalled:")
        if reply or stalled:
            answer = self._client.publish((reply or stalled).decode(), b"")
            task = asyncio.ensure_future(answer)
            task.add_done_callback(_ignore)
        last = _header(headers, b"Nats-Last-Consumer:")
        gone = headers.startswith(b"NATS/1.0 409")
        if gone or (last and int(last) != self._number):
            self.broken, self._take = True, None


class StreamFeed:
    """The feed from one stream, for as long as the server runs."""

    _log = Logger()

    def __init__(self, config: JetStream, subjects: list[str], receiver: Any) -> None:
        """`subjects`: what of the stream is the feed. `receiver`: an IReceiver."""
        self.lag_s: float | None = None
        self._config = config
        self._subjects = subjects
        self._receiver: IReceiver = receiver
        self._consumer: _Consumer | None = None
        self._epoch = ""
        self._offset = 0  # of the last message that was taken
        self._history_until = 0
        self._read: asyncio.Future[None] | None = None  # the time before this server

    @property
    def broken(self) -> bool:
        """Whether `open` must be called (again)."""
        return self._consumer is None or self._consumer.broken or self._consumer.silent

    async def close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    async def open(self, client: FeedClient) -> tuple[str, int, bool]:
        """Begin, or go on behind the last message.

        Returns (epoch, offset after which it goes on, whether messages are gone for ever).
        Raises: nats.errors.Error.
        """
        await self.close()
        info = await self._stream(client)
        epoch, state = _epoch(info), info.state
        gap = False
        if epoch != self._epoch:
            await self._begin(client, epoch, state.first_seq, state.last_seq)
        elif state.first_seq > self._offset + 1:
            gap, self._offset = True, state.first_seq - 1
        elif state.last_seq < self._offset:  # the broker lost the end of its store
            gap, self._offset = True, state.last_seq
        consumer = self._consumer = _Consumer(client, self._config.stream, self._take)
        read = self._read = asyncio.get_running_loop().create_future()
        created = await consumer.start(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self._offset + 1,
            **_filter(self._subjects),
        )
        if self._offset < self._history_until and _has_messages(created):
            await asyncio.wait_for(read, 2 * REQUEST_TIMEOUT_S)
        self._offset = max(self._offset, self._history_until)
        return epoch, self._offset, gap

    async def fetch(
        self, client: FeedClient, patterns: frozenset[str], after: int, until: int, most: int
    ) -> list[Stored] | None:
        """What is stored on `patterns` between two offsets; see IBus.fetch."""
        info = await client.jetstream(timeout=REQUEST_TIMEOUT_S).stream_info(self._config.stream)
        if info.state.first_seq > after + 1 or _epoch(info) != self._epoch:
            return None
        found: list[Stored] = []
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def take(subject: str, payload: bytes, place: _Place) -> None:
            wanted = place.offset <= until and any(covers(each, subject) for each in patterns)
            if wanted and self._is_feed(subject):
                found.append(Stored(subject, payload, place.offset))
            over = len(found) > most or place.offset >= until or not place.pending
            if over and not done.done():
                done.set_result(None)

        consumer = _Consumer(client, self._config.stream, take)
        try:
            created = await consumer.start(
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=after + 1,
                **_filter(reduced(patterns)),
            )
            if _has_messages(created):
                await asyncio.wait_for(done, REQUEST_TIMEOUT_S)
        finally:
            await consumer.stop()
        return None if len(found) > most else found

    async def _stream(self, client: FeedClient) -> StreamInfo:
        manager = client.jetstream(timeout=REQUEST_TIMEOUT_S)
        config = self._config
        try:
            return await manager.stream_info(config.stream)
        except NotFoundError:
            if not config.create:
                raise
        self._log.info("creating the stream {name}", name=config.stream)
        return await manager.add_stream(
            StreamConfig(
                name=config.stream,
                subjects=list(config.subjects),
                retention=RetentionPolicy.LIMITS,
                discard=DiscardPolicy.OLD,
                max_age=config.max_age_s,
                max_bytes=config.max_size or -1,
                max_msgs=config.max_messages or -1,
                num_replicas=config.replicas,
            )
        )

    async def _begin(self, client: FeedClient, epoch: str, first: int, last: int) -> None:
        """A numbering that is new to us: the last values first, then the end of the stream."""
        start = max(first - 1, last - self._config.preload, 0)
        receiver = self._receiver
        receiver.status_changed(False, epoch, start)
        self._epoch, self._offset, self._history_until = epoch, start, last
        if not start:
            return  # everything is read in any case
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def take(subject: str, payload: bytes, place: _Place) -> None:
            if place.offset <= start and self._is_feed(subject):
                receiver.remember(subject, payload, place.offset, ring=False)
            if (place.offset >= start or not place.pending) and not done.done():
                done.set_result(None)

        consumer = _Consumer(client, self._config.stream, take)
        try:
            created = await consumer.start(
                deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
                **(_filter(self._subjects) or {"filter_subject": ">"}),
            )
            if _has_messages(created):
                await asyncio.wait_for(done, REQUEST_TIMEOUT_S)
        except TimeoutError:
            self._log.warn("not all last values came in time")
        finally:
            await consumer.stop()

    def _take(self, subject: str, payload: bytes, place: _Place) -> None:
        self._offset = place.offset
        old = place.offset <= self._history_until
        if not self._is_feed(subject):
            pass
        elif old:
            self._receiver.remember(subject, payload, place.offset, ring=True)
        else:
            self.lag_s = max(0.0, time.time() - place.at_s)
            self._receiver.received(subject, payload, place.offset)
        if self._read is not None and (place.offset >= self._history_until or not place.pending):
            if not self._read.done():
                self._read.set_result(None)
            self._read = None

    def _is_feed(self, subject: str) -> bool:
        if subject.startswith(CONTROL):
            return False
        if len(self._subjects) == 1:
            return covers(self._subjects[0], subject)
        return any(covers(each, subject) for each in self._subjects)


def _has_messages(created: ConsumerInfo) -> bool:
    delivered = created.delivered
    return bool(created.num_pending or (delivered is not None and delivered.consumer_seq))


def _epoch(info: StreamInfo) -> str:
    """The same on every node: the time of the stream's creation."""
    created = info.created
    return f"{info.config.name}-{created.timestamp():.6f}" if created is not None else ""


def _filter(subjects: list[str]) -> dict[str, Any]:
    """What a consumer is asked to deliver; all, where the broker would refuse the overlap."""
    if ">" in subjects or any(
        overlaps(one, two) for at, one in enumerate(subjects) for two in subjects[:at]
    ):
        return {}
    return {"filter_subjects": subjects}


def _header(headers: bytes, name: bytes) -> bytes:
    at = headers.find(name)
    return headers[at + len(name) : headers.find(b"\r\n", at)].strip() if at >= 0 else b""


def _ignore(task: "asyncio.Future[None]") -> None:
    """The answer was lost with its connection; asking keeps asyncio from warning."""
    if not task.cancelled():
        task.exception()
