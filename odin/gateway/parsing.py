"""Autobahn's parser, made to end: at the first error, at our close frame, and after its slice.

Autobahn goes on with a frame that is wrong, and with all that comes behind it. Here nothing is
parsed any more once our close frame is out: a Farewell takes over, in the middle of a frame or not,
and what Autobahn kept is let go.

Leans on private names of autobahn.websocket.protocol, held by tests/test_resting.py.
"""

from collections.abc import Callable
from typing import Any, Final

from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.websocket.protocol import WebSocketProtocol

from odin.gateway.farewell import Farewell

_PIECE: Final = 4096  # Autobahn copies all that is left of what it was given, for each frame
_MOST_IN_A_TURN: Final = 128 << 10  # bytes of messages: a read of 4 KiB inflates to 2 MB (13 ms)
_OUTCOME: Final = frozenset(
    {"state", "closedByMe", "droppedByMe", "failedByMe", "localCloseCode", "remoteCloseCode",
     "wasClean", "wasNotCleanReason"}
)  # fmt: skip


class BoundedProtocol(WebSocketServerProtocol):  # type: ignore[misc] # autobahn has no types
    """Parses what it must, one slice of it in a turn.

    A subclass provides `rest` and `later`.
    """

    transport: Any
    remoteCloseCode: int | None
    _perMessageCompress: Any
    _farewell: Farewell | None = None
    _taken = 0  # bytes of messages in this turn
    _put_off = False  # whether `data` waits for the next turn

    def rest(self) -> None:
        """Nothing is left to be parsed."""
        raise NotImplementedError

    def later(self, step: Callable[[], None]) -> None:
        """Do something in a turn to come."""
        raise NotImplementedError

    def read_on(self) -> None:
        """Read again, after a pause."""
        self.transport.resumeProducing()

    def parse(self, data: bytes) -> None:
        """Bytes of an open connection."""
        at = self._taken = 0
        while at < len(data) and self.state == WebSocketProtocol.STATE_OPEN:
            WebSocketProtocol._dataReceived(self, data[at : at + _PIECE])
            at += _PIECE
        self.parsed(data[at:])

    def parsed(self, left: bytes = b"") -> None:
        """Autobahn is through with what it got, but for what is `left`."""
        if self.state == WebSocketProtocol.STATE_OPEN:
            self.rest()
        elif self.state == WebSocketProtocol.STATE_CLOSING:
            self.seek_close(left)

    def _next_turn(self) -> None:
        """The turn has come for which the rest of `data` was put off."""
        if self.state != WebSocketProtocol.STATE_CLOSED:
            self._put_off, self._taken = False, 0
            self.read_on()
            self.consumeData()
            self.parsed()

    def seek_close(self, data: bytes) -> None:
        """Bytes of a closing connection: only the close frame in them is of interest."""
        farewell = self._farewell
        if farewell is None:
            frame, data = self.current_frame, self.data + data
            payload = 0 if frame is None else frame.length - self.current_frame_masker.pointer()
            farewell = Farewell(payload)
            kept = {name: value for name, value in self.__dict__.items() if name in _OUTCOME}
            self.__dict__ = {**kept, "_farewell": farewell}
            self._perMessageCompress = None
        code = farewell.find(data)
        if code is not None:
            self.remoteCloseCode = code
            self._both_closed()
        elif farewell.hopeless:
            # not dropped: the client has the time until the deadline to read our close frame
            self.transport.pauseProducing()

    def _both_closed(self) -> None:
        """Our close frame is out, and theirs is here."""
        self.data = b""
        self.wasClean = True
        self.dropConnection(abort=True)

    # -- overrides that stop Autobahn at the first error

    def consumeData(self) -> None:
        while self.state == WebSocketProtocol.STATE_OPEN and not self._put_off:
            if not self.processData():
                break
            if self._taken >= _MOST_IN_A_TURN:
                self._put_off = True
                self.transport.pauseProducing()
                self.later(self._next_turn)

    def _protocol_violation(self, reason: str) -> bool:
        super()._protocol_violation(reason)
        return True  # a header that is wrong stays in `data`, for the Farewell

    def _invalid_payload(self, reason: str) -> bool:
        super()._invalid_payload(reason)
        return True

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool:
        if super().onCloseFrame(code, reasonRaw):
            self._both_closed()  # it is answered with 1002 or 1007, but it is a close frame
        return False

    # -- overrides that keep a message as one buffer, whatever pieces it comes in

    def onMessageBegin(self, isBinary: bool) -> None:
        self.message_is_binary = isBinary
        self.message_data = bytearray()
        self.message_data_total_length = 0

    def onMessageFrameData(self, payload: bytes) -> None:
        self.message_data += payload

    def onMessageFrameEnd(self) -> None:
        pass

    def onMessageEnd(self) -> None:
        payload, self.message_data = bytes(self.message_data), bytearray()
        self._taken += len(payload)
        self.onMessage(payload, self.message_is_binary)
