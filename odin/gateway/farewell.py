"""What a client sends after our close frame: nothing but its own close frame matters."""

from typing import Final

from odin.wire.codes import NO_STATUS

MOST_FRAMES: Final = 4096  # that a client had sent already, or goes on with
MOST_BYTES: Final = 16 << 20  # the largest message there is, on /echo
_CLOSE: Final = 8
_LONGEST: Final = 125  # bytes of a control frame's payload (RFC 6455 5.5)


class Farewell:
    """Finds the close frame of a client among its last frames, whose payloads are skipped.

    Keeps at most one header, or one close frame. After too many frames or bytes, or a frame that
    announces too many, it is `hopeless`: what the client sends need not be read any more.
    """

    __slots__ = ("_bytes", "_ends", "_frames", "_kept", "_skip")

    def __init__(self, skip: int) -> None:
        """`skip`: how much of a payload that has begun is still to come."""
        self._skip = skip
        self._ends = False  # with what is skipped: a close frame that is too long for one
        self._kept = b""
        self._frames = MOST_FRAMES
        self._bytes = MOST_BYTES

    @property
    def hopeless(self) -> bool:
        return self._frames < 0 or self._skip > self._bytes

    def find(self, data: bytes) -> int | None:
        """Look at the next bytes: the code of the close frame once it is there, 1005 if it has
        none."""
        if self.hopeless:
            return None
        self._bytes -= len(data)
        data = self._kept + data
        self._kept = b""
        at, size = self._skip, len(data)
        while size - at >= 2 and not self._ends:
            length, mask_at = data[at + 1] & 0x7F, at + 2
            if length > _LONGEST:
                extended = 2 if length == _LONGEST + 1 else 8
                mask_at += extended
                if mask_at > size:
                    break
                length = int.from_bytes(data[mask_at - extended : mask_at])
            payload_at = mask_at + (4 if data[at + 1] & 0x80 else 0)
            if data[at] & 0x0F == _CLOSE and length <= _LONGEST:
                if payload_at + length > size:
                    break
                return _code(data[mask_at:payload_at], data[payload_at : payload_at + length])
            self._ends = data[at] & 0x0F == _CLOSE
            at = payload_at + length
            self._frames -= 1
            if self._frames < 0:
                return None
        if self._ends and at <= size:
            return NO_STATUS
        if at < size:
            self._kept, self._skip = data[at:], 0
        else:
            self._skip = at - size
        return None


def _code(mask: bytes, payload: bytes) -> int:
    """The code in a close frame's payload, which is masked if there is a mask."""
    if len(payload) < 2:
        return NO_STATUS
    code = int.from_bytes(payload[:2])
    return code ^ int.from_bytes(mask[:2]) if mask else code
