"""A listening socket: accepts connections while there are descriptors, and turns the others away.

Leans on a private name of twisted.internet.tcp.Port (tests/test_transport.py).
"""

import socket
from typing import Any, Final, cast

from twisted.internet import tcp
from twisted.logger import Logger

from odin.gateway.transport import Transport

_REFUSE_AT_ONCE: Final = 100
_ACCEPT_PRESSED: Final = 8  # at a time, and then not for
_PAUSE_PRESSED_S: Final = 0.01
_PAUSE_NONE_S: Final = 0.1


class Port(tcp.Port):
    """Accepts connections from a listening socket; they are `transport`s.

    When the factory has no `room`, descriptors run out: whoever comes gets `refusal`, and none is
    kept. While it is `pressed`, few are accepted at a time and others wait in the kernel's queue:
    those who are here already come first. Who was accepted is read from at once: the request is
    there as a rule, and a turn of a busy loop is long.
    """

    _log = Logger()

    @classmethod
    def on(
        cls, sock: socket.socket, factory: Any, transport: type[Transport], reactor: Any
    ) -> "Port":
        """A port for a socket, which may be closed afterwards; it listens."""
        port = cast(
            "Port", cls._fromListeningDescriptor(reactor, sock.fileno(), sock.family, factory)
        )
        port._kind = transport
        port._accepted = []
        port.startListening()
        return port

    factory: Any
    reactor: Any
    _kind: type[Transport]
    _accepted: list[Transport]

    def transport(self, *arguments: Any) -> Transport:  # type: ignore[override]
        """One more connection; tcp.Port calls it."""
        made = self._kind(*arguments)
        self._accepted.append(made)
        return made

    def doRead(self) -> None:
        room = self.factory.room
        if room <= 0:
            self._refuse_all()
            return
        pressed = self.factory.pressed
        self.numberAccepts = min(self.numberAccepts, room)
        if pressed:
            self.numberAccepts = min(room, _ACCEPT_PRESSED)
        super().doRead()
        accepted, self._accepted = self._accepted, []
        for each in accepted:
            if each.connected:
                self._read(each)
        if pressed and len(accepted) >= _ACCEPT_PRESSED and self.connected:
            self._rest(_PAUSE_PRESSED_S)

    def _rest(self, seconds: float) -> None:
        self.stopReading()
        self.reactor.callLater(seconds, self._go_on)

    def _read(self, transport: Transport) -> None:
        try:
            transport.doRead()  # what ends the connection is there at the next turn as well
        except Exception:
            self._log.failure("a connection failed at once")
            transport.abortConnection()

    def _refuse_all(self) -> None:
        for _ in range(_REFUSE_AT_ONCE):
            try:
                sock, _address = self.socket.accept()
            except BlockingIOError:
                return
            except OSError:  # not even for this
                self._rest(_PAUSE_NONE_S)
                return
            with sock:
                turn_away(sock, self.factory.refusal())

    def _go_on(self) -> None:
        if self.connected:
            self.startReading()


def turn_away(sock: socket.socket, answer: bytes) -> None:
    """Answer before the request, and so that the answer is not lost in a reset; do not close."""
    sock.setblocking(False)
    try:
        sock.send(answer)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1 << 16)
    except OSError:
        pass
