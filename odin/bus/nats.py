"""NATS: the only importer of nats, and the only border between asyncio and Deferreds."""

import asyncio
import contextlib
import random
import ssl
from collections.abc import Coroutine
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Client
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from zope.interface import implementer

from odin.bus.interfaces import CONTROL, IBus, IReceiver, Stored
from odin.bus.jetstream import StreamFeed
from odin.bus.reading import FeedClient, Receive
from odin.config import Nats
from odin.errors import LimitExceeded, Unavailable
from odin.wire.subjects import covers, overlaps, reduced

_PUBLISH_TIMEOUT_S: Final = 5
_DRAIN_TIMEOUT_S: Final = 2
_LOG_EVERY_S: Final = 30
_WATCH_EVERY_S: Final = 1.0
_ANSWER_S: Final = 2.5  # a broker that takes longer counts as away: told within 5 s


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
        self._paused = False
        self._config = config
        self._loop = loop
        self._name = name
        self.stores = bool(config.jetstream.stream)
        self.kind = "jetstream" if self.stores else "nats"
        self._subjects = reduced(config.subjects)
        self._client: FeedClient | None = None
        self._stream: StreamFeed | None = None
        self._missed = False  # whether the connection was lost since the feed was live
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._was_connected = False
        self._last_error = ""
        self._logged_at = -float(_LOG_EVERY_S)

    def attach(self, receiver: IReceiver) -> None:
        self._receiver = receiver
        if self.stores:
            self._stream = StreamFeed(self._config.jetstream, self._subjects, receiver)

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
        if self._client is not None:
            self._client.resume()

    def publish(self, subject: str, payload: bytes) -> Deferred[None]:
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
        except (nats.errors.Error, OSError, TimeoutError) as error:
            await self._failed(error)
            raise Unavailable("the message broker does not answer") from None

    async def _publish(self, subject: str, payload: bytes) -> None:
        client = self._client
        if client is None or not (client.is_connected and self.connected):
            raise Unavailable("the message broker cannot be reached")
        try:
            await client.publish(subject, payload)
            # the round trip: without it a message could die in a buffer and have been confirmed
            await client.flush(timeout=_PUBLISH_TIMEOUT_S)
        except nats.errors.MaxPayloadError:
            raise LimitExceeded("the message is larger than the broker takes") from None
        except (nats.errors.Error, OSError, TimeoutError):
            raise Unavailable("the message broker does not answer") from None

    async def _run(self) -> None:
        """Hold a connection: connect, subscribe, wait until it is closed for good, again."""
        while self.running:
            client, closed = FeedClient(), asyncio.Event()
            client.paused = self._paused
            self._client = client
            try:
                await client.connect(**self._options(closed))
                await self._subscribe(client)
                await self._watch(client, closed)
            except nats.errors.NoServersError:
                self.gave_up = True
                self._log.error(
                    "gave up on NATS after {n} attempts (nats.maxReconnects)",
                    n=self._config.max_reconnects,
                )
                return
            except (nats.errors.Error, OSError, TimeoutError, ValueError) as error:
                await self._failed(error)
            self._changed(False)
            self._missed = True
            if not client.is_closed:
                await client.close()
            if self.running:
                await asyncio.sleep(self._pause_s())

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
        """Ask the broker every second whether it is there: a paused one closes no connection."""
        stream, wake = self._stream, self._wake
        while not closed.is_set():
            wake.clear()
            if client.is_connected and await self._answers(client):
                if stream is not None and (stream.broken or not self.connected):
                    await self._open(stream, client)
                elif stream is None and not self.connected:
                    self._changed(True, gap=self._missed)
                    self._missed = False
            else:
                self._changed(False)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), _WATCH_EVERY_S)
        if stream is not None:
            await stream.close()

    async def _open(self, stream: StreamFeed, client: FeedClient) -> None:
        try:
            epoch, offset, gap = await stream.open(client)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            self._changed(False)
            await self._failed(error)
        else:
            self._changed(True, epoch, offset, gap=gap)

    async def _answers(self, client: FeedClient) -> bool:
        try:
            await client.flush(timeout=_ANSWER_S)
        except (nats.errors.Error, OSError, TimeoutError):
            return False
        return True

    async def _stop(self) -> None:
        task, client = self._task, self._client
        self._task = None
        if client is not None and client.is_connected:
            try:
                await client.finish(_DRAIN_TIMEOUT_S)
            except (nats.errors.Error, OSError, TimeoutError) as error:
                self._log.debug("draining NATS: {error}", error=error)
        if client is not None and not client.is_closed:
            await client.close()  # first: a task can miss its cancellation, but not this
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
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

    def _options(self, closed: asyncio.Event) -> dict[str, Any]:
        config = self._config

        async def on_disconnect() -> None:
            self._missed = True
            self._changed(False)

        async def on_reconnect() -> None:
            self._wake.set()

        async def on_close() -> None:
            closed.set()
            self._wake.set()

        options: dict[str, Any] = {
            "servers": [each.strip() for each in config.url.split(",") if each.strip()],
            "name": self._name,
            "error_cb": self._failed,
            "disconnected_cb": on_disconnect,
            "reconnected_cb": on_reconnect,
            "closed_cb": on_close,
            "allow_reconnect": True,
            "connect_timeout": 2,
            "max_reconnect_attempts": config.max_reconnects,
            "reconnect_time_wait": self._pause_s(),
            "reconnect_to_server_handler": self._choose,
            "ping_interval": config.ping_interval_ms / 1000,
            "max_outstanding_pings": config.max_pings_out,
        }
        for option, value in (
            ("user", config.user),
            ("password", config.password),
            ("token", config.token),
            ("user_credentials", config.credentials_file),
            ("tls", self._tls()),
        ):
            if value:
                options[option] = value
        return options

    def _tls(self) -> ssl.SSLContext | None:
        config = self._config
        if not (config.tls_ca_file or config.tls_cert_file):
            return None
        context = ssl.create_default_context(cafile=config.tls_ca_file or None)
        if config.tls_cert_file:
            context.load_cert_chain(config.tls_cert_file, config.tls_key_file or None)
        return context

    def _choose(self, servers: list[Any], _info: dict[str, Any]) -> tuple[Any, float]:
        """The server to try next, and how long to wait before: at once when it was not tried."""
        server = min(servers, key=lambda each: each.reconnects)
        jitter_s = random.random() * self._config.reconnect_jitter_ms / 1000
        return server, jitter_s if not server.reconnects else self._pause_s()

    def _pause_s(self) -> float:
        config = self._config
        jitter_ms = random.random() * config.reconnect_jitter_ms
        return (config.reconnect_wait_ms + jitter_ms) / 1000

    def _changed(
        self, connected: bool, epoch: str | None = None, offset: int = 0, *, gap: bool = False
    ) -> None:
        if connected == self.connected and not gap and epoch is None:
            return
        changed, self.connected = connected != self.connected, connected
        if connected and changed:
            self.reconnects += self._was_connected
            self._was_connected = True
            self._last_error = ""
        if changed:
            self._log.info(
                "NATS {state} ({servers})",
                state="connected" if connected else "lost",
                servers=", ".join(server_names(self._config.url)),
            )
        self._receiver.status_changed(connected, epoch, offset, gap=gap)

    async def _failed(self, error: Exception) -> None:
        """Log what went wrong, once while it stays the same."""
        text = f"{type(error).__name__}: {error}"
        now = self._loop.time()
        if text != self._last_error or now - self._logged_at >= _LOG_EVERY_S:
            self._last_error, self._logged_at = text, now
            self._log.warn("NATS: {error}", error=text)

    def _deferred(self, work: Coroutine[Any, Any, T]) -> Deferred[T]:
        return Deferred.fromFuture(asyncio.ensure_future(work, loop=self._loop))


def server_names(url: str) -> list[str]:
    """host:port of each server in a URL list, without the credentials."""
    names = []
    for each in url.split(","):
        parts = urlsplit(each if "//" in each else f"nats://{each}")
        names.append(f"{parts.hostname}:{parts.port or 4222}")
    return names


async def publish_once(url: str, subject: str, payload: bytes) -> None:
    """Connect, publish one message, and leave; for tools.

    Raises: OSError when no server can be reached.
    """
    client = Client()

    async def ignore(_error: Exception) -> None:
        pass

    try:
        await client.connect(
            url.split(","),
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            error_cb=ignore,
        )
    except (nats.errors.Error, OSError, TimeoutError):
        raise ConnectionError(f"no NATS server at {', '.join(server_names(url))}") from None
    await client.publish(subject, payload)
    await client.flush()
    await client.close()
