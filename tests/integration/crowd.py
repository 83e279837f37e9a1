"""Many clients in one thread, each watched for what it gets: all of it, once, in order.

Messages carry `seq`, counted by the publisher from 0. What a client has seen is a run of them; what
breaks the run is a fault. A client never reconnects: what ends its connection is kept.
"""

import json
import select
import socket
import threading
import time
from typing import Any, Self

from tests.integration.clients import CLOSE, HANDSHAKE, PATIENCE_S, PING, PONG, TEXT, frame
from tests.integration.harness import Nats, eventually


class Member:
    """One client."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.data = b""
        self.first = self.last = -1  # seq
        self.heard_at = 0.0
        self.pause_s = 0.0  # the longest between two messages
        self.faults: list[str] = []
        self.notices: list[Any] = []  # everything that is no feed message
        self.ended = ""  # how


class Crowd:
    """So many members, served by a thread until `stop`."""

    def __init__(self, host: str, count: int, path: str = "/ws") -> None:
        self._host, self._path = host, path
        self._poll = select.epoll()
        self.members: dict[int, Member] = {}
        self._running = True
        for _ in range(count):
            self._open()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        eventually(lambda: all(each.notices for each in self.members.values()), "all welcomes")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _open(self) -> None:
        name, _, port = self._host.partition(":")
        sock = socket.create_connection((name, int(port)), PATIENCE_S)
        request = HANDSHAKE.replace("{path}", self._path).replace("{host}", self._host) + "\r\n"
        sock.sendall(request.encode())
        head = b""
        while b"\r\n\r\n" not in head:
            piece = sock.recv(1)
            assert piece, "refused"
            head += piece
        assert head.startswith(b"HTTP/1.1 101"), head
        sock.setblocking(False)
        self.members[sock.fileno()] = Member(sock)
        self._poll.register(sock.fileno(), select.EPOLLIN)

    def stop(self) -> None:
        """End all of them, at once."""
        self._running = False
        self._thread.join()
        for each in self.members.values():
            each.socket.close()
        self._poll.close()

    # -- what they have seen

    def have(self, seq: int) -> bool:
        """Whether everybody who is still there has seen the message `seq`."""
        return all(each.last >= seq for each in self.members.values() if not each.ended)

    @property
    def faults(self) -> list[str]:
        return [fault for each in self.members.values() for fault in each.faults]

    @property
    def ended(self) -> list[str]:
        return [each.ended for each in self.members.values() if each.ended]

    @property
    def longest_pause_s(self) -> float:
        return max(each.pause_s for each in self.members.values())

    def send(self, data: bytes) -> None:
        """The same bytes from everybody."""
        for each in self.members.values():
            each.socket.send(data)

    # -- the thread

    def _serve(self) -> None:
        while self._running:
            for fd, _event in self._poll.poll(0.1):
                self._read(self.members[fd])

    def _read(self, member: Member) -> None:
        try:
            data = member.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError as error:
            data, member.ended = b"", member.ended or type(error).__name__
        if not data:
            member.ended = member.ended or "closed without a word"
            self._poll.unregister(member.socket.fileno())
            return
        data, at = member.data + data, 0
        while len(data) - at >= 2:
            length, start = data[at + 1], at + 2
            if length == 126:
                length, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif length == 127:
                length, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if start + length > len(data):
                break
            self._frame(member, data[at], data[start : start + length])
            at = start + length
        member.data = data[at:]

    def _frame(self, member: Member, head: int, payload: bytes) -> None:
        if head == 0x80 | CLOSE:
            member.ended = f"{int.from_bytes(payload[:2], 'big')}"
            member.socket.send(frame(CLOSE, payload[:2]))
        elif head == 0x80 | PING:
            member.socket.send(frame(PONG, payload))
        elif head != 0x80 | TEXT:
            member.faults.append(f"a frame that begins with {head:#x}")
        else:
            message = json.loads(payload)
            if "seq" in message:
                self._seen(member, message["seq"])
            else:
                member.notices.append(message)

    def _seen(self, member: Member, seq: int) -> None:
        now = time.monotonic()
        if member.last < 0:
            member.first = seq
        else:
            member.pause_s = max(member.pause_s, now - member.heard_at)
            if seq != member.last + 1:
                member.faults.append(f"{seq} after {member.last}")
        member.last, member.heard_at = seq, now


class Ticker:
    """Publishes `seq` 0, 1, 2 .. to a broker, so many a second, until `stop`."""

    def __init__(
        self, nats: Nats, per_second: float, subject: str = "odin.trades.X", *, same: bool = False
    ) -> None:
        """`same`: all messages are equal, there is no `seq` in them."""
        self.sent = 0
        self._same = same
        self._running = True
        self._args = (nats, per_second, subject)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        """Returns the last `seq`."""
        self._running = False
        self._thread.join()
        return self.sent - 1

    def _serve(self) -> None:
        nats, per_second, subject = self._args
        with socket.create_connection(("127.0.0.1", nats.port), PATIENCE_S) as sock:
            began = time.monotonic()
            while self._running:
                batch = b""
                while self.sent < (time.monotonic() - began) * per_second:
                    payload = b'{"seq":%d,"pad":"%b"}' % (self.sent, b"x" * 100)
                    payload = b'{"all":"the same"}' if self._same else payload
                    batch += b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(payload), payload)
                    self.sent += 1
                if batch:
                    sock.sendall(batch)
                time.sleep(0.002)
            sock.sendall(b"PING\r\n")
            while b"PONG" not in sock.recv(65536):
                pass
