"""The prober: what a handshake and a ping take while the server is busy with others.

Both once per interval, whether or not the ones before have been answered. The pings go in turn
over several connections, since each worker has only some. Of both the time counts from the moment
that they are sent to the moment that this process reads the answer, its own waiting for a
processor included. Commands and answers are lines, as in `crowd`:

                 {"event":"ready"}      the connections are open
    start   ->                          begin
    report  ->   {"event":"report",..}  cease; the times, and how many got no answer
"""

import argparse
import contextlib
import json
import os
import re
import select
import time
from typing import Any

from benchmarks.crowd import begin, request
from benchmarks.figures import Spread
from benchmarks.load import masked

_ADDRESS = "127.0.1.1"
_LINGER_S = 5.0  # for the answers that are still out at the end
_NONCE = re.compile(rb'"nonce":"probe-(\d+)"')


class Prober:
    """Opens, pings and keeps the time."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.port, self.request = arguments.port, request(arguments.path)
        self.interval_ns = int(arguments.interval * 1e9)
        self.poll = select.epoll()
        self.shaking: dict[int, int] = {}  # fd -> since
        self.unsent: set[int] = set()
        self.heads: dict[int, bytes] = {}
        self.keep = arguments.connections
        self.lines: dict[int, bytes] = {}  # the connections to ping -> the end of what came
        self.pinged: dict[int, int] = {}  # number -> since
        self.handshakes: list[int] = []
        self.pings: list[int] = []
        self.begun = self.asked = self.failed = 0

    def run(self) -> None:
        """Connect, wait for the start, probe, report."""
        while len(self.lines) < self.keep:
            self._open()
            while self.shaking:
                self._turn(5)
            if self.failed:
                raise SystemExit("the prober was refused")
        self.poll.register(0, select.EPOLLIN)
        print(json.dumps({"event": "ready"}), flush=True)
        self.handshakes.clear()
        self.begun = 0
        while not self._turn(1):
            pass
        next_ns = time.monotonic_ns()
        while not self._turn(max(0, (next_ns - time.monotonic_ns()) / 1e9)):
            if time.monotonic_ns() >= next_ns:
                next_ns += self.interval_ns
                self._open()
                self._ping()
        until = time.monotonic() + _LINGER_S
        while (self.shaking or self.pinged) and time.monotonic() < until:
            self._turn(0.1)
        print(json.dumps(self._report()), flush=True)

    def _turn(self, wait_s: float) -> bool:
        """Read what is there; whether there was a command."""
        commanded = False
        for fd, event in self.poll.poll(wait_s):
            if fd == 0:
                if not os.read(0, 4096):
                    raise SystemExit
                commanded = True
            elif fd in self.shaking:
                self._shake(fd, event)
            else:
                self._hear(fd)
        return commanded

    def _open(self) -> None:
        self.begun += 1
        since = time.monotonic_ns()
        try:
            fd = begin(_ADDRESS, self.port)
        except OSError:
            self.failed += 1
            return
        self.shaking[fd] = since
        self.unsent.add(fd)
        self.poll.register(fd, select.EPOLLIN | select.EPOLLOUT)

    def _shake(self, fd: int, event: int) -> None:
        try:
            if fd in self.unsent:
                if event & ~select.EPOLLIN:
                    os.write(fd, self.request)
                    self.unsent.discard(fd)
                    self.poll.modify(fd, select.EPOLLIN)
                return
            data = os.read(fd, 4096)
        except OSError:
            data = b""
        now = time.monotonic_ns()
        head = self.heads.pop(fd, b"") + data
        if data and b"\r\n\r\n" not in head:
            self.heads[fd] = head
            return
        since = self.shaking.pop(fd)
        self.unsent.discard(fd)
        if head.startswith(b"HTTP/1.1 101") and data:
            self.handshakes.append((now - since) // 1000)
            if len(self.lines) < self.keep:
                self.lines[fd] = b""
                return
        else:
            self.failed += 1
        os.close(fd)

    def _ping(self) -> None:
        fds = list(self.lines)
        number, self.asked = self.asked, self.asked + 1
        if not fds:
            return
        frame = masked(f'{{"type":"ping","nonce":"probe-{number}"}}')
        self.pinged[number] = time.monotonic_ns()
        with contextlib.suppress(OSError):
            os.write(fds[number % len(fds)], frame)

    def _hear(self, fd: int) -> None:
        try:
            data = os.read(fd, 65_536)
        except OSError:
            data = b""
        now = time.monotonic_ns()
        if not data:
            del self.lines[fd]
            os.close(fd)
            return
        data = self.lines[fd] + data
        for found in _NONCE.finditer(data):
            since = self.pinged.pop(int(found[1]), None)
            if since is not None:
                self.pings.append((now - since) // 1000)
        self.lines[fd] = data[-60:]

    def _report(self) -> dict[str, Any]:
        return {
            "event": "report", "begun": self.begun, "asked": self.asked, "failed": self.failed,
            "unanswered": len(self.shaking) + len(self.pinged),
            "handshakes": Spread.of(self.handshakes).to_json(),
            "pings": Spread.of(self.pings).to_json(),
        }  # fmt: skip


def main() -> None:
    """One prober, as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--interval", type=float, default=0.05, help="seconds")
    parser.add_argument("--connections", type=int, default=24, help="to ping")
    Prober(parser.parse_args()).run()


if __name__ == "__main__":
    main()
