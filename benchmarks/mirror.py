"""The load process that checks every byte: many clients with one feed, and no reconnecting.

Clients of one worker get the same bytes of the feed, wherever they begin. So a client is a place in
a stream that all of them share: what it reads is compared with what the first one read there (a
memcmp), and the stream itself is looked through once, for each message exactly once and in order.
A client that deviates by a byte is a fault. This is how a Python process can follow a million
deliveries a second.

    open   -> {"event":"opened",..}     all clients connect
    begin  -> {"event":"begun"}         the times between two reads count from now on
    report -> {"event":"report",..}     faults, ends, how far everybody is, the longest pauses
"""

import argparse
import gc
import json
import os
import re
import select
import time
from array import array
from collections import Counter

from benchmarks.crowd import PER_ADDRESS, begin, request

_FIRST: re.Pattern[bytes] = re.compile(rb'"offset":(\d+),.*?"seq":(\d+),')
_SEQ: re.Pattern[bytes] = re.compile(rb'"seq":(\d+),')
_PING = b"\x89\x00"
_PONG = b"\x8a\x80\0\0\0\0"
_READ = 1 << 18


class Stream:
    """The feed as one worker numbers it: frames, one after the other."""

    def __init__(self, first: int) -> None:
        self.data = bytearray()
        self.first = first  # seq
        self.next = first
        self.places: dict[int, int] = {}  # seq -> where its frame begins
        self._looked_to = 0

    def extend(self, more: bytes) -> None:
        """Take bytes in that nobody had before. Raises: ValueError for a hole or a repetition."""
        self.data += more
        data, at = self.data, self._looked_to
        while len(data) - at >= 4:
            length, start = data[at + 1], at + 2
            if length == 126:
                length, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            if start + length > len(data):
                break
            found = _SEQ.search(data, start, start + length)
            if data[at] != 0x81 or found is None:
                raise ValueError(f"no feed message: {bytes(data[at : start + length])[:80]!r}")
            if int(found[1]) != self.next:
                raise ValueError(f"{int(found[1])} instead of {self.next}")
            self.places[self.next] = at
            self.next += 1
            at = start + length
        self._looked_to = at


