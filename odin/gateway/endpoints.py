"""The endpoints that a server listens at beside the plain port: Twisted's own ports, TLS mostly.

Each worker opens them itself (SO_REUSEPORT). A successor gets the listening sockets of its
predecessor instead: whoever waits there to be accepted waits on, and nobody is reset because a
socket was closed.
"""

import select
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from twisted.internet import posixbase
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger

from odin.errors import ConfigError
from odin.gateway.ordinary import OrdinaryFactory
from odin.process import listeners
from odin.process.channel import adopt

if TYPE_CHECKING:
    from twisted.python.failure import Failure


class SharingReactor:
    """A reactor whose TCP ports may be shared with other processes (SO_REUSEPORT)."""

    def __init__(self, reactor: Any) -> None:
        self.inherited: socket.socket | None = None  # to listen on instead of a new one, once
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(
        self, port: int, factory: Any, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        sock, self.inherited = self.inherited, None
        if sock is None:
            sock = listeners.listen(interface, port, shared=True, backlog=backlog)
        with sock:  # an adopted port does not shut its socket down, which others may have as well
            made = self._reactor.adoptStreamPort(sock.fileno(), sock.family, factory)
        return cast("IListeningPort", made)

    def listenSSL(self, *arguments: Any, **named: Any) -> IListeningPort:
        listen: Any = posixbase.PosixReactorBase.listenSSL
        return cast("IListeningPort", listen(self, *arguments, **named))


class Door(NamedTuple):
    """Where to listen, as its description says."""

    text: str
    endpoint: IStreamServerEndpoint
    sharing: SharingReactor | None = None  # what it listens by, if other processes do so as well


class Endpoints:
    """All endpoints of a server. Numbers are those of the doors."""

    _log = Logger()

    def __init__(self, doors: Sequence[Door]) -> None:
        self._doors = doors
        self._ports: dict[int, Any] = {}
        self._passed: dict[int, Any] = {}  # open here still, and accepted from by another process

    def listen(self, factory: OrdinaryFactory) -> None:
        """Accept at each of them, unless that is so. Raises: CannotListenError, ConfigError."""
        for number, port in self._passed.items():
            port.startReading()
            self._ports[number] = port
        self._passed.clear()
        for number, door in enumerate(self._doors):
            if number not in self._ports:
                self._ports[number] = self._listen_at(door, factory)

    def pass_on(self) -> dict[int, int]:
        """Accept no more; the listening descriptors that another process may accept from.

        They stay open until `close`, or until `listen` takes them back. The other ports are closed.
        """
        for number, port in list(self._ports.items()):
            shared = self._doors[number].sharing is not None
            if shared and port.addressFamily in (socket.AF_INET, socket.AF_INET6):
                port.stopReading()
                self._passed[number] = self._ports.pop(number)
        self.close()
        return {number: port.fileno() for number, port in self._passed.items()}

    def inherit(self, descriptors: Mapping[int, int]) -> None:
        """Listen on these, when it is time."""
        for number, descriptor in descriptors.items():
            sharing = self._doors[number].sharing
            if sharing is not None:
                sharing.inherited = adopt(descriptor)

    def leave(self) -> list[Deferred[None]]:
        """Accept no more. Who waits is left to the process that has the same sockets."""
        for door in self._doors:
            if door.sharing is not None and door.sharing.inherited is not None:
                door.sharing.inherited.close()
                door.sharing.inherited = None
        ports = [*self._ports.values(), *self._passed.values()]
        self._ports.clear()
        self._passed.clear()
        return [each.stopListening() or succeed(None) for each in ports]

    def close(self, *, last: bool = False) -> list[Deferred[None]]:
        """Accept those who wait, and nobody after them, but at what was passed on.

        `last`: nobody else has these sockets, so whoever comes from now on must not be answered.
        """
        ports = list(self._ports.values())
        self._ports.clear()
        for each in ports:
            if last and hasattr(each, "socket"):
                listeners.stop_arrivals(each.socket)
            empty(each)
        return [each.stopListening() or succeed(None) for each in ports]

    def _listen_at(self, door: Door, factory: OrdinaryFactory) -> IListeningPort:
        ports: list[IListeningPort] = []
        failures: list[Failure] = []
        try:
            door.endpoint.listen(factory).addCallbacks(ports.append, failures.append)
            if failures:  # endpoints listen at once, or fail at once
                failures[0].raiseException()
        except CannotListenError:
            raise
        except Exception as error:  # whatever a folder or a port that is none leads to
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ConfigError(f"--endpoint {door.text}: {why}") from None
        accept_as_room_is(ports[0], factory)
        where: Any = ports[0].getHost()
        name = f"{where.host}:{where.port}" if hasattr(where, "port") else repr(where.name)
        kind = door.text.partition(":")[0]
        self._log.info("Odin listens at {kind}:{name}", kind=kind, name=name)
        return ports[0]


def accept_as_room_is(port: Any, factory: OrdinaryFactory) -> None:
    """Let a port of Twisted's take at a time what there are descriptors for, or one to turn away.

    It would take 100 and more, and close them without a word when the last descriptor is used.
    """
    accept = getattr(port, "doRead", None)
    if accept is None:
        return

    def few() -> None:
        port.numberAccepts = max(1, min(port.numberAccepts, factory.room))
        accept()

    port.doRead = few


def empty(port: Any) -> None:
    """Accept those who wait, so that closing the port resets nobody."""
    if hasattr(port, "doRead"):
        poll = select.poll()
        poll.register(port.fileno(), select.POLLIN)
        while poll.poll(0):
            port.doRead()
