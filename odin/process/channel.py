"""Messages between processes of one Odin, with open descriptors: a UNIX stream socket.

    [4 bytes: length of the body][2 bytes: how many descriptors][body: msgpack (kind, content)]

The descriptors of a message travel with its first byte (SCM_RIGHTS, unix(7)), so they are here
before its last.
"""

import array
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.logger import Logger

MAX_DESCRIPTORS: Final = 240  # in one message; the kernel's limit is 253
_HEAD: Final = 6
_READ: Final = 256 << 10
_MAX_BODY: Final = 256 << 20
_CLOEXEC: Final[int] = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(tuple[str, msgspec.Raw]).decode

Received = Callable[[str, msgspec.Raw, list[int]], None]


class ChannelBroken(Exception):
    """What came is no message, or came without its descriptors."""


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a channel."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def content(raw: msgspec.Raw, kind: Any = Any) -> Any:
    """The content of a message. Raises: msgspec.DecodeError if it is not of that kind."""
    return msgspec.msgpack.decode(raw, type=kind)


class Inbox:
    """Bytes and descriptors as they come, messages as they are complete."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._descriptors: deque[int] = deque()

    def fill(self, sock: socket.socket) -> bool:
        """Read once; False at the end. Raises: OSError, ChannelBroken."""
        data, ancillary, flags, _address = sock.recvmsg(
            _READ, socket.CMSG_SPACE(MAX_DESCRIPTORS * 4), _CLOEXEC
        )
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                got = array.array("i")
                got.frombytes(payload[: len(payload) - len(payload) % got.itemsize])
                self._descriptors.extend(got)
        if flags & socket.MSG_CTRUNC:
            raise ChannelBroken("descriptors were lost: there is no room for more")
        self._data += data
        return bool(data)

    def take(self) -> tuple[str, msgspec.Raw, list[int]] | None:
        """The next message, if it is complete. Raises: ChannelBroken."""
        data = self._data
        if len(data) < _HEAD:
            return None
        size, count = int.from_bytes(data[:4], "big"), int.from_bytes(data[4:6], "big")
        if size > _MAX_BODY or count > MAX_DESCRIPTORS:
            raise ChannelBroken("not a message of ours")
        if len(data) < _HEAD + size:
            return None
        if len(self._descriptors) < count:
            raise ChannelBroken("a message came without its descriptors")
        try:
            kind, body = _decode(bytes(data[_HEAD : _HEAD + size]))
        except msgspec.DecodeError as error:
            raise ChannelBroken(str(error)) from None
        del data[: _HEAD + size]
        return kind, body, [self._descriptors.popleft() for _ in range(count)]

    def close(self) -> None:
        """Close the descriptors that nobody took."""
        while self._descriptors:
            os.close(self._descriptors.popleft())


class Channel:
    """One end, served by the reactor. The descriptors received belong to who receives them."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        sock: socket.socket,
        received: Received,
        lost: Callable[[], None],
        inbox: Inbox | None = None,
    ) -> None:
        """`lost` is called once, when the other end is gone; not after `close`."""
        sock.setblocking(False)
        self._reactor = reactor
        self._socket = sock
        self._received = received
        self._lost = lost
        self._inbox = inbox or Inbox()
        self._out: deque[tuple[memoryview, Sequence[int]]] = deque()
        self.waiting = 0  # bytes that the kernel did not take yet
        self.open = True
        reactor.addReader(self)

    def send(self, kind: str, body: object = None, descriptors: Sequence[int] = ()) -> None:
        """Send a message; the descriptors must stay open until `waiting` is 0 again.

        Nothing happens on a channel that is closed.
        """
        if not self.open:
            return
        packed = _encode((kind, body))
        head = len(packed).to_bytes(4, "big") + len(descriptors).to_bytes(2, "big")
        data = head + packed
        self._out.append((memoryview(data), descriptors))
        self.waiting += len(data)
        if len(self._out) == 1:
            self.doWrite()
            if self._out:
                self._reactor.addWriter(self)

    def close(self) -> None:
        """Let go, what waits is not sent. Idempotent."""
        if self.open:
            self.open = False
            self._reactor.removeReader(self)
            self._reactor.removeWriter(self)
            self._out.clear()
            self.waiting = 0
            self._inbox.close()
            self._socket.close()

    # -- from the reactor

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "channel"

    def doRead(self) -> Any:
        if not self.open:
            return None
        try:
            try:
                alive = self._inbox.fill(self._socket)
            except BlockingIOError:
                alive = True  # but maybe there was something before
            while self.open and (message := self._inbox.take()) is not None:
                self._received(*message)
        except ConnectionResetError:
            return CONNECTION_LOST
        except (OSError, ChannelBroken) as error:
            self._log.warn("a channel broke: {error}", error=error)
            return CONNECTION_LOST
        except Exception:
            self._log.failure("a message of another process was not understood")
            return CONNECTION_LOST
        return None if alive or not self.open else CONNECTION_DONE

    def doWrite(self) -> Any:
        while self._out:
            data, descriptors = self._out[0]
            try:
                if descriptors:
                    sent = socket.send_fds(self._socket, [data], list(descriptors))
                else:
                    sent = self._socket.send(data)
            except BlockingIOError:
                return None
            except (BrokenPipeError, ConnectionResetError):
                self._out.clear()  # the reader hears of the end, maybe after more messages
                break
            except OSError as error:
                self._log.error("a channel broke: {error}", error=error)
                return CONNECTION_LOST
            self.waiting -= sent
            if sent == len(data):
                self._out.popleft()
            else:
                self._out[0] = (data[sent:], ())
        self._reactor.removeWriter(self)
        return None

    def connectionLost(self, _reason: object) -> None:
        if self.open:
            self.close()
            self._lost()


def first_message(sock: socket.socket) -> tuple[str, msgspec.Raw, list[int], Inbox]:
    """Wait for one message, before there is a reactor; what came behind it is in the inbox.

    Raises: EOFError, OSError, ChannelBroken.
    """
    inbox = Inbox()
    while (message := inbox.take()) is None:
        if not inbox.fill(sock):
            raise EOFError("the supervisor is gone")
    return *message, inbox


def adopt(descriptor: int) -> socket.socket:
    """The socket behind a descriptor that was received."""
    sock = socket.socket(fileno=descriptor)
    with contextlib.suppress(OSError):
        sock.setblocking(False)
    return sock
