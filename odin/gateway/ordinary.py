"""Endpoints of other kinds, TLS above all: Twisted's own transports, with the face of ours.

What such a transport takes it buffers; it says when that is too much and when it is gone again
(IPushProducer). In between the connection is `behind`, and its frames wait here, counted.
"""

from collections import deque
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from odin.gateway.port import turn_away
from odin.gateway.transport import waiting_in


@implementer(IPushProducer)
class _Valve:
    """Tells an OrdinaryTransport what the transport below it says of its buffer."""

    def __init__(self, owner: "OrdinaryTransport") -> None:
        self.pauseProducing = owner.filled
        self.resumeProducing = owner.drained

    def stopProducing(self) -> None:
        """The connection is lost; connectionLost comes by itself."""


@implementer(IPushProducer, IHalfCloseableProtocol)
class OrdinaryTransport(Protocol):
    """Between a transport of Twisted's and one connection of Odin's (see transport.Transport)."""

    transport: Any
    sink = None  # nothing may be sent beside it: all goes by `write`

    def __init__(self, protocol: Any, reactor: Any, max_pending: int) -> None:
        self.protocol = protocol
        self.behind = False
        self.pending = 0  # bytes that wait here
        self._reactor = reactor
        self._max_pending = max_pending
        self._waiting: deque[bytes] = deque()
        self.disconnecting = False
        self._lost = False
        self._inner: Any = None
        self._left = 0  # what waited in the inner transport at the last look
        self._progress_at = 0.0

    # -- from the transport

    def connectionMade(self) -> None:
        self._inner = self.transport
        while hasattr(self._inner, "wrappedProtocol"):  # TLS is a protocol on a transport
            self._inner = self._inner.transport
        set_no_delay = getattr(self._inner, "setTcpNoDelay", None)
        if set_no_delay is not None:  # there is no such thing on a UNIX socket
            set_no_delay(True)
        self.transport.registerProducer(_Valve(self), True)
        self.protocol.makeConnection(self)

    def dataReceived(self, data: bytes) -> None:
        self.protocol.dataReceived(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override] # no default
        self._lost = True
        self._waiting.clear()
        self.pending = 0
        protocol, self.protocol = self.protocol, None
        protocol.connectionLost(reason)

    def readConnectionLost(self) -> None:
        """Of a plain socket: the peer sends no more. (TLS ends with either direction.)"""
        if not self.protocol.half_closed():
            self.loseConnection()

    def writeConnectionLost(self) -> None:
        """As we wanted it."""

    def filled(self) -> None:
        if self.behind:
            return
        self.behind = True
        self._progress_at = self._reactor.seconds()
        self._left = waiting_in(self._inner)
        if not self._lost:
            self.protocol.fellBehind()

    def drained(self) -> None:
        was_behind, self.behind = self.behind, False
        waiting = self._waiting
        while waiting and not self.behind:
            self._progress_at = self._reactor.seconds()
            data = waiting.popleft()
            self.pending -= len(data)
            self.transport.write(data)
        if self.behind:
            return
        if self.disconnecting:
            self._close()
        elif was_behind and not self._lost:
            self.protocol.caughtUp()

    # -- what Transport offers, to the protocol

    @property
    def progress_at(self) -> float | None:
        """While behind: when the kernel was last seen to have taken a byte."""
        if not self.behind:
            return None
        left = waiting_in(self._inner)
        if left != self._left:
            self._left, self._progress_at = left, self._reactor.seconds()
        return self._progress_at

    def write(self, data: bytes) -> None:
        if self._lost or self.disconnecting or not data:
            return
        if not self.behind and not self._waiting:
            self.transport.write(data)
            return
        self._waiting.append(data)
        self.pending += len(data)
        if self.pending > self._max_pending:
            self.protocol.overflowed(self.pending)

    def writeSequence(self, iovec: Any) -> None:
        self.write(b"".join(iovec))

    def loseConnection(self) -> None:
        """Close when all is written."""
        if not self.disconnecting:
            self.disconnecting = True
            if not self._waiting:
                self._close()

    loseWriteConnection = loseConnection  # TLS cannot close one direction alone

    def _close(self) -> None:
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def abortConnection(self) -> None:
        self.transport.abortConnection()

    def getPeer(self) -> Any:
        return self.transport.getPeer()

    def getHost(self) -> Any:
        return self.transport.getHost()

    def pauseProducing(self) -> None:
        """Read no more for now."""
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        self.loseConnection()


class _TurnedAway(Protocol):
    """A connection for which there is no descriptor: gone in the next turn."""

    transport: Any
    factory: "OrdinaryFactory"

    def connectionMade(self) -> None:
        if hasattr(self.transport, "wrappedProtocol"):
            # TLS: 503 would take the handshake first, and a descriptor for as long as that takes
            self.factory.refusal()
            self.transport.abortConnection()
        else:
            turn_away(self.transport.getHandle(), self.factory.refusal())
            self.transport.loseConnection()


class OrdinaryFactory(Factory):
    """Puts an OrdinaryTransport between an endpoint and each connection of `factory`."""

    noisy = False

    def __init__(self, factory: Any, reactor: Any, max_pending: int) -> None:
        self._factory = factory
        self._reactor = reactor
        self._max_pending = max_pending
        self.refusal = factory.refusal

    @property
    def room(self) -> int:
        """For how many more connections there are descriptors."""
        return int(self._factory.room)

    def buildProtocol(self, addr: Any) -> Protocol:
        if self.room <= 0:
            turned_away = _TurnedAway()
            turned_away.factory = self
            return turned_away
        protocol = self._factory.buildProtocol(addr)
        return OrdinaryTransport(protocol, self._reactor, self._max_pending)
