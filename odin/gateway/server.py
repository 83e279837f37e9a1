"""The gateway's lifetime: listen, watch the slow, and let everybody go at the end."""

from collections.abc import Callable
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from odin.delivery.hub import Hub
from odin.gateway.drain import drain
from odin.gateway.endpoints import Endpoints, empty
from odin.gateway.factory import OdinFactory
from odin.gateway.ordinary import OrdinaryFactory
from odin.gateway.port import Port
from odin.gateway.session import Session
from odin.gateway.transport import Transport
from odin.process import listeners

_LOOK_EVERY_S: Final = 1.0
_ANSWER_S: Final = 0.3  # for plain requests that are under way
_DRAIN_SHARE: Final = 0.6  # of the time to stop: the rest is for the last to answer


class Gateway(Service):
    """Accepts connections for a factory while it runs."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        factory: OdinFactory,
        hub: Hub,
        transport: type[Transport],
        *,
        own: Callable[[], listeners.Listening] | None,
        endpoints: Endpoints,
        stop_timeout_s: float,
        listening: Callable[[bool], None],
    ) -> None:
        """`own`: opens the sockets to listen on; None for a worker, which is told (`listen_on`).
        `listening` is told when the ports open and close."""
        self.transport = transport
        self.stop_timeout_s = stop_timeout_s
        self._reactor = reactor
        self._factory = factory
        self._hub = hub
        self._own = own
        self.endpoints = endpoints
        self._ports: dict[int, list[Port]] = {}  # by the number of the worker they are for
        self.last = True  # whether nobody accepts after us who waits there when we stop
        self._kept = False  # whether others hold them as well
        self._listening = listening
        self._watch = LoopingCall(self._watch_slow)
        self._watch.clock = reactor

    def startService(self) -> None:
        """Raises: CannotListenError, ConfigError."""
        super().startService()
        if self._own is not None:
            self.listen_on(0, self._own())
        self._watch.start(_LOOK_EVERY_S, now=False)

    def listen_on(self, number: int, listening: listeners.Listening) -> None:
        """Accept from these sockets, and at the endpoints; `number` is for `release`.

        Nothing happens if those of this number are here already.
        """
        self._kept = listening.kept
        self.last = not listening.kept
        known = number in self._ports
        for sock in listening.sockets:
            if known:
                sock.close()
                continue
            port = Port.on(sock, self._factory, self.transport, self._reactor)
            self._ports.setdefault(number, []).append(port)
            host, bound = listeners.name_of(sock)
            sock.close()
            self._log.info("Odin listens on {host}:{port}", host=host, port=bound)
        max_pending = self.transport.max_pending
        self.endpoints.listen(OrdinaryFactory(self._factory, self._reactor, max_pending))
        self._listening(True)

    def release(self, number: int) -> None:
        """Accept no more from the sockets of `number`, which somebody else holds as well."""
        for port in self._ports.pop(number, ()):
            port.stopListening()

    def release_all(self, *, pass_on: bool) -> dict[int, int]:
        """Accept no more from anything, for another process takes over.

        `pass_on`: it listens on the endpoints' sockets that are the answer.
        """
        for number in list(self._ports):
            self.release(number)
        passed = self.endpoints.pass_on() if pass_on else {}
        self.endpoints.close()
        self._listening(False)
        return passed

    def stopService(self) -> Deferred[None]:
        """Accept no more, send what waits, let everybody go, and wait for their answer."""
        super().stopService()
        self._factory.draining = True
        self._listening(False)
        if self._watch.running:
            self._watch.stop()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        reactor, factory = self._reactor, self._factory
        stop_at = reactor.seconds() + self.stop_timeout_s
        for port in [each for ports in self._ports.values() for each in ports]:
            if not self._kept:
                listeners.stop_arrivals(port.socket)
            if self.last:
                empty(port)
            await (port.stopListening() or succeed(None))
        for closing in (*self.endpoints.close(last=self.last), *self.endpoints.leave()):
            await closing
        drain_s = self.stop_timeout_s * _DRAIN_SHARE
        told = await drain(reactor, self._hub, self.sessions(), drain_s)
        while factory.connections and reactor.seconds() < stop_at:
            await deferLater(reactor, 0.02)
        stop_at = min(stop_at, reactor.seconds() + _ANSWER_S)
        while factory.transports and reactor.seconds() < stop_at:
            await deferLater(reactor, 0.02)
        self._log.info(
            "{told} clients told to go, {left} did not answer", told=told, left=factory.connections
        )

    def sessions(self) -> list[Session]:
        """Everybody who is connected, but for /echo."""
        found: list[Any] = [each for group in self._hub.groups for each in group]
        return found

    def _watch_slow(self) -> None:
        """End the connections whose peer took nothing for `writeTimeout`."""
        stalled_before = self._reactor.seconds() - self._factory.times.write_s
        for protocol in list(self._factory.behind):
            progress_at = protocol.transport.progress_at
            if progress_at is not None and progress_at < stalled_before:
                protocol.stalled()
