"""The lean load process: up to 17,000 WebSocket clients, with a few small ints for each.

Commands come as lines, answers go as JSON lines; the end of the input is the end of the process.

    open            -> {"event":"opened",..}    all clients connect, so many handshakes at a time
    storm SECONDS   -> {"event":"back",..}      all drop at once and come back within the seconds,
                                                refused ones again 1 s later, as good clients do
    count           -> {"event":"count",..}     how many messages have come so far
    report MESSAGES -> {"event":"report",..}    what came of messages 0 to MESSAGES - 1

What came is counted for each client, see `tally`. With `--nap` the process sleeps so long whenever
it has read all there is: latencies are longer by up to that, but there are not as many wakeups as
messages, which would take the processors away from the server.
"""

import argparse
import contextlib
import errno
import gc
import heapq
import json
import os
import resource
import select
import socket
import struct
import time
from array import array
from collections import Counter

from benchmarks.figures import Spread
from benchmarks.tally import Tally

_REQUEST = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
PER_ADDRESS = 8000  # connections from one 127.0.0.x address
BIND_ADDRESS_NO_PORT = 24  # the port at connect: searching a free one at bind takes ever longer
_IN_FLIGHT = 128
_EVENTS = 256  # in one turn
_PATIENCE_NS = 30 * 10**9  # for one handshake
_AGAIN_NS = 10**9
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER for no time at all


