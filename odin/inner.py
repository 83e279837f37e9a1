"""The internal listener: what operators and their tools read and do.

Plain HTTP as on the public port, with the same checks and deadlines (odin.gateway.plain), but no
WebSockets, and few connections: their descriptors are kept for them (see odin.service).
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from odin.config import Config
from odin.errors import HandshakeRefused
from odin.gateway.plain import MakeExchange, PlainHttp, refusal_of
from odin.gateway.port import Port
from odin.gateway.timers import Wheel
from odin.gateway.transport import Transport
from odin.metrics import CONTENT_TYPE
from odin.process import listeners, reactors
from odin.web.answers import AnswerPage, Answers, RecentAnswers
from odin.web.resources import JsonResource
from odin.web.site import Site

MOST_CONNECTIONS: Final = 32
_MAX_BODY_BYTES: Final = 4096  # no page here needs any


def inner_pages(
    config: Config, answers: Answers, state: Callable[[], object]
) -> dict[str, JsonResource]:
    """What an operator reads: public, unless there is an internal listener.

    `state`: see RecentAnswers.
    """
    every_s = config.metrics.update_interval_s
    recent = RecentAnswers(answers, every_s, time.monotonic, state)
    pages: dict[str, JsonResource] = {
        "health": AnswerPage(recent, "health"),
        "stats": AnswerPage(recent, "stats"),
    }
    if config.metrics.enable_prometheus:
        pages[config.metrics.metrics_path] = AnswerPage(recent, "metrics", CONTENT_TYPE)
    return pages


class InnerListener(Service):
    """The internal listener, for operators and their tools only."""

    _log = Logger()

    def __init__(
        self, config: Config, pages: Mapping[str, JsonResource], reactor: Any, wheel: Wheel
    ) -> None:
        self._host, self._port = config.metrics.host or config.server.host, config.metrics.port
        self._reactor = reactor
        self._listening: Port | None = None
        server = config.server
        times = InnerTimes(server.read_timeout_s, server.write_timeout_s)
        site = Site()
        site.mount(pages)
        self._factory = InnerFactory(site.exchange, wheel, times, reactor)

    def privilegedStartService(self) -> None:
        """Raises: CannotListenError."""
        super().privilegedStartService()
        with listeners.listen(self._host, self._port or 0) as sock:
            transport = Transport.configured(
                self._reactor, read_bytes=4096, write_bytes=65_536, max_pending=1 << 20
            )
            self._listening = Port.on(sock, self._factory, transport, self._reactor)
            host, port = listeners.name_of(sock)
        self._log.info("the internal listener is at {host}:{port}", host=host, port=port)

    def stopService(self) -> Deferred[None]:
        listening, self._listening = self._listening, None
        closed = listening.stopListening() if listening is not None else None
        super().stopService()
        return closed or succeed(None)


class InnerTimes(NamedTuple):
    """How long things may take, in seconds."""

    read_s: float  # for a request to come
    write_s: float  # for an answer to leave


class InnerProtocol(PlainHttp):
    """One connection."""

    factory: "InnerFactory"

    def __init__(self) -> None:
        self.transport: Any = None
        self.bucket: set[Any] | None = None

    # -- from Twisted, and from the transport

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        self.factory.connections += 1
        self.factory.wheel.set(self, self.factory.times.read_s)

    def dataReceived(self, data: bytes) -> None:
        if not self._over:
            self.http_received(data)

    def connectionLost(self, reason: Failure) -> None:
        self.factory.connections -= 1
        self.factory.wheel.clear(self)
        self.http_lost(reason)
        self.transport = None

    def fellBehind(self) -> None:
        self.factory.wheel.set(self, self.factory.times.write_s)

    def caughtUp(self) -> None:
        if not self._over:
            self.factory.wheel.clear(self)
            self.http_left()

    def overflowed(self, pending: int) -> None:
        """An answer may be as long as it likes."""

    # -- from the wheel

    def due(self) -> None:
        if self._over:
            self.transport.abortConnection()
        else:
            self.http_late()


class InnerFactory(Factory):
    """Makes the connections of one internal listener."""

    _log = Logger()
    noisy = False
    max_body_bytes = _MAX_BODY_BYTES
    pressed = False

    def __init__(self, http: MakeExchange, wheel: Wheel, times: InnerTimes, reactor: Any) -> None:
        self.http = http
        self.wheel = wheel
        self.times = times
        self.connections = 0
        self.meter = self
        self.later = reactors.call_soon(reactor)

    def buildProtocol(self, _address: object) -> Any:
        protocol = InnerProtocol()
        protocol.factory = self
        return protocol

    @property
    def room(self) -> int:
        """For how many more connections there is a descriptor."""
        return MOST_CONNECTIONS - self.connections

    def refusal(self) -> bytes:
        """What somebody gets for whom there is no room."""
        return refusal_of(HandshakeRefused(503, "full", "no room"))

    def rejected(self, cause: str) -> None:
        """Nobody counts here."""

    def log_failure(self, text: str) -> None:
        """Log the exception that is being handled: a defect of ours."""
        self._log.failure(text)
