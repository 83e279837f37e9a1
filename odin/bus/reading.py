"""A NATS connection read where its bytes arrive: the feed's messages leave at once, in order.

nats-py gives each subscription a queue and a task of its own: messages on different subjects
overtake each other, two servers see them in different orders, and a message takes two more turns
of the event loop and 4 us of parsing. Here the protocol of the asyncio transport is exchanged for
one that takes the messages of the feed out of each read (0.7 us each) and passes every other
operation of the NATS protocol, whole, to nats-py.

Leans on private names of nats-py and asyncio.streams; tests/test_reading.py holds them.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from twisted.logger import Logger

from odin.bus.connecting import NatsClient

# (subject, payload, reply subject, header block), the last two empty where there are none;
# bytes of the subject that are not UTF-8 come as lone surrogates (PEP 383)
Receive = Callable[[str, bytes, bytes, bytes], None]

_READ_BYTES: Final = 64 << 10
_CRLF: Final = b"\r\n"


class Splitter:
    """Takes the messages of some subscriptions out of a stream of NATS operations."""

    _log = Logger()

    def __init__(
        self,
        receiver_of: Callable[[bytes], Receive | None],
        pass_on: Callable[[bytes], None],
    ) -> None:
        """`receiver_of`: who takes the messages of a subscription id; asked once for each.
        `pass_on`: takes whole operations, and a stream that is broken from there on."""
        self._receiver_of = receiver_of
        self._pass_on = pass_on
        self._receivers: dict[bytes, Receive | None] = {}
        self._chunks: list[bytes] = []  # an operation that is not whole yet
        self._size = 0
        self._needed = 0
        self._broken = False

    def forget(self, sid: bytes) -> None:
        """A subscription has ended."""
        self._receivers.pop(sid, None)

    def feed(self, data: bytes) -> None:
        """The next bytes of the stream."""
        if self._broken:
            self._pass_on(data)
            return
        if self._chunks:
            self._chunks.append(data)
            self._size += len(data)
            if self._size < self._needed:
                return
            data = b"".join(self._chunks)
        at = self._split(data)
        rest = data[at:] if at else data
        self._chunks, self._size = ([rest], len(rest)) if rest else ([], 0)

    def _split(self, data: bytes) -> int:
        """Serve the whole operations at the front; returns where the first partial one begins."""
        at, size, find, receivers = 0, len(data), data.find, self._receivers
        self._needed = 0
        while (line_end := find(_CRLF, at)) >= 0:
            kind = data[at : at + 4]
            arguments = data[at + 4 : line_end].split()
            header_size: bytes | int = 0
            if kind == b"HMSG":
                header_size = arguments.pop(-2) if len(arguments) > 3 else b"?"
            elif kind != b"MSG ":
                self._pass_on(data[at : line_end + 2])
                at = line_end + 2
                continue
            try:
                body_at = line_end + 2
                payload_at = body_at + int(header_size)
                end = body_at + int(arguments[-1])
                subject, sid = arguments[0], arguments[1]
                if not body_at <= payload_at <= end:
                    raise ValueError
            except (ValueError, IndexError):
                self._broken = True
                self._pass_on(data[at:])  # nats-py says what is wrong, and reconnects
                return size
            if end + 2 > size:
                self._needed = end + 2 - at
                break
            try:
                receive = receivers[sid]
            except KeyError:
                receive = receivers[sid] = self._receiver_of(sid)
            if receive is None:
                self._pass_on(data[at : end + 2])
            else:
                reply = arguments[2] if len(arguments) > 3 else b""
                try:
                    name = subject.decode()
                except UnicodeDecodeError:
                    name = subject.decode(errors="surrogateescape")
                try:
                    receive(name, data[payload_at:end], reply, data[body_at:payload_at])
                except Exception:  # a defect: go on reading
                    self._log.failure("a message of the broker failed")
            at = end + 2
        return at


class _Reader(asyncio.BufferedProtocol):
    """Reads into one buffer for ever (asyncio's streams allocate 256 KB for each read)."""

    def __init__(
        self, stream: asyncio.StreamReaderProtocol, splitter: Splitter, client: "FeedClient"
    ) -> None:
        self._stream = stream
        self._client = client
        self._feed = splitter.feed
        self._buffer = memoryview(bytearray(_READ_BYTES))

    def get_buffer(self, _size_hint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, size: int) -> None:
        self._client.reads += 1
        self._feed(bytes(self._buffer[:size]))

    def eof_received(self) -> None:
        """Tell nats-py. The connection ends with it: over TLS, asyncio complains about more."""
        self._stream.eof_received()

    def connection_lost(self, reason: Exception | None) -> None:
        self._stream.connection_lost(reason)

    def pause_writing(self) -> None:
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        self._stream.resume_writing()


async def _unused(_message: Any) -> None:
    """Satisfies nats-py, which wants a callback."""


class FeedClient(NatsClient):
    """A client of nats-py whose feed subscriptions are served where they are read.

    `feed` maps subscribed subjects to who takes their messages.
    """

    _odin_log = Logger()

    def __init__(self) -> None:
        super().__init__()
        self.feed: dict[str, Receive] = {}
        self.paused = False
        self.reads = 0  # from the broker, so far
        self._splitter: Splitter | None = None
        self._connection: asyncio.ReadTransport | None = None  # the current one

    def pause(self) -> None:
        """Read nothing until `resume`, over reconnects, too: the broker keeps what it has.

        For a moment: the broker's patience ends at 64 MB or 10 s, and pongs wait as well.
        """
        self.paused = True
        if self._connection is not None:
            self._connection.pause_reading()

    def resume(self) -> None:
        """Read on."""
        self.paused = False
        if self._connection is not None:
            self._connection.resume_reading()

    async def take(self, subject: str, receive: Receive) -> Subscription:
        """Subscribe; `receive` gets the messages where they are read."""
        self.feed[subject] = receive
        return await self.subscribe(subject, cb=_unused)

    async def leave(self, subscription: Subscription) -> None:
        """End a subscription that `take` made."""
        self.feed.pop(subscription.subject, None)
        if self._splitter is not None:
            self._splitter.forget(b"%d" % subscription._id)
        await subscription.unsubscribe()

    async def finish(self, timeout_s: float) -> None:
        """Have everything that the broker sent until now; it sends no more.

        Raises: TimeoutError, OSError, nats.errors.Error. (The library's own `drain` leaves a future
        behind when the broker is gone, and a traceback in the log.)
        """
        for subscription in list(self._subs.values()):
            await self._send_unsubscribe(subscription._id)
        await self.flush(timeout=timeout_s)

    async def _read_loop(self) -> None:
        """Begin to read a new connection: once for each, reconnects too."""
        if isinstance(self._transport, TcpTransport):  # over WebSocket, nats-py reads
            self._read_directly(self._transport)
        await super()._read_loop()

    def _read_directly(self, transport: TcpTransport) -> None:
        reader: Any = transport._io_reader
        connection = transport._io_writer.transport
        stream = connection.get_protocol()
        splitter = self._splitter = Splitter(self._receiver_of, stream.data_received)
        connection.set_protocol(_Reader(stream, splitter, self))
        self._connection = connection
        if self.paused:
            connection.pause_reading()
        early = bytes(reader._buffer)  # came behind the broker's greeting
        reader._buffer.clear()
        splitter.feed(early)

    def _receiver_of(self, sid: bytes) -> Receive | None:
        subscription = self._subs.get(int(sid))
        return self.feed.get(subscription.subject) if subscription is not None else None

    async def _process_pong(self) -> None:
        """A pong that comes after `flush` gave up: nats-py's reader would end with it."""
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        """A message that nats-py read."""
        receive = self._receiver_of(b"%d" % sid)
        if receive is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        try:
            receive(subject.decode(errors="surrogateescape"), data, reply, headers or b"")
        except Exception:
            self._odin_log.failure("a message of the broker failed")
