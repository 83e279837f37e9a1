"""NATS as a bus: the only border between asyncio and Deferreds."""

import asyncio
import contextlib
import re
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import nats.errors
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from zope.interface import implementer

from odin.bus.complaints import Complaints
from odin.bus.connecting import Servers
from odin.bus.interfaces import CONTROL, IBus, IReceiver, Receipt, Stored
from odin.bus.jetstream import StreamFeed
from odin.bus.reading import FeedClient, Receive
from odin.bus.stream import ANSWER_S
from odin.config import Nats
from odin.errors import BrokerError, LimitExceeded, Unavailable
from odin.process.lateness import Lateness
from odin.wire.subjects import covers, overlaps, reduced

_PUBLISH_TIMEOUT_S: Final = 5
_DRAIN_TIMEOUT_S: Final = 2
_LOG_EVERY_S: Final = 30
_WATCH_EVERY_S: Final = 1.0
_RETRY_S: Final = 0.25  # while messages cannot arrive
_LATE_S: Final = 1.0  # an answer that is missing for that much longer: this process stood still
_END_S: Final = 0.2
_END_TRIES: Final = 10
_DENIED: Final = re.compile(r'permissions violation for subscription to "([^"]+)"', re.IGNORECASE)
_FAILURES: Final = (BrokerError, nats.errors.Error, OSError, TimeoutError)


T = TypeVar("T")