class Mirror:
    """All clients of this process, by their descriptors."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.poll = select.epoll()
        self.streams: dict[int, Stream] = {}  # by offset - seq
        self.stream: dict[int, Stream] = {}  # of a client
        self.place = array("q", [0]) * 20_000  # in its stream
        self.heard = array("q", [0]) * 20_000  # ns
        self.pause = array("q", [0]) * 20_000
        self.heads: dict[int, bytes] = {}  # before the first feed message
        self.faults: list[str] = []
        self.ends: Counter[str] = Counter()
        self.fds: list[int] = []
        self.buffers = [bytearray(_READ)]
        self.view = memoryview(self.buffers[0])

    def open(self) -> None:
        asked = request(self.arguments.path)
        for index in range(self.arguments.first, self.arguments.first + self.arguments.clients):
            fd = begin(f"127.0.0.{2 + index // PER_ADDRESS}", self.arguments.port)
            os.write(fd, asked)
            self.fds.append(fd)
            self.heads[fd] = b""
            self.poll.register(fd, select.EPOLLIN)
            while len(self.heads) - sum(map(bool, self.heads.values())) > 64:
                self._turn(0.1)
        while not all(b"connectionEstablished" in each for each in self.heads.values()):
            self._turn(0.1)

    def run(self) -> None:
        """Until the end of the input."""
        self.poll.register(0, select.EPOLLIN)
        gc.disable()
        while True:
            time.sleep(self.arguments.nap / 1000)
            if self._turn(1):
                words = os.read(0, 4096).decode().split()
                if not words:
                    return
                if words[0] == "open":
                    self.poll.unregister(0)
                    self.open()
                    self.poll.register(0, select.EPOLLIN)
                    self._say({"event": "opened", "opened": len(self.fds)})
                elif words[0] == "begin":
                    now = time.monotonic_ns()
                    for fd in self.fds:
                        self.heard[fd], self.pause[fd] = now, 0
                    self._say({"event": "begun"})
                else:
                    self._report()

    def _turn(self, wait_s: float) -> bool:
        commanded = False
        for fd, _event in self.poll.poll(wait_s, 512):
            if fd:
                self._read(fd)
            else:
                commanded = True
        return commanded

    def _read(self, fd: int) -> None:
        try:
            data = self.view[: os.readv(fd, self.buffers)]  # no new memory for each read
        except BlockingIOError:
            return
        except OSError as error:
            data, cause = self.view[:0], type(error).__name__
        else:
            cause = "closed"
        if not data:
            self.ends[cause] += 1
            self.poll.unregister(fd)
            return
        now = time.monotonic_ns()
        if data != _PING:  # which comes when the feed is over, too
            if now - self.heard[fd] > self.pause[fd] and self.heard[fd]:
                self.pause[fd] = now - self.heard[fd]
            self.heard[fd] = now
        stream = self.stream.get(fd)
        if stream is None:
            self._first(fd, bytes(data))
        elif stream.data[self.place[fd] : self.place[fd] + len(data)] == data:
            self.place[fd] += len(data)
        else:
            self._compare(fd, stream, bytes(data))

    def _first(self, fd: int, data: bytes) -> None:
        """Find the place of a client by the first feed message it gets."""
        head = self.heads[fd] = self.heads[fd] + data
        found = _FIRST.search(head)
        if found is None:
            return
        offset, seq = int(found[1]), int(found[2])
        start = head.rindex(b"\x81", 0, head.index(b'{"channel"'))
        stream = self.streams.get(offset - seq)
        if stream is None:
            stream = self.streams[offset - seq] = Stream(seq)
        place = stream.places.get(seq, len(stream.data) if seq == stream.next else -1)
        if place < 0:
            self.faults.append(f"begins with {seq}, which nobody else got")
            place = len(stream.data)
        self.stream[fd], self.place[fd] = stream, place
        self.heads.pop(fd)
        self._compare(fd, stream, head[start:])

    def _compare(self, fd: int, stream: Stream, data: bytes) -> None:
        """Bytes that nobody had before, or a ping between them, or a fault."""
        place, known = self.place[fd], stream.data
        if _PING in data:  # between two frames; a feed message cannot hold these bytes
            os.write(fd, _PONG * data.count(_PING))
            data = data.replace(_PING, b"")
        common = min(len(data), len(known) - place)
        if known[place : place + common] != data[:common]:
            if data[:2] == b"\x88\x7e" or data[0] == 0x88:
                self.ends[str(int.from_bytes(data[2:4], "big"))] += 1
            elif len(self.faults) < 20:
                there = bytes(known[place : place + common])
                at = next(at for at in range(common) if data[at] != there[at])
                at = max(0, at - 60)
                self.faults.append(f"{data[at : at + 90]!r} where {there[at : at + 90]!r} was")
            else:
                self.faults.append("..")
            return
        try:
            stream.extend(data[common:])
        except ValueError as error:
            self.faults.append(str(error))
        self.place[fd] = place + len(data)

    def _report(self) -> None:
        behind = [len(stream.data) - self.place[fd] for fd, stream in self.stream.items()]
        pauses = sorted(self.pause[fd] / 1e6 for fd in self.fds)
        self._say(
            {
                "event": "report",
                "clients": len(self.stream),
                "last": min((each.next for each in self.streams.values()), default=0) - 1,
                "behind": sum(map(bool, behind)),
                "faults": len(self.faults),
                "examples": self.faults[:3],
                "ends": self.ends,
                "pause_ms": pauses[-1],
                "pause_p50_ms": pauses[len(pauses) // 2],
                "bytes": sum(len(each.data) for each in self.streams.values()),
            }
        )

    def _say(self, answer: dict[str, object]) -> None:
        print(json.dumps(answer), flush=True)


def main() -> None:
    """One load process."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("port", "clients", "first"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--path", default="/ws")
    parser.add_argument("--nap", type=float, default=0, help="ms after each turn; see crowd")
    arguments = parser.parse_args()
    Mirror(arguments).run()


if __name__ == "__main__":
    main()
