"""An Autobahn protocol that costs almost nothing while its connection is open and quiet.

*At rest* a connection is open and has no partial frame, message or handshake: then its instance
dictionary is empty, and everything Autobahn would keep per connection is answered by the class. As
soon as something is under way, Autobahn sets what it needs on the instance, and `rest` forgets it
again afterwards. (Autobahn's own state is 9.7 KB a connection, an empty dictionary 64 bytes.)

*Closing*, once our close frame is out, Autobahn's parser gets nothing any more, in the middle of a
frame or not: a Farewell finds the client's close frame, and the rest of its state is let go.

*The lane*: what a client sends to a connection at rest is nearly always one whole, small, masked
text frame, or a pong. Those are decoded here, in one step; anything else, from its first odd byte
on, goes to Autobahn's parser unchanged. (An echo 32.7 us by the parser, 7.3 us by the lane.)

Leans on private names of autobahn.websocket.protocol: this module and `websocket`, held by
tests/test_resting.py.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.websocket.protocol import TrafficStats, WebSocketProtocol
from autobahn.websocket.utf8validator import Utf8Validator

from odin.gateway.farewell import Farewell

_TEXT: Final = 0x81  # FIN, no RSV bits, opcode 1
_PONG: Final = 0x8A
_MASKED: Final = 0x80
_PIECE: Final = 4096  # the parser copies all that is left of what it was given, for each frame
_MOST_IN_A_TURN: Final = 128 << 10  # bytes of messages: a read of 4 KiB inflates to 2 MB (13 ms)
_OUTCOME: Final = frozenset(
    {"state", "closedByMe", "droppedByMe", "failedByMe", "localCloseCode", "remoteCloseCode",
     "wasClean", "wasNotCleanReason"}
)  # fmt: skip
# not written into the class: mypy would take a literal for all there is, but there is __dict__
_SLOTS: Final = ("_perMessageCompress", "transport")


class _Fired:
    """Stands in for the Deferreds that Autobahn keeps per connection and nobody here waits for.

    (`is_closed` would also resolve with the protocol itself: a cycle, 1 KB each.)
    """

    def callback(self, _result: object) -> None:
        pass


class _Quiet:
    """Autobahn's log, eager and per connection; what matters is counted instead."""

    def debug(self, *_args: object, **_kwargs: object) -> None:
        pass

    trace = info = warn = error = debug


class _MadeWhenUsed:
    """An attribute that each connection has for itself, from its first use until it rests."""

    def __init__(self, make: Callable[[], object]) -> None:
        self._make = make

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, _owner: type | None = None) -> Any:
        if instance is None:
            return self
        value = instance.__dict__[self._name] = self._make()
        return value


