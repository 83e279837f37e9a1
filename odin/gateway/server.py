"""The gateway's lifetime: listen, watch the slow, and let everybody go at the end."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from odin.delivery.hub import Hub
from odin.gateway.ordinary import OrdinaryFactory
from odin.gateway.transport import Port, Transport
from odin.gateway.websocket import OdinFactory
from odin.wire.codes import CloseCode, close_reason

if TYPE_CHECKING:
    from twisted.python.failure import Failure

_BACKLOG: Final = 4096
_CLOSE_SLICE: Final = 200  # clients told to go, before the reactor gets a turn
_LOOK_EVERY_S: Final = 1.0


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
        host: str,
        port: int | None,
        endpoints: Sequence[tuple[str, IStreamServerEndpoint]],
        send_buffer: int,
        stop_timeout_s: float,
        listening: Callable[[bool], None],
    ) -> None:
        """`port`: None to listen at the (description, endpoint) pairs only. `send_buffer`: see
        transport.Port. `listening` is told when the ports open and close."""
        self.port: Port | None = None
        self._reactor = reactor
        self._factory = factory
        self._hub = hub
        self._transport = transport
        self._host = host
        self._number = port
        self._send_buffer = send_buffer
        self._endpoints = endpoints
        self._others: list[IListeningPort] = []
        self._stop_timeout_s = stop_timeout_s
        self._listening = listening
        self._watch = LoopingCall(self._watch_slow)
        self._watch.clock = reactor

    def startService(self) -> None:
        """Raises: CannotListenError."""
        super().startService()
        if self._number is not None:
            self._listen(self._number)
        for text, endpoint in self._endpoints:
            self._listen_at(text, endpoint)
        self._listening(True)
        self._watch.start(_LOOK_EVERY_S, now=False)

    def _listen(self, number: int) -> None:
        port = Port(number, self._factory, _BACKLOG, self._host, self._reactor)
        port.transport = self._transport
        port.send_buffer = self._send_buffer
        port.startListening()
        self.port = port
        self._log.info("Odin listens on {host}:{port}", host=self._host, port=port.getHost().port)

    def _listen_at(self, text: str, endpoint: IStreamServerEndpoint) -> None:
        factory = OrdinaryFactory(self._factory, self._reactor, self._transport.max_pending)
        failures: list[Failure] = []
        endpoint.listen(factory).addCallbacks(self._others.append, failures.append)
        if failures:  # endpoints listen at once, or fail at once
            failures[0].raiseException()
        where: Any = self._others[-1].getHost()
        name = f"{where.host}:{where.port}" if hasattr(where, "port") else repr(where.name)
        self._log.info("Odin listens at {kind}:{name}", kind=text.partition(":")[0], name=name)

    def stopService(self) -> Deferred[None]:
        """Accept no more, send what waits, close everybody with 1001, and wait for their answer."""
        super().stopService()
        self._factory.draining = True
        self._listening(False)
        if self._watch.running:
            self._watch.stop()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        reactor, factory = self._reactor, self._factory
        if self.port is not None:
            await self.port.stopListening()
        for other in self._others:
            await maybeDeferred(other.stopListening)
        self._hub.flush()
        stop_at = reactor.seconds() + self._stop_timeout_s
        told = 0
        for group in self._hub.groups:
            for session in group:
                session.close(CloseCode.GOING_AWAY, close_reason("going_away", "the server stops"))
                told += 1
                if told % _CLOSE_SLICE == 0:
                    await deferLater(reactor, 0)
        while factory.connections and reactor.seconds() < stop_at:
            await deferLater(reactor, 0.02)
        self._log.info(
            "{told} clients told to go, {left} did not answer", told=told, left=factory.connections
        )

    def _watch_slow(self) -> None:
        """End the connections whose peer took nothing for `writeTimeout`."""
        stalled_before = self._reactor.seconds() - self._factory.times.write_s
        for protocol in list(self._factory.behind):
            progress_at = protocol.transport.progress_at
            if progress_at is not None and progress_at < stalled_before:
                protocol.stalled()
