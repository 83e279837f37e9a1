"""Clients for the integration tests: a well-behaved one, and one that can do anything wrong.

Client   the `websockets` library, speaking JSON
Wire     a TCP connection, for what no library would send
"""

import contextlib
import json
import socket
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

PATIENCE_S = 60  # on a busy machine; it is spent on failures only
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 1.3
HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n"
)
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Response(NamedTuple):
    """An HTTP response; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def trusting(certificate: Path) -> ssl.SSLContext:
    """What a `Client` needs to trust this server: TLS, 1.2 at most.

    `websockets.sync` reads in one thread and writes in another, and CPython before 3.13 has no
    lock around an SSL object. With TLS 1.3, where reading may also write, 5 of 1,910 connections
    lost their request, and a process ended with a segmentation fault; with 1.2 none of 600.
    """
    context = ssl.create_default_context(cafile=str(certificate))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


class Client:
    """A WebSocket client of the feed; its welcome is read already. For TLS see `trusting`."""

    def __init__(self, host: str, path: str = "/ws", token: str = "", **options: Any) -> None:
        if token:
            options["additional_headers"] = {"Authorization": f"Bearer {token}"}
        options = {"proxy": None, "ping_interval": None, "max_size": None} | options
        scheme = "ws"
        if "ssl" in options:
            scheme = "wss"
            assert options["ssl"].maximum_version == ssl.TLSVersion.TLSv1_2, trusting.__doc__
        self.socket = connect(
            f"{scheme}://{host}{path}", open_timeout=PATIENCE_S, close_timeout=1, **options
        )
        self.welcome = self.receive()

    def send(self, message: object) -> None:
        """Send a message as JSON; text and bytes as they are."""
        plain = isinstance(message, str | bytes)
        self.socket.send(message if plain else json.dumps(message))  # type: ignore[arg-type]

    def receive_text(self) -> str:
        return str(self.socket.recv(PATIENCE_S))

    def receive(self) -> Any:
        return json.loads(self.receive_text())

    def ask(self, message: object) -> Any:
        """Send a message; the next one that is no feed message."""
        self.send(message)
        while "channel" in (reply := self.receive()):
            pass
        return reply

    def subscribe(self, *channels: str) -> Any:
        return self.ask({"type": "subscribe", "data": {"channels": channels}})

    def until(self, last: Callable[[Any], object]) -> list[Any]:
        """All messages up to the first that `last` accepts, with it."""
        messages = [self.receive()]
        while not last(messages[-1]):
            messages.append(self.receive())
        return messages

    def closed(self) -> tuple[int, str]:
        """(code, reason) of the server's close frame, once it came; 1006 without one."""
        try:
            while True:
                self.receive_text()
        except ConnectionClosed as end:
            return (end.rcvd.code, end.rcvd.reason) if end.rcvd else (1006, "")

    def close(self) -> None:
        self.socket.close()


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True,
    length: int | None = None,
) -> bytes:  # fmt: skip
    """A client's frame, right or wrong; the mask is zeros, `length` may lie."""
    head = bytes([fin << 7 | rsv << 4 | opcode])
    size = len(payload) if length is None else length
    mask = masked << 7
    if size < 126:
        head += bytes([mask | size])
    elif size < 1 << 16:
        head += bytes([mask | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([mask | 127]) + size.to_bytes(8, "big")
    return head + bytes(4 * masked) + payload


class Wire:
    """A TCP connection to a server, or one of TLS in any version: it has one thread."""

    def __init__(
        self, host: str, receive_buffer: int = 0, context: ssl.SSLContext | None = None
    ) -> None:
        self.host = host
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE_S)
        name, _, port = host.partition(":")
        self.socket.connect((name, int(port)))
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_hostname=name)
        self._stream = self.socket.makefile("rb")

    def send(self, data: bytes | str) -> None:
        """Send; a text is filled in first. A connection that is gone is no error."""
        if isinstance(data, str):
            data = self.filled(data).encode("latin-1")
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)

    def filled(self, text: str) -> str:
        """A text with this server for `{host}`, and for `{path}` the WebSocket's."""
        return text.replace("{host}", self.host).replace("{path}", "/ws")

    def response(self) -> Response:
        """The next HTTP response, its body as long as Content-Length says."""
        status = int(self._line().split()[1])
        headers: dict[str, str] = {}
        while line := self._line():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return Response(status, headers, self._stream.read(int(headers.get("content-length", 0))))

    def upgrade(self, extra: str = "") -> Response:
        """Open a WebSocket by hand."""
        self.send(HANDSHAKE + extra + "\r\n")
        return self.response()

    def receive(self) -> tuple[int, bytes]:
        """(opcode, payload) of the next frame; (-1, b"") at the end."""
        try:
            head = self._stream.read(2)
            if len(head) < 2:
                return -1, b""
            size = head[1] & 127
            if size > 125:
                size = int.from_bytes(self._stream.read(2 if size == 126 else 8), "big")
            return head[0] & 15, self._stream.read(size)
        except ConnectionError:
            return -1, b""

    def closed(self) -> tuple[int, str]:
        """(code, reason) of the close frame; 1006 if the connection ended without one."""
        while (received := self.receive())[0] not in (CLOSE, -1):
            pass
        opcode, payload = received
        if opcode == -1:
            return 1006, ""
        return int.from_bytes(payload[:2] or b"\x03\xed", "big"), payload[2:].decode()

    def ended(self) -> bool:
        """Whether the server closes the connection, in time."""
        try:
            while self._stream.read(4096):
                pass
        except ConnectionError:
            pass
        return True

    def close(self) -> None:
        self._stream.close()
        self.socket.close()

    def _line(self) -> str:
        return self._stream.readline().decode("latin-1").rstrip("\r\n")