class RestingProtocol(WebSocketServerProtocol):  # type: ignore[misc] # autobahn has no types
    """The server side of a WebSocket, open from the point of view of its class.

    A subclass calls `begin` when the connection is made, `feed` with what arrives while it is open,
    `seek_close` while it is closing, and provides `text`, `pong` and `later`.
    """

    __slots__ = _SLOTS

    # Autobahn copies its configuration to each instance unless it is there already, and formats
    # it for a debug log that is off: 62 % of a handshake. `configured` puts it on the class.
    CONFIG_ATTRS = ()
    log = _Quiet()
    is_open = is_closed = _Fired()
    is_server = True
    peer = "client"

    # What WebSocketProtocol._connectionMade and succeedHandshake would set, as it is once open.
    connected = 1
    state = WebSocketProtocol.STATE_OPEN
    send_state = WebSocketProtocol.SEND_STATE_GROUND
    data = b""
    current_frame: Any = None
    inside_message = False
    websocket_version = 13
    trackedTimings = None
    trafficStats = TrafficStats()  # counted by everybody, read by nobody
    triggered = False
    wasMaxFramePayloadSizeExceeded = False
    wasMaxMessagePayloadSizeExceeded = False
    closedByMe = False
    failedByMe = False
    droppedByMe = False
    wasClean = False
    wasNotCleanReason: str | None = None
    wasServerConnectionDropTimeout = False
    wasOpenHandshakeTimeout = False
    wasCloseHandshakeTimeout = False
    wasServingFlashSocketPolicyFile = False
    localCloseCode = None
    localCloseReason = None
    remoteCloseCode = None
    remoteCloseReason = None
    openHandshakeTimeoutCall = None
    closeHandshakeTimeoutCall = None
    autoPingTimeoutCall = None
    autoPingPending = None
    autoPingPendingCall = None
    autoPingPendingSeq = 0
    autoPingPendingSent = None
    send_queue: Any = _MadeWhenUsed(deque)
    utf8validator: Any = _MadeWhenUsed(Utf8Validator)
    _farewell: Farewell | None = None
    _taken = 0  # bytes of messages in this turn
    _put_off = False  # whether `data` waits for the next turn

    @classmethod
    def configured(cls, factory: Any, **overrides: Any) -> type[Any]:
        """This class with the configuration of `factory`, each connection's or overridden."""
        attributes: dict[str, Any] = {"factory": factory, "__slots__": ()}
        for name in WebSocketServerProtocol.CONFIG_ATTRS:
            value = overrides.get(name, getattr(factory, name))
            # a function on a class would become a method
            attributes[name] = staticmethod(value) if callable(value) else value
        return type(cls.__name__, (cls,), attributes)

    def __init__(self) -> None:
        # not Autobahn's: two Deferreds, an event table and transport details for each connection
        self._perMessageCompress: Any = None

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        self.connectionMade()

    def begin(self) -> None:
        """The connection is made, its handshake is to come."""
        self.state = WebSocketProtocol.STATE_CONNECTING

    @property
    def at_rest(self) -> bool:
        """Open, with nothing under way, and nothing kept."""
        return not self.__dict__

    def rest(self) -> None:
        """Forget what is over, if nothing is under way: no part of a frame or of a message."""
        if self.data or self.current_frame is not None or self.inside_message:
            return
        self.__dict__ = {}
        compress = self._perMessageCompress
        if compress is not None and compress.client_no_context_takeover:
            compress._decompressor = None  # 40 KB, made again for each message anyway

    def end(self) -> None:
        """The connection is gone: let go of everything. It is not open any more, for anybody."""
        self.__dict__ = {"state": WebSocketProtocol.STATE_CLOSED}
        self._perMessageCompress = None
        self.transport = None

    def text(self, payload: bytes) -> None:
        """One whole text message, valid UTF-8, within the size limit."""
        raise NotImplementedError

    def pong(self) -> None:
        """An empty pong."""
        raise NotImplementedError

    def later(self, step: Callable[[], None]) -> None:
        """Do something in a turn to come."""
        raise NotImplementedError

    def feed(self, data: bytes) -> None:
        """Bytes of an open connection."""
        if not self.__dict__:
            data = self._lane(data)
            if not data:
                return
        at = self._taken = 0
        while at < len(data) and self.state == WebSocketProtocol.STATE_OPEN:
            WebSocketProtocol._dataReceived(self, data[at : at + _PIECE])
            at += _PIECE
        self.parsed(data[at:])

    def _go_on(self) -> None:
        """The turn has come for which the rest of `data` was put off."""
        if self.state != WebSocketProtocol.STATE_CLOSED:
            self._put_off, self._taken = False, 0
            cast("Any", self.transport).resumeProducing()
            self.consumeData()
            self.parsed()

    def parsed(self, left: bytes = b"") -> None:
        """Autobahn is through with what it got, but for what is `left`."""
        if self.state == WebSocketProtocol.STATE_OPEN:
            self.rest()
        elif self.state == WebSocketProtocol.STATE_CLOSING:
            self.seek_close(left)

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
            cast("Any", self.transport).pauseProducing()

    def _both_closed(self) -> None:
        """Our close frame is out, and theirs is here."""
        self.wasClean = True
        self.dropConnection(abort=True)

    def _lane(self, data: bytes) -> bytes:
        """Take the whole small frames at the front of `data`; returns what is left."""
        at, size = 0, len(data)
        while size - at >= 6:
            start = data[at]
            length = data[at + 1] ^ _MASKED
            mask_at = at + 2
            if length == 126:
                length = (data[at + 2] << 8) | data[at + 3]
                mask_at = at + 4
                if length < 126:
                    break  # not the shortest form: an error, for the parser to say
            elif length > 126:
                break  # unmasked, or 64 KiB and more
            payload_at = mask_at + 4
            end = payload_at + length
            if end > size:
                break
            if start == _TEXT and length <= self.maxMessagePayloadSize:
                payload = _unmasked(data[mask_at:payload_at], data[payload_at:end], length)
                if not payload.isascii() and not _is_utf8(payload):
                    break
                at = end
                self.text(payload)
            elif start == _PONG and not length:
                at = end
                self.pong()
            else:
                break
            if self.__dict__:
                break  # the answer changed something: it closed, say
        return data[at:] if at else data

    # -- overrides that stop Autobahn at the first error

    def consumeData(self) -> None:
        while self.state == WebSocketProtocol.STATE_OPEN and not self._put_off:
            if not self.processData():
                break
            if self._taken >= _MOST_IN_A_TURN:
                self._put_off = True
                cast("Any", self.transport).pauseProducing()
                self.later(self._go_on)

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
        payload, self.message_data = bytes(self.message_data), None
        self._taken += len(payload)
        self.onMessage(payload, self.message_is_binary)

    # -- overrides that save, or say, something

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        cast("Any", self.transport).write(data)

    def unregisterProducer(self) -> None:
        pass

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        pass


def _unmasked(mask: bytes, payload: bytes, length: int) -> bytes:
    """RFC 6455 5.3, on the whole payload at once: 0.4 us for 100 bytes."""
    key = (mask * (length // 4 + 1))[:length]
    value = int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")
    return value.to_bytes(length, "little")


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
