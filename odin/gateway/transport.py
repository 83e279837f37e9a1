"""The one way out of a connection: straight to the kernel, or behind what waits already.

One invariant: *Twisted's buffer is non-empty exactly when the connection is `behind`*. While it is
empty `write` is one `send`; what the kernel does not take goes into the buffer, and from then on
everything goes behind it until the buffer is empty again.

Leans on private names of twisted.internet (tcp.Server, abstract.FileDescriptor): this module only,
and tests/test_transport.py names every one of them.
"""

import socket
from collections.abc import Iterable
from errno import EAGAIN, ENOBUFS
from typing import Any, Protocol, cast

from twisted.internet import tcp
from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionAborted
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.python.failure import Failure

_send = socket.socket.send  # unbound: one look-up less for each of 1000 recipients


def sweep(
    sinks: list[socket.socket], start: int, stop: int, data: bytes
) -> list[tuple[int, int]] | None:
    """Send `data` to sinks[start:stop]; (index, bytes taken) of those that did not take all.

    0.8 us in user mode each, beside 3.7 us in the kernel; a loop in C (0.08 us) made no
    measurable difference to the whole. A socket that fails is left alone: the reactor hears of
    its end by itself.
    """
    size = len(data)
    stuck: list[tuple[int, int]] | None = None
    send = _send
    index = start
    for sink in sinks[start:stop]:
        try:
            sent = send(sink, data)
            if sent != size:
                stuck = [] if stuck is None else stuck
                stuck.append((index, sent))
        except BlockingIOError:
            stuck = [] if stuck is None else stuck
            stuck.append((index, 0))
        except OSError:
            pass
        index += 1
    return stuck


class Listener(Protocol):
    """What the transport tells its protocol, beside what Twisted tells it."""

    def fellBehind(self) -> None:
        """The kernel's buffer is full; bytes wait here from now on."""

    def caughtUp(self) -> None:
        """Nothing waits any more."""

    def overflowed(self, pending: int) -> None:
        """More waits than `max_pending`. Called for each write while that is so."""

    def half_closed(self) -> bool:
        """The peer sends no more; whether the connection stays all the same."""


