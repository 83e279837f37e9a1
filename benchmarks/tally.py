"""What many clients have received: for each whether all came, once and in order, and how late.

A client is its descriptor. Messages are numbered by their `seq` from 0; a latency is from the `ts`
of a message to the read that had its last byte.
"""

from array import array
from collections import Counter
from typing import Any

from benchmarks.figures import Spread

_NOBODY, _NOTHING_YET = -2, -1
_MANY_FRAMES = 1000


class Tally:
    """Small ints for each of up to `descriptors` clients."""

    def __init__(self, descriptors: int) -> None:
        self._last = array("i", [_NOBODY]) * descriptors  # seq of the newest message of each
        self._rest: dict[int, bytes] = {}  # of those that read half a frame
        self._missing: dict[int, set[int]] = {}  # of those that skipped some
        self._ended: list[int] = []  # `_last` of those that the server left
        self._ends: Counter[str] = Counter()
        self._duplicated = self._disordered = 0
        self._sent: dict[int, int] = {}  # seq -> its ts
        self._arrivals: dict[int, array[int]] = {}  # seq -> microseconds
        self._known: dict[bytes, int] = {}  # a whole frame -> its seq; they are the same for many

    def __contains__(self, fd: int) -> bool:
        return self._last[fd] != _NOBODY

    @property
    def total(self) -> int:
        """All that has come, duplicates aside."""
        return sum(map(len, self._arrivals.values()))

    def begin(self, fd: int) -> None:
        """A client is open."""
        self._last[fd] = _NOTHING_YET

    def left(self, fd: int, cause: str) -> None:
        """The server has ended a client; what it did not get counts as lost."""
        self._ends[cause] += 1
        self._ended.append(self._last[fd])
        self._last[fd] = _NOBODY
        self._rest.pop(fd, None)
        if missing := self._missing.pop(fd, None):
            self._missing[-len(self._ended)] = missing

    def forget(self) -> list[int]:
        """No client is there any more, by our own will; returns who was."""
        fds = [fd for fd, last in enumerate(self._last) if last != _NOBODY]
        for fd in fds:
            self._last[fd] = _NOBODY
        self._rest.clear()
        self._missing.clear()
        return fds

    def received(self, fd: int, data: bytes, now: int) -> bytes:
        """Count what a client has read; returns the pongs that it owes."""
        if fd not in self._rest:
            seq = self._known.get(data)
            if seq is not None and self._last[fd] == seq - 1:
                # most reads; to parse them all would take longer than to read them
                self._last[fd] = seq
                self._arrivals[seq].append((now - self._sent[seq]) // 1000)
                return b""
        return self._frames(fd, data, now)

    def _frames(self, fd: int, data: bytes, now: int) -> bytes:
        data = self._rest.pop(fd, b"") + data
        pongs, at, size = b"", 0, len(data)
        while size - at >= 2:
            length, payload_at = data[at + 1], at + 2
            if length == 126:
                length, payload_at = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif length == 127:
                length, payload_at = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            end = payload_at + length
            if payload_at > size or end > size:
                break
            opcode = data[at] & 15
            if opcode == 9:
                pongs += bytes((0x8A, 0x80 | length)) + b"\0\0\0\0" + data[payload_at:end]
            elif opcode == 8:
                self._ends[str(int.from_bytes(data[payload_at : payload_at + 2], "big"))] += 1
            elif (mark := data.find(b'"seq":', payload_at, end)) >= 0:
                seq = int(data[mark + 6 : data.index(b",", mark)])
                if seq not in self._sent:
                    mark = data.index(b'"ts":', payload_at) + 5
                    self._sent[seq] = int(data[mark : data.index(b",", mark)])
                    self._arrivals[seq] = array("I")
                self._arrived(fd, seq, now)
                if not at and end == size:
                    if len(self._known) >= _MANY_FRAMES:
                        self._known.clear()
                    self._known[data] = seq
            at = end
        if at < size:
            self._rest[fd] = data[at:]
        return pongs

    def _arrived(self, fd: int, seq: int, now: int) -> None:
        last = self._last[fd]
        if seq > last:
            if seq > last + 1:
                self._missing.setdefault(fd, set()).update(range(last + 1, seq))
            self._last[fd] = seq
        elif seq in self._missing.get(fd, ()):
            self._missing[fd].discard(seq)
            self._disordered += 1
        else:
            self._duplicated += 1
            return
        self._arrivals[seq].append((now - self._sent[seq]) // 1000)

    def report(self, messages: int) -> dict[str, Any]:
        """All that was counted, when messages 0 to `messages` - 1 were published."""
        lasts = [*self._ended, *(last for last in self._last if last != _NOBODY)]
        lost = sum(messages - 1 - last for last in lasts) + sum(map(len, self._missing.values()))
        return {
            "clients": len(lasts) - len(self._ended), "lost": lost, "ends": self._ends,
            "duplicated": self._duplicated, "disordered": self._disordered,
            "received": self.total,
            "messages": [
                {"seq": seq, "ts": self._sent[seq], "spread": Spread.of(times).to_json()}
                for seq, times in sorted(self._arrivals.items())
            ],
        }  # fmt: skip
