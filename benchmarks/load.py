"""The load client: raw epoll, frames counted by their headers; prints JSON lines.

`ready` when all connections are open, `result` at the end. Every message is counted on every
connection; order and latency are read from those of each `--sample`-th one, which alone is parsed
frame by frame.
"""

import argparse
import json
import select
import socket
import time
from typing import Any

_REQUEST = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_IN_FLIGHT = 128
_BIND_ADDRESS_NO_PORT = 24  # the port at connect: searching a free one at bind takes ever longer
_MARK = b'"seq":'  # each feed message has one; greetings and acknowledgements have none
_PER_ADDRESS = 8000  # connections from one 127.0.0.x address
_PING = '{"type":"ping","timestamp":1700000000000,"nonce":"0123456789"}'


def masked(text: str) -> bytes:
    """A client frame; the mask of zeros is as good as any here."""
    size = len(text)
    head = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return b"\x81" + head + b"\0\0\0\0" + text.encode()


class Connection:
    """One client."""

    __slots__ = ("count", "disorder", "index", "last", "open", "rest", "sampled", "sent", "sock")

    def __init__(self, sock: socket.socket, index: int, sampled: bool) -> None:
        self.sock, self.index, self.sampled = sock, index, sampled
        self.rest = b""
        self.open = False
        self.count = self.disorder = self.sent = 0
        self.last: dict[bytes, int] = {}


