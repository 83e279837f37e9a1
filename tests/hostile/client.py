"""A client that can do anything; nothing that it does takes longer than it says."""

import contextlib
import json
import os
import select
import socket
import time
from collections.abc import Sequence
from typing import Any

from tests.integration.clients import CLOSE, HANDSHAKE, TEXT, Wire, frame

SECONDS = float(os.environ.get("ATTACK_SECONDS", "1"))  # how long an attack lasts that has no end


class Hostile(Wire):
    """A TCP connection, or a WebSocket."""

    def __init__(self, host: str, receive_buffer: int = 0) -> None:
        super().__init__(host, receive_buffer)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def open(self, query: str = "", extra: str = "") -> Any:
        """Become a WebSocket; the welcome."""
        self.send(HANDSHAKE.replace("{path}", f"/ws{query}") + extra + "\r\n")
        answer = self.response()
        assert answer.status == 101, answer
        return self.message()

    def open_with(self, data: bytes) -> Any:
        """The same, with data in one segment with the request."""
        self.send(self.filled(HANDSHAKE + "\r\n").encode() + data)
        assert self.response().status == 101
        return self.message()

    def say(self, message: object) -> None:
        self.send(frame(TEXT, json.dumps(message).encode()))

    def message(self) -> Any:
        """The next message; None at the end."""
        while (received := self.receive())[0] not in (TEXT, CLOSE, -1):
            pass
        return json.loads(received[1]) if received[0] == TEXT else None

    def ask(self, message: object) -> Any:
        """Send a message; the next one that is an answer, and no feed message or notice."""
        self.say(message)
        while (answer := self.message()) is not None:
            if "channel" not in answer and answer.get("type") not in ("feedStatus", "conflated"):
                break
        return answer

    def paced(self, requests: Sequence[object], batch: int = 40) -> list[Any]:
        """Send requests, so many at a time, and wait for the answers to them."""
        answers: list[Any] = []
        for first in range(0, len(requests), batch):
            some = requests[first : first + batch]
            self.send(b"".join(frame(TEXT, json.dumps(each).encode()) for each in some))
            for _ in some:
                answer = self.message()
                while answer is not None and "channel" in answer:
                    answer = self.message()
                if answer is None:
                    return answers
                answers.append(answer)
        return answers

    def pour(self, data: bytes, seconds: float = SECONDS, *, read: bool = True) -> int:
        """Send for so long, throwing away what comes; how much the server has taken."""
        view, sent = memoryview(data), 0
        stop_at = time.monotonic() + seconds
        self.socket.setblocking(False)
        try:
            while sent < len(view) and (left := stop_at - time.monotonic()) > 0:
                asked = [self.socket] if read else []
                readable, writable, _ = select.select(asked, [self.socket], [], left)
                if readable and not self.socket.recv(1 << 18):
                    break
                if writable:
                    sent += self.socket.send(view[sent : sent + (1 << 18)])
        except OSError:
            pass
        finally:
            self.socket.settimeout(60)
        return sent

    def drain(self, seconds: float) -> bytes:
        """What comes until the end, or for so long."""
        got = bytearray()
        stop_at = time.monotonic() + seconds
        with contextlib.suppress(OSError):
            while (left := stop_at - time.monotonic()) > 0:
                if not select.select([self.socket], [], [], left)[0]:
                    break
                more = self.socket.recv(1 << 18)
                if not more:
                    break
                got += more
        return bytes(got)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()
