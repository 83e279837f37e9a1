"""JetStream: the feed as a stream that remembers, read from where it was left.

    open      go on behind the last message that was taken, and prove that nothing is missing;
              else begin a new numbering (see `stream`), with what was stored since
    go_on     hand on what came since `open`: not before everybody has been told
    check     once a second: whether anything can arrive at all
    fetch     what a client missed, see `past`
    store     publish, with the stream's acknowledgement

The proof: the consumer begins at the last message that was taken, which must come again, stored at
the same time; and of what followed it nothing has been deleted.
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any, Final

from nats.js.api import DeliverPolicy
from twisted.logger import Logger

from odin.bus.consumer import REQUEST_TIMEOUT_S, Consumer, Place
from odin.bus.interfaces import CONTROL, IReceiver, Receipt, Stored
from odin.bus.past import fetch, filter_of, last_values
from odin.bus.reading import FeedClient
from odin.bus.stream import ANSWER_S, Info, Numbering, State, Stream, numbering_of
from odin.config import JetStream
from odin.errors import BrokerError
from odin.wire.subjects import covers

_SECOND_LOOK_S: Final = 0.5  # at a stream that seems to have lost its end: its leader may be behind


class StreamFeed:
    """The feed from one stream, for as long as the server runs."""

    _log = Logger()

    def __init__(self, config: JetStream, subjects: list[str], receiver: Any) -> None:
        """`subjects`: what of the stream is the feed. `receiver`: an IReceiver."""
        self.lag_s: float | None = None
        self.position = 0  # the sequence up to which everything was taken, or is not of the feed
        self._config = config
        self._subjects = subjects
        self._receiver: IReceiver = receiver
        self._numbering: Numbering | None = None
        self._consumer: Consumer | None = None
        self._sequence = 0  # of the last message of the feed that was taken
        self._at_ns = 0  # when it was stored; 0 if there was none yet
        self._held: list[tuple[str, bytes, Place]] | None = None
        self._again: asyncio.Future[Place] | None = None  # the last message, once more
        self._read: asyncio.Future[None] | None = None  # the time before this server

    @property
    def broken(self) -> bool:
        """Whether `open` must be called (again)."""
        return self._consumer is None or self._consumer.broken

    @property
    def silent(self) -> bool:
        """Whether the consumer is gone, as far as one can hear."""
        return self._consumer is not None and self._consumer.silent

    def excuse(self) -> None:
        """This process stood still: the consumer gets time to be heard."""
        if self._consumer is not None:
            self._consumer.excuse()

    def close(self) -> None:
        """Read no more; where it ended is remembered."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            if self._held is None:  # else what it brought was not handed on
                self.position = max(self.position, consumer.position)
            consumer.stop()
        self._held = self._again = self._read = None

    async def open(self, client: FeedClient) -> tuple[str, int]:
        """Begin, or go on behind the last message: (epoch, offset after which it goes on).

        The receiver gets the time before this server at once, and everything else with `go_on`.
        Raises: BrokerError, TimeoutError, OSError, nats.errors.Error.
        """
        self.close()
        stream = Stream(client, self._config)
        info = await stream.info(create=True)
        known, found = self._numbering, numbering_of(info)
        if known is not None:
            if known.holds(info) and await self._continue(stream, known, info):
                return known.epoch, self.position + known.shift
            if found.shift <= known.shift:  # else another Odin has noticed it first
                self._log.warn("the stream {name} has lost messages", name=stream.name)
                found = await stream.renumber(info, self.position + known.shift)
        self.close()
        await self._begin(stream, found, await stream.info())
        return found.epoch, self.position + found.shift

    def go_on(self) -> None:
        """Hand on what has come since `open`, and everything from now on."""
        held, self._held = self._held, None
        for each in held or ():
            self._deliver(*each)

    async def check(self, client: FeedClient) -> None:
        """See whether messages can arrive; notice that the numbering is another one.

        Raises: BrokerError, TimeoutError, OSError, nats.errors.Error.
        """
        consumer, numbering = self._consumer, self._numbering
        reached = consumer.position if consumer is not None else 0
        info = await Stream(client, self._config).info(create=True)
        if info.full:
            raise BrokerError(f"the stream {self._config.stream} is full")
        if consumer is not None and numbering is not None:
            consumer.broken |= not numbering.holds(info) or info.state.last_seq < reached

    async def store(self, client: FeedClient, subject: str, payload: bytes) -> Receipt | None:
        """Publish; where the message is in the feed. Raises what `check` does."""
        sequence = await Stream(client, self._config).store(subject, payload)
        numbering = self._numbering
        return Receipt(numbering.epoch, sequence + numbering.shift) if numbering else None

    async def fetch(
        self, client: FeedClient, patterns: frozenset[str], after: int, until: int, most: int
    ) -> list[Stored] | None:
        """What is stored on `patterns` between two offsets; see IBus.fetch."""
        numbering = self._numbering
        if numbering is None:
            return None
        stream = Stream(client, self._config)
        return await fetch(stream, numbering, self._is_feed, patterns, after, until, most)

    async def _continue(self, stream: Stream, numbering: Numbering, info: Info) -> bool:
        """Go on in the same numbering; False if it cannot be proved that nothing is missing."""
        state, position = info.state, self.position
        if state.last_seq < position:
            await asyncio.sleep(_SECOND_LOOK_S)
            info = await stream.info()
            state = info.state
        if not numbering.holds(info) or state.last_seq < position:
            return False
        if await stream.whole_above(state, state.last_seq) > position:
            return False
        again = bool(self._at_ns) and self._sequence >= state.first_seq
        self._again = asyncio.get_running_loop().create_future() if again else None
        self._held = []
        created = await self._consume(stream, self._sequence if again else position + 1)
        if self._again is None:
            return True
        if not created.messages:
            return False
        last = await asyncio.wait_for(self._again, ANSWER_S)
        return last.sequence == self._sequence and last.at_ns == self._at_ns

    async def _begin(self, stream: Stream, numbering: Numbering, info: Info) -> None:
        """A numbering that is new to us: the last values first, then the end of the stream."""
        state, receiver, shift = info.state, self._receiver, numbering.shift
        until = await self._known_until(stream, numbering, state)
        start = max(await stream.whole_above(state, until), until - self._config.preload)
        receiver.status_changed(False, numbering.epoch, start + shift)
        if start:
            for stored in await last_values(stream, self._subjects, start):
                if self._is_feed(stored.subject):
                    receiver.remember(*stored._replace(offset=stored.offset + shift), ring=False)
        before = self._numbering, self.position, self._sequence, self._at_ns
        self._numbering, self.position = numbering, until
        self._sequence = self._at_ns = 0
        self._held = []
        read = self._read = asyncio.get_running_loop().create_future()
        try:
            created = await self._consume(stream, start + 1)
            if start < until and created.messages:
                await asyncio.wait_for(read, 2 * REQUEST_TIMEOUT_S)
        except BaseException:  # half a history is none: the next `open` begins again
            self.close()
            self._numbering, self.position, self._sequence, self._at_ns = before
            raise

    async def _known_until(self, stream: Stream, numbering: Numbering, state: State) -> int:
        """The sequence up to which clients have had their chance: what is above is new to them."""
        known = self._numbering
        if known is None:
            return state.last_seq  # nobody has got anything yet
        if not self._at_ns:
            return state.last_seq if numbering.created == known.created else 0
        created = await Consumer(stream.client, stream.name, _nothing).start(
            listen=False,
            deliver_policy=DeliverPolicy.BY_START_TIME,
            opt_start_time=_rfc3339(self._at_ns + 1),
        )
        return min(created.start, state.last_seq)

    async def _consume(self, stream: Stream, sequence: int) -> Any:
        consumer = self._consumer = Consumer(stream.client, stream.name, self._take)
        return await consumer.start(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=sequence,
            **filter_of(self._subjects),
        )

    def _take(self, subject: str, payload: bytes, place: Place) -> None:
        if self._held is None:
            if place.sequence > self.position:
                self._deliver(subject, payload, place)
            return
        if self._again is not None and not self._again.done():
            self._again.set_result(place)
        if place.sequence > self.position:
            self._held.append((subject, payload, place))
        elif self._read is not None and self._is_feed(subject):
            self._remember(subject, payload, place)
        over = place.sequence >= self.position or not place.pending
        if over and self._read is not None and not self._read.done():
            self._read.set_result(None)

    def _remember(self, subject: str, payload: bytes, place: Place) -> None:
        """A message of the time before this server."""
        assert self._numbering is not None
        self._sequence, self._at_ns = place.sequence, place.at_ns
        offset = place.sequence + self._numbering.shift
        self._receiver.remember(subject, payload, offset, ring=True)

    def _deliver(self, subject: str, payload: bytes, place: Place) -> None:
        assert self._numbering is not None
        self.position = place.sequence
        if not self._is_feed(subject):
            return
        self._sequence, self._at_ns = place.sequence, place.at_ns
        self.lag_s = max(0.0, time.time() - place.at_ns / 1e9)
        self._receiver.received(subject, payload, place.sequence + self._numbering.shift)

    def _is_feed(self, subject: str) -> bool:
        if subject.startswith(CONTROL):
            return False
        if len(self._subjects) == 1:
            return covers(self._subjects[0], subject)
        return any(covers(each, subject) for each in self._subjects)


def _nothing(_subject: str, _payload: bytes, _place: Place) -> None:
    """For a consumer that is only asked where it would begin."""


def _rfc3339(at_ns: int) -> str:
    seconds, rest = divmod(at_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