class Load:
    """Opens connections, then counts what comes until told enough."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.poll = select.epoll()
        self.connections: dict[int, Connection] = {}
        self.latencies: list[int] = []
        self.total = self.closed = 0
        self.welcome: dict[str, Any] = {}
        self.took_s = 0.0
        self.subscriptions = json.loads(arguments.subscribe) if arguments.subscribe else None

    def open(self) -> float:
        """Handshakes, so many at a time; returns the seconds they took."""
        started, begun, opened = time.perf_counter(), 0, 0
        while opened < self.arguments.connections:
            while begun < self.arguments.connections and begun - opened < _IN_FLIGHT:
                self._begin(begun)
                begun += 1
            for fd, _event in self.poll.poll(30):
                connection = self.connections[fd]
                if self._opened(connection):
                    opened += 1
            if time.perf_counter() - started > 120:
                raise SystemExit("the handshakes take too long")
        return time.perf_counter() - started

    def _begin(self, index: int) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        sock.bind((f"127.0.0.{2 + index // _PER_ADDRESS}", 0))
        sock.connect(("127.0.0.1", self.arguments.port))
        sock.send(_REQUEST.format(path=self.arguments.path).encode())
        sock.setblocking(False)
        sampled = index % self.arguments.sample == 0
        self.connections[sock.fileno()] = Connection(sock, index, sampled)
        self.poll.register(sock.fileno(), select.EPOLLIN)

    def _opened(self, connection: Connection) -> bool:
        if connection.open:
            self._read(connection)
            return False
        connection.rest += connection.sock.recv(65536)
        head, mark, rest = connection.rest.partition(b"\r\n\r\n")
        if not mark:
            return False
        if not head.startswith(b"HTTP/1.1 101"):
            raise SystemExit(f"refused: {head[:60]!r}")
        connection.open, connection.rest = True, b""
        if rest:
            self._count(connection, rest)
        if self.subscriptions:
            channels = self.subscriptions[connection.index % len(self.subscriptions)]
            request = {"type": "subscribe", "data": {"channels": channels}}
            connection.sock.send(masked(json.dumps(request)))
        return True

    def receive(self) -> None:
        """Until everything came, nothing comes any more, or the time is up."""
        stop_at = time.perf_counter() + self.arguments.seconds
        expected = self.arguments.expect
        started = quiet_since = time.perf_counter()
        while (now := time.perf_counter()) < stop_at and (not expected or self.total < expected):
            events = self.poll.poll(0.2)
            if events:
                quiet_since = now
            elif self.total and now - quiet_since > 2:
                break
            for fd, _event in events:
                self._read(self.connections[fd])
        self.took_s = time.perf_counter() - started

    def recover(self) -> None:
        """Every client at once asks for what there was from the beginning."""
        position = {"epoch": self.welcome["epoch"], "offset": 0}
        data = {"channels": ["odin.token.S0.price"], "recover": position}
        request = masked(json.dumps({"type": "subscribe", "data": data}))
        for connection in self.connections.values():
            connection.sock.send(request)
        self.receive()

    def ping(self) -> None:
        """A closed loop: each connection has one ping in flight."""
        frame = masked(_PING)
        sent_at = {}
        stop_at = time.perf_counter() + self.arguments.seconds
        for fd, connection in self.connections.items():
            sent_at[fd] = time.monotonic_ns()
            connection.sock.send(frame)
        while time.perf_counter() < stop_at:
            for fd, _event in self.poll.poll(1):
                connection = self.connections[fd]
                if b'"pong"' in connection.sock.recv(65536):
                    now = time.monotonic_ns()
                    self.latencies.append(now - sent_at[fd])
                    self.total += 1
                    sent_at[fd] = now
                    connection.sock.send(frame)

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.sock.recv(262_144)
        except BlockingIOError:
            return
        if not data:
            self.closed += 1
            self.poll.unregister(connection.sock.fileno())
            return
        self._count(connection, data)

    def _count(self, connection: Connection, data: bytes) -> None:
        if connection.rest:
            data = connection.rest + data
        if not connection.sampled:
            found = data.count(_MARK)
            connection.count += found
            self.total += found
            connection.rest = data[-len(_MARK) + 1 :]
            return
        at, size = 0, len(data)
        while size - at >= 2:
            length, payload_at = data[at + 1], at + 2
            if length == 126:
                length, payload_at = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif length == 127:
                length, payload_at = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            end = payload_at + length
            if end > size or payload_at > size:
                break
            if data.find(_MARK, payload_at, end) >= 0:
                connection.count += 1
                self.total += 1
                self._look(connection, data[payload_at:end])
            elif not self.welcome:
                self.welcome = json.loads(data[payload_at:end])
            at = end
        connection.rest = data[at:]

    def _look(self, connection: Connection, payload: bytes) -> None:
        message = json.loads(payload)
        self.latencies.append(time.monotonic_ns() - message["ts"])
        last = connection.last.get(message["tokenId"], -1)
        connection.disorder += message["seq"] <= last
        connection.last[message["tokenId"]] = message["seq"]

    def result(self) -> dict[str, Any]:
        """What was counted; latencies in ms."""
        counts = [each.count for each in self.connections.values()]
        ordered = sorted(self.latencies)
        percentiles = {
            f"p{p}_ms": round(ordered[min(len(ordered) - 1, len(ordered) * p // 100)] / 1e6, 3)
            for p in (50, 99)
            if ordered
        }
        disorder = sum(each.disorder for each in self.connections.values())
        return {
            "total": self.total, "least": min(counts), "most": max(counts),
            "disorder": disorder, "closed": self.closed,
            "took_s": self.took_s, **percentiles,
        }  # fmt: skip


def main() -> None:
    """One load, as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=1000)
    modes = ("receive", "hold", "ping", "recover")
    parser.add_argument("--mode", choices=modes, default="receive")
    parser.add_argument("--path", default="/ws")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--expect", type=int, default=0, help="messages in all")
    parser.add_argument("--sample", type=int, default=10)
    parser.add_argument("--subscribe", help="JSON: a list of channel lists, used in turn")
    arguments = parser.parse_args()
    load = Load(arguments)
    took = load.open()
    print(json.dumps({"event": "ready", "seconds": took}), flush=True)
    if arguments.mode == "hold":
        time.sleep(arguments.seconds)
    elif arguments.mode == "ping":
        load.ping()
    elif arguments.mode == "recover":
        load.recover()
    else:
        load.receive()
    print(json.dumps({"event": "result", **load.result()}), flush=True)


if __name__ == "__main__":
    main()
