"""The feed: one price channel to NATS, each message at its own moment."""

import json
import socket
import threading
import time

CHANNEL = "odin.token.T0.price"
_LEAST = 130  # bytes of a message without its padding, about


class Feed:
    """Publishes in a thread of its own from `start` to `stop`, or until `count` are out.

    The broker asks now and then whether a client is there, hence the answers.
    """

    def __init__(self, nats_port: int, rate: float, size: int, count: int = 0) -> None:
        self.rate, self.count, self.sent = rate, count, 0
        self._size = size
        self._run = f"{time.time_ns():x}"
        self._stopping = threading.Event()
        self._error: OSError | None = None
        self._sock = socket.create_connection(("127.0.0.1", nats_port))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\nPING\r\n')
        while b"PONG" not in self._sock.recv(65_536):
            pass
        self._thread = threading.Thread(target=self._publish, daemon=True)

    def start(self) -> None:
        """Begin, and return at once."""
        self._thread.start()

    def wait(self) -> None:
        """Until the last of `count` is out and the broker has it. Raises: OSError."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """No more; returns when the broker has all of them."""
        self._stopping.set()
        self.wait()

    def _publish(self) -> None:
        try:
            began = time.monotonic()
            while not self.count or self.sent < self.count:
                if self._stopping.wait(max(0, began + self.sent / self.rate - time.monotonic())):
                    break
                self._sock.sendall(self._message())
                self.sent += 1
                self._answer()
            self._sock.setblocking(True)
            self._sock.sendall(b"PING\r\n")
            self._sock.settimeout(5)
            while b"PONG" not in self._sock.recv(65_536):
                pass
        except OSError as error:
            self._error = error
        finally:
            self._sock.close()

    def _message(self) -> bytes:
        message = {
            "type": "priceUpdate", "nonce": f"{self._run}-{self.sent}", "tokenId": "T0",
            "seq": self.sent, "ts": time.monotonic_ns(), "pad": "x" * max(0, self._size - _LEAST),
        }  # fmt: skip
        payload = json.dumps(message, separators=(",", ":"))
        return f"PUB {CHANNEL} {len(payload)}\r\n{payload}\r\n".encode()

    def _answer(self) -> None:
        try:
            asked = self._sock.recv(4096, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        if not asked:
            raise ConnectionResetError("the broker has gone")
        if b"PING" in asked:
            self._sock.sendall(b"PONG\r\n")