@implementer(IBus)
class NatsBus(Service):
    """Subscribes to the configured subjects, for ever.

    Starts without a broker and connects when there is one; after a loss it tries again with
    jitter. A client of nats-py that gave up for good (it does after an authorization error) is
    replaced by a new one. Clients of Odin never notice more than a pause.
    """

    shared = True
    _log = Logger()
    _receiver: IReceiver

    def __init__(self, config: Nats, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self.connected = False
        self.reconnects = 0
        self.gave_up = False
        self._paused = False  # by us: what the broker says meanwhile is not read
        self._resumed_at = 0.0
        self._config = config
        self._servers = Servers(config)
        self._loop = loop
        self._name = name
        self.stores = bool(config.jetstream.stream)
        self.kind = "jetstream" if self.stores else "nats"
        self._subjects = reduced(config.subjects)
        self._client: FeedClient | None = None
        self._stream: StreamFeed | None = None
        self._missed = False  # whether the connection was lost since the feed was live
        self._why = ""  # messages cannot arrive
        self._denied: set[str] = set()  # subjects that the broker does not let us have
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._was_connected = False
        self._complaints = Complaints(self._log, _LOG_EVERY_S, loop.time)

    def attach(self, receiver: IReceiver) -> None:
        self._receiver = receiver
        if self.stores:
            self._stream = StreamFeed(self._config.jetstream, self._subjects, receiver)

    @property
    def trouble(self) -> str:
        if self._why or not self._denied:
            return self._why
        return f"the broker denies {', '.join(sorted(self._denied))}"

    @property
    def lag_s(self) -> float | None:
        return self._stream.lag_s if self._stream is not None else None

    def startService(self) -> None:
        super().startService()
        self._task = self._loop.create_task(self._run())

    def stopService(self) -> Deferred[None]:
        """Drain: what the broker has sent is still delivered, then the connection ends."""
        super().stopService()
        return self._deferred(self._stop())

    def pause(self) -> None:
        self._paused = True
        if self._client is not None:
            self._client.pause()

    def resume(self) -> None:
        self._paused = False
        self._resumed_at = self._loop.time()
        if self._stream is not None:
            self._stream.excuse()
        if self._client is not None:
            self._client.resume()

    def publish(self, subject: str, payload: bytes) -> Deferred[Receipt | None]:
        return self._deferred(self._publish(subject, payload))

    def fetch(
        self, patterns: frozenset[str], after: int, until: int, most: int
    ) -> Deferred[list[Stored] | None]:
        if self._stream is None:
            return succeed(None)
        return self._deferred(self._fetch(self._stream, patterns, after, until, most))

    async def _fetch(
        self, stream: StreamFeed, patterns: frozenset[str], after: int, until: int, most: int
    ) -> list[Stored] | None:
        client = self._client
        if client is None or not client.is_connected:
            raise Unavailable("the message broker cannot be reached")
        try:
            return await stream.fetch(client, patterns, after, until, most)
        except _FAILURES as error:
            self._complaints.say("NATS: {why}", why=_words(error))
            raise Unavailable("the message broker does not answer") from None

    async def _publish(self, subject: str, payload: bytes) -> Receipt | None:
        client = self._client
        if client is None or not (client.is_connected and self.connected):
            raise Unavailable("the message broker cannot be reached")
        try:
            if self._stream is not None:
                return await self._stream.store(client, subject, payload)
            await client.publish(subject, payload)
            # the round trip: without it a message could die in a buffer and have been confirmed
            await client.flush(timeout=_PUBLISH_TIMEOUT_S)
            return None
        except nats.errors.MaxPayloadError:
            raise LimitExceeded("the message is larger than the broker takes") from None
        except BrokerError as error:
            self._wake.set()
            raise Unavailable(str(error)) from None
        except _FAILURES:
            self._wake.set()
            raise Unavailable("the message broker does not answer") from None

    async def _run(self) -> None:
        """Hold a connection, one after the other."""
        while self.running and not self.gave_up:
            try:
                await self._hold()
            except Exception:  # a defect of ours
                self._log.failure("holding the connection to NATS failed: trying again")
            if self.running and not self.gave_up:
                await asyncio.sleep(self._servers.pause_s())

    async def _hold(self) -> None:
        """Connect, subscribe, and wait until the connection is closed for good."""
        client, closed = FeedClient(), asyncio.Event()
        client.paused = self._paused
        self._client = client
        try:
            await client.connect(**self._servers.options(self._name), **self._callbacks(closed))
            await self._subscribe(client)
            await self._watch(client, closed)
        except nats.errors.NoServersError:
            self.gave_up = True
            self._log.error(
                "gave up on NATS after {n} attempts (nats.maxReconnects)",
                n=self._config.max_reconnects,
            )
            return
        except Exception as error:  # whatever the library raises: try again
            self._lost(error)
        self._changed(False)
        self._missed = True
        if not client.is_closed:
            try:
                await client.close()
            except Exception as error:
                self._lost(error)

    async def _subscribe(self, client: FeedClient) -> None:
        receiver = self._receiver

        def controlled(subject: str, payload: bytes, _reply: bytes, _headers: bytes) -> None:
            receiver.controlled(subject, payload)

        await client.take(f"{CONTROL}>", controlled)
        if self._stream is None:
            for position, subject in enumerate(self._subjects):
                await client.take(subject, self._taker(position, subject))
        await client.flush()

    async def _watch(self, client: FeedClient, closed: asyncio.Event) -> None:
        """Look every second: a broker that is paused, or has lost a node, closes no connection."""
        stream, wake = self._stream, self._wake
        lateness = Lateness(_WATCH_EVERY_S, self._loop.time)
        while not closed.is_set():
            wake.clear()
            await self._look(client)
            lateness.restart()
            pause_s = _WATCH_EVERY_S if self.connected else _RETRY_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), pause_s)
            if lateness.stood_still() and stream is not None:
                stream.excuse()
        if stream is not None:
            stream.close()

    async def _look(self, client: FeedClient) -> None:
        """See whether messages can arrive, and do what it takes that they do."""
        stream = self._stream
        if not client.is_connected:
            self._changed(False)
            return
        if self._paused:
            return
        asked_at, came = self._loop.time(), self._came(client)
        try:
            if stream is None:
                await client.flush(timeout=ANSWER_S)
            else:
                await stream.check(client)
        except _FAILURES as error:
            listened = not self._paused and self._resumed_at < asked_at
            in_time = self._loop.time() - asked_at < ANSWER_S + _LATE_S
            if listened and in_time and self._came(client) == came:
                self._lost(error)
            return  # else nobody was here to hear the answer, or it is behind messages: ask again
        if stream is not None:
            await self._follow(stream, client)
        elif self._denied.issuperset(self._subjects):
            self._lost(BrokerError(f"the broker denies {', '.join(self._subjects)}"))
        elif not self.connected:
            self._changed(True, gap=self._missed)
            self._missed = False

    def _came(self, client: FeedClient) -> int:
        """A number that grows with what arrives of the feed."""
        return client.reads if self._stream is None else self._stream.position

    async def _follow(self, stream: StreamFeed, client: FeedClient) -> None:
        """Open the stream (again) where that is needed."""
        if stream.silent:
            self._lost(BrokerError("the consumer of the stream is silent"))
        elif self.connected and not stream.broken:
            return
        waited = self._loop.call_later(ANSWER_S, self._changed, False)
        try:
            epoch, offset = await stream.open(client)
        except _FAILURES as error:
            self._lost(error)
        else:
            self._changed(True, epoch, offset)  # before the first message that follows
            stream.go_on()
        finally:
            waited.cancel()

    async def _stop(self) -> None:
        task, client = self._task, self._client
        self._task = None
        if client is not None and client.is_connected:
            try:
                await client.finish(_DRAIN_TIMEOUT_S)
            except (nats.errors.Error, OSError, TimeoutError) as error:
                self._log.debug("draining NATS: {error}", error=error)
        if client is not None and not client.is_closed:
            # whatever the library raises; a cancellation is one of its transport, not of ourselves
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await asyncio.wait_for(client.close(), _DRAIN_TIMEOUT_S)
        for _ in range(_END_TRIES):
            if task is None or task.done():
                break
            # more than once: asyncio.wait_for of Python 3.11 loses a cancellation that comes
            # together with its result, and the library's loop over the servers has no end
            task.cancel()
            await asyncio.wait({task}, timeout=_END_S)
        self.connected = False

    def _taker(self, position: int, subject: str) -> Receive:
        """What takes the messages of this subscription.

        Where patterns overlap, the broker sends one message once per subscription: all but the
        first pattern that it matches let it pass.
        """
        received = self._receiver.received
        earlier = [each for each in self._subjects[:position] if overlaps(each, subject)]
        if overlaps(subject, f"{CONTROL}>"):
            earlier.append(f"{CONTROL}>")

        def receive(subject: str, payload: bytes, _reply: bytes, _headers: bytes) -> None:
            if self._missed:  # the first message after an outage: the gap is told before it
                self._missed = False
                self._changed(True, gap=True)
            received(subject, payload)

        def receive_unless_earlier(
            subject: str, payload: bytes, reply: bytes, headers: bytes
        ) -> None:
            if not any(covers(each, subject) for each in earlier):
                receive(subject, payload, reply, headers)

        return receive_unless_earlier if earlier else receive

    def _callbacks(self, closed: asyncio.Event) -> dict[str, Any]:
        async def on_disconnect() -> None:
            self._missed = True
            self._denied.clear()
            if self._stream is not None:
                self._stream.close()  # the broker would go on with the old consumer, gap or not
            self._changed(False)

        async def on_reconnect() -> None:
            self._wake.set()

        async def on_close() -> None:
            closed.set()
            self._wake.set()

        return {
            "error_cb": self._failed,
            "disconnected_cb": on_disconnect,
            "reconnected_cb": on_reconnect,
            "closed_cb": on_close,
        }

    def _changed(
        self, connected: bool, epoch: str | None = None, offset: int = 0, *, gap: bool = False
    ) -> None:
        if connected == self.connected and not gap and epoch is None:
            return
        changed, self.connected = connected != self.connected, connected
        if connected:
            self._why = ""
        if connected and changed:
            self.reconnects += self._was_connected
            self._was_connected = True
            self._complaints.forget()
        if changed:
            self._log.info(
                "NATS {state} ({servers})",
                state="connected" if connected else "lost",
                servers=self._servers.names,
            )
        self._receiver.status_changed(connected, epoch, offset, gap=gap)

    def _lost(self, error: Exception) -> None:
        """No message can arrive, because of this."""
        self._why = _words(error)
        self._changed(False)
        self._complaints.say("NATS: {why}", why=self._why)

    async def _failed(self, error: Exception) -> None:
        """What nats-py has met; it goes on by itself."""
        denied = _DENIED.search(str(error))
        if denied is not None:  # in lower case, whatever the subject is
            self._denied.update(each for each in self._subjects if each.lower() == denied[1])
            self._wake.set()
        self._complaints.say("NATS: {why}", why=_words(error))

    def _deferred(self, work: Coroutine[Any, Any, T]) -> Deferred[T]:
        return Deferred.fromFuture(asyncio.ensure_future(work, loop=self._loop))


def _words(error: Exception) -> str:
    if isinstance(error, BrokerError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "the broker does not answer"
    return f"{type(error).__name__}: {error}"