def begin(address: str, port: int) -> int:
    """A descriptor that connects, without waiting. Raises: OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        sock.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
        sock.bind((address, 0))
        error = sock.connect_ex(("127.0.0.1", port))
        if error not in (0, errno.EINPROGRESS):
            raise OSError(error, os.strerror(error))
        return sock.detach()


def request(path: str) -> bytes:
    """An upgrade request."""
    return _REQUEST.format(path=path).encode()


class Crowd:
    """The clients of one process. What is kept for a client is kept under its descriptor."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.port, self.request = arguments.port, request(arguments.path)
        self.indexes = range(arguments.first, arguments.first + arguments.clients)
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
        self.poll = select.epoll()
        self.tally = Tally(descriptors)
        self.heads: dict[int, bytes] = {}  # answers to the handshake that are not whole yet
        self.task = ""  # what to say when the last handshake is over
        self.due: list[tuple[int, int]] = []  # a heap of (when, index)
        self.pending: dict[int, tuple[int, int]] = {}  # fd -> (since, index), oldest first
        self.unsent: set[int] = set()  # those of them that could not ask yet
        self.limit = _IN_FLIGHT
        self.retry = False
        self.nap_s = arguments.nap / 1000
        self._fresh()

    def _fresh(self) -> None:
        self.began = time.monotonic_ns()
        self.opened = self.again = 0
        self.failed: Counter[str] = Counter()
        self.handshakes = array("I")  # microseconds

    def run(self) -> None:
        """Until the end of the input."""
        self.poll.register(0, select.EPOLLIN)
        while True:
            events = self.poll.poll(self._wait_s(), _EVENTS)
            for fd, event in events:
                if fd == 0:
                    if not self._commanded():
                        return
                elif fd in self.pending:
                    self._shake(fd, event)
                elif fd in self.tally:
                    self._read(fd)
            if self.task:
                self._go_on()
            elif self.nap_s and len(events) < _EVENTS:
                time.sleep(self.nap_s)

    def _wait_s(self) -> float:
        if not self.due or len(self.pending) >= self.limit:
            return 1
        return max(0, min(1, (self.due[0][0] - time.monotonic_ns()) / 1e9))

    def _commanded(self) -> bool:
        words = os.read(0, 4096).decode().split()
        if not words:
            return False
        if words[0] == "count":
            print(json.dumps({"event": "count", "received": self.tally.total}), flush=True)
        elif words[0] == "report":
            print(json.dumps({"event": "report", **self.tally.report(int(words[1]))}), flush=True)
        elif words[0] == "open":
            self._fresh()
            self.due = [(0, index) for index in self.indexes]
            self.task = "opened"
        else:
            self._fresh()
            for fd in self.tally.forget():
                _reset(fd)
            step = float(words[1]) * 1e9 / len(self.indexes)
            now = time.monotonic_ns()
            self.due = [(now + int(at * step), each) for at, each in enumerate(self.indexes)]
            # nobody holds back those that come back: no limit
            self.task, self.retry, self.limit = "back", True, len(self.indexes)
        return True

    # opening

    def _go_on(self) -> None:
        """Begin what is due, give up what takes too long, and tell when all is over."""
        now = time.monotonic_ns()
        while self.due and self.due[0][0] <= now and len(self.pending) < self.limit:
            self._begin(heapq.heappop(self.due)[1])
        while self.pending:
            fd, (since, _index) = next(iter(self.pending.items()))
            if now - since < _PATIENCE_NS:
                break
            self._give_up(fd, "timeout")
        if not self.due and not self.pending:
            answer = {
                "event": self.task, "opened": self.opened, "failed": self.failed,
                "again": self.again, "began": self.began, "ended": time.monotonic_ns(),
                "handshakes": Spread.of(self.handshakes).to_json(),
            }  # fmt: skip
            self.task = ""
            print(json.dumps(answer), flush=True)

    def _begin(self, index: int) -> None:
        since = time.monotonic_ns()
        try:
            fd = begin(f"127.0.0.{2 + index // PER_ADDRESS}", self.port)
        except OSError as error:
            self._refused(index, errno.errorcode.get(error.errno, "?"))
            return
        self.pending[fd] = since, index
        self.unsent.add(fd)
        self.poll.register(fd, select.EPOLLIN | select.EPOLLOUT)
        self._ask(fd)  # loopback: it is connected already, mostly

    def _ask(self, fd: int) -> None:
        try:
            os.write(fd, self.request)
        except BlockingIOError:
            return
        except OSError as error:
            self._give_up(fd, errno.errorcode.get(error.errno or 0, "?"))
            return
        self.unsent.discard(fd)
        self.poll.modify(fd, select.EPOLLIN)

    def _shake(self, fd: int, event: int) -> None:
        if fd in self.unsent:
            if event & ~select.EPOLLIN:
                self._ask(fd)
            return
        try:
            data = os.read(fd, 4096)
        except OSError as error:
            self._give_up(fd, errno.errorcode.get(error.errno or 0, "?"))
            return
        now = time.monotonic_ns()
        head, mark, rest = (self.heads.pop(fd, b"") + data).partition(b"\r\n\r\n")
        if not data:
            self._give_up(fd, "closed")
        elif not mark:
            self.heads[fd] = head
        elif not head.startswith(b"HTTP/1.1 101"):
            self._give_up(fd, head[:12].decode("latin-1"))
        else:
            since, _index = self.pending.pop(fd)
            self.handshakes.append((now - since) // 1000)
            self.opened += 1
            self.tally.begin(fd)
            if rest:
                self._received(fd, rest, now)

    def _give_up(self, fd: int, cause: str) -> None:
        _since, index = self.pending.pop(fd)
        self.unsent.discard(fd)
        self.heads.pop(fd, None)
        _reset(fd)
        self._refused(index, cause)

    def _refused(self, index: int, cause: str) -> None:
        self.failed[cause] += 1
        if self.retry:
            self.again += 1
            heapq.heappush(self.due, (time.monotonic_ns() + _AGAIN_NS, index))

    # receiving

    def _read(self, fd: int) -> None:
        try:
            data = os.read(fd, 16_384)
        except BlockingIOError:
            return
        except OSError as error:
            self._left(fd, errno.errorcode.get(error.errno or 0, "?"))
            return
        if data:
            self._received(fd, data, time.monotonic_ns())
        else:
            self._left(fd, "closed")

    def _received(self, fd: int, data: bytes, now: int) -> None:
        pongs = self.tally.received(fd, data, now)
        if pongs:
            with contextlib.suppress(OSError):
                os.write(fd, pongs)

    def _left(self, fd: int, cause: str) -> None:
        self.tally.left(fd, cause)
        _reset(fd)


def _reset(fd: int) -> None:
    """Close without a goodbye."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fd) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def main() -> None:
    """One process of clients, as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--first", type=int, default=0, help="number of the first client")
    parser.add_argument("--path", required=True)
    parser.add_argument("--nap", type=float, default=0, help="milliseconds")
    gc.disable()  # nothing here is in a cycle
    Crowd(parser.parse_args()).run()


if __name__ == "__main__":
    main()
