"""An Autobahn protocol that costs almost nothing while its connection is open and quiet.

*At rest* a connection is open and has no partial frame, message or handshake: then its instance
dictionary is empty, and everything Autobahn would keep per connection is answered by the class. As
soon as something is under way, Autobahn sets what it needs on the instance, and `rest` forgets it
again afterwards. (Autobahn's own state is 9.7 KB a connection, an empty dictionary 64 bytes.)

*The lane*: what a client sends to a connection at rest is nearly always one whole, small, masked
text frame, or a pong. Those are decoded here, in one step; anything else, from its first odd byte
on, goes to Autobahn's parser unchanged (see `parsing`). (An echo 32.7 us by the parser, 7.3 us by
the lane.)

Leans on private names of autobahn.websocket.protocol: this module, `parsing` and `websocket`, held
by tests/test_resting.py.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.websocket.protocol import TrafficStats, WebSocketProtocol
from autobahn.websocket.utf8validator import Utf8Validator

from odin.gateway.parsing import BoundedProtocol

_TEXT: Final = 0x81  # FIN, no RSV bits, opcode 1
_PONG: Final = 0x8A
_MASKED: Final = 0x80
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


class RestingProtocol(BoundedProtocol):
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

    def feed(self, data: bytes) -> None:
        """Bytes of an open connection."""
        if not self.__dict__:
            data = self._lane(data)
            if not data:
                return
        self.parse(data)

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