class Transport(tcp.Server):
    """A server connection that writes through.

    Attributes that all connections share are on the class (see `configured`).
    """

    __slots__ = (
        "_tempDataBuffer", "_tempDataLen", "connected", "dataBuffer", "disconnected",
        "disconnecting", "fd", "offset", "progress_at", "protocol", "socket",
    )  # fmt: skip

    logstr = "odin"
    repstr = "<odin connection>"
    sessionno = 0
    server: Any = None
    reactor: Any
    max_pending = 1 << 20
    write_bytes = 128 << 10
    SEND_LIMIT = 1  # FileDescriptor.doWrite copies what is left, if it is less than that

    @classmethod
    def configured(
        cls, reactor: Any, *, read_bytes: int, write_bytes: int, max_pending: int
    ) -> "type[Transport]":
        """This class for one server.

        `read_bytes`: taken from the kernel in one read. `write_bytes`: given to it at a time while
        a connection catches up. `max_pending`: what may wait for one WebSocket client.
        """
        return type(
            "Transport",
            (cls,),
            {
                "__slots__": (),
                "reactor": reactor,
                "bufferSize": read_bytes,
                "write_bytes": write_bytes,
                "max_pending": max_pending,
            },
        )

    def __init__(
        self,
        sock: socket.socket,
        protocol: Any,
        client: object,
        server: object,
        sessionno: int,
        reactor: Any,
    ) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.fd = sock.fileno()
        self.protocol = protocol
        self.dataBuffer = b""
        self.offset = 0
        self._tempDataBuffer: Any = ()
        self._tempDataLen = 0
        self.connected = 1
        self.disconnected = 0
        self.disconnecting = 0
        self.progress_at: float | None = None  # while behind: when the kernel last took a byte
        self.startReading()

    def fileno(self) -> int:
        return self.fd

    @property
    def behind(self) -> bool:
        """Whether bytes wait for the kernel to take them."""
        return bool(self._tempDataLen or self.dataBuffer)

    @property
    def sink(self) -> socket.socket | None:
        """What may be sent to directly; None while behind."""
        return None if self.behind else self.socket

    @property
    def pending(self) -> int:
        """How many bytes wait."""
        return len(self.dataBuffer) - self.offset + self._tempDataLen

    def write(self, data: bytes) -> None:
        """Send at once, or keep behind what waits."""
        if not self.connected or self._writeDisconnected:
            return
        if self._tempDataLen or self.dataBuffer:
            self._keep(data)
            return
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the reactor reports the end
        if sent != len(data):
            self.hold(data, sent)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        self.write(b"".join(iovec))

    def hold(self, data: bytes, sent: int) -> None:
        """Keep what a send of `data` left over; the connection is behind from now on.

        `data` is kept as it is: all clients of a batch that are behind hold the same bytes.
        """
        if self._tempDataLen or self.dataBuffer:
            self._keep(data[sent:])
        elif sent < len(data):
            self.dataBuffer, self.offset = data, sent
            self.progress_at = self.reactor.seconds()
            self.startWriting()
            cast("Listener", self.protocol).fellBehind()
            self._look()

    def _keep(self, data: bytes) -> None:
        """Behind what waits already."""
        if not data:
            return
        if not self._tempDataLen:
            self._tempDataBuffer = []
        self._tempDataBuffer.append(data)
        self._tempDataLen += len(data)
        self._look()

    def _look(self) -> None:
        """Is it too much that waits?"""
        self._maybePauseProducer()
        if self.pending > self.max_pending:
            cast("Listener", self.protocol).overflowed(self.pending)

    def waiting(self) -> bytes:
        """A copy of the bytes that wait."""
        return b"".join([self.dataBuffer[self.offset :], *self._tempDataBuffer])

    def give_away(self) -> None:
        """Close our descriptor, and nothing else: another process has the connection.

        The descriptor must be out of the reactor already (stopReading, stopWriting).
        """
        self.connected, self.disconnected = 0, 1
        self._tempDataBuffer, self._tempDataLen, self.dataBuffer = (), 0, b""
        self.socket.close()
        self.fd = -1
        del self.protocol, self.socket

    def doRead(self) -> Any:
        """As tcp.Connection does it, in one call."""
        try:
            data = self.socket.recv(self.bufferSize)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        self.protocol.dataReceived(data)
        return None

    def readConnectionLost(self, reason: Failure) -> None:
        """The reactor read the end; it reads no more of this connection."""
        if not cast("Listener", self.protocol).half_closed():
            self.connectionLost(reason)

    def writeSomeData(self, data: bytes) -> Any:
        """As tcp.Connection does it, whose limit is SEND_LIMIT."""
        try:
            return self.socket.send(memoryview(data)[: self.write_bytes])
        except OSError as error:
            return 0 if error.errno in (EAGAIN, ENOBUFS) else CONNECTION_LOST

    def doWrite(self) -> Any:
        before = self.pending
        result = super().doWrite()
        if self._tempDataLen or self.dataBuffer:
            if self.pending < before:
                self.progress_at = self.reactor.seconds()
        elif before:
            self._tempDataBuffer = ()
            self.progress_at = None
            if result is None:
                cast("Listener", self.protocol).caughtUp()
        return result

    def connectionLost(self, reason: Failure) -> None:
        """As tcp.Connection does it, which deletes a `fileno` attribute that is a method here."""
        if self.fd < 0:
            return
        FileDescriptor.connectionLost(self, reason)  # needs the descriptor to unregister it
        self._closeSocket(not reason.check(ConnectionAborted))
        protocol = self.protocol
        self.fd = -1
        self._tempDataBuffer, self._tempDataLen, self.dataBuffer = (), 0, b""
        del self.protocol, self.socket
        protocol.connectionLost(reason)

    @property
    def client(self) -> tuple[Any, ...]:  # type: ignore[override] # an attribute in the base
        """(address, port, ..) of the peer; asked of the kernel, not kept. ("", 0) when gone."""
        try:
            return cast("tuple[Any, ...]", self.socket.getpeername())
        except (OSError, AttributeError):
            return ("", 0)

    def getPeer(self) -> IPv4Address | IPv6Address:
        return _address(self.client)

    def getHost(self) -> IPv4Address | IPv6Address:
        return _address(self.socket.getsockname())


def waiting_in(transport: Any) -> int:
    """How many bytes wait in any of Twisted's TCP transports."""
    return int(len(transport.dataBuffer) - transport.offset + transport._tempDataLen)


def _address(name: tuple[Any, ...]) -> IPv4Address | IPv6Address:
    if len(name) > 2:
        return IPv6Address("TCP", *name)
    return IPv4Address("TCP", *name)
