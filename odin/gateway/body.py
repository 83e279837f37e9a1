"""The body of a plain request, as it comes. Pure.

RFC 9112 6 and 7.1: so many bytes, or chunks. Extensions and trailers are skipped.
"""

import re
from typing import Final

from odin.errors import HandshakeRefused

_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[^\x00-\x08\x0a-\x1f\x7f]*)?\Z")
_TRAILER: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\x00-\x08\x0a-\x1f\x7f]*\Z")
_MAX_LINE_BYTES: Final = 256  # of a chunk's size with its extensions, and of a trailer
_MAX_TRAILERS: Final = 16
_SOME_CHUNKS: Final = 1024  # of any size (2.4 us each); beyond that they are on average
_TINY_CHUNK: Final = 16  # at least so many bytes
_CRLF: Final = b"\r\n"


class Body:
    """A body that is complete once `take` says what came behind it.

    Keeps what came of the body, and less than a line of what surrounds it.
    """

    __slots__ = ("_content", "_count", "_held", "_left", "_most", "_take", "_trailers")

    def __init__(self, length: int | None, most: int) -> None:
        """`length`: its bytes; None if they come in chunks. `most`: allowed.

        Raises: HandshakeRefused 413.
        """
        self._content = bytearray()
        self._count = 0  # of chunks
        self._held = b""
        self._left = length or 0  # of the body, or of this chunk with its CRLF
        self._most = most
        self._trailers = -1  # lines so far; -1 before the last chunk
        self._take = self._chunks if length is None else self._counted
        if self._left > most:
            raise _too_large()

    @property
    def content(self) -> bytes:
        """What came of it."""
        return bytes(self._content)

    def take(self, data: bytes) -> bytes | None:
        """More of it; what came behind it if it is complete now, else None.

        Raises: HandshakeRefused 400, 413.
        """
        return self._take(data)

    def _counted(self, data: bytes) -> bytes | None:
        piece = data[: self._left]
        self._content += piece
        self._left -= len(piece)
        return None if self._left else data[len(piece) :]

    def _chunks(self, data: bytes) -> bytes | None:
        data, at = self._held + data, 0
        while True:
            if self._left > 2:
                piece = data[at : at + self._left - 2]
                self._content += piece
                self._left -= len(piece)
                at += len(piece)
            if self._left:
                if len(data) - at < 2:
                    break
                if data[at : at + 2] != _CRLF:
                    raise _bad("a chunk is longer than it says")
                self._left, at = 0, at + 2
            end = data.find(_CRLF, at, at + _MAX_LINE_BYTES + 2)
            if end < 0:
                if len(data) - at > _MAX_LINE_BYTES:
                    raise _bad("a line between the chunks is too long")
                break
            line, at = data[at:end], end + 2
            if self._trailers < 0:
                self._begin(line)
            elif not line:
                return data[at:]
            else:
                self._skip(line)
        self._held = data[at:]
        return None

    def _begin(self, line: bytes) -> None:
        """A chunk of the size that `line` says."""
        match = _CHUNK.match(line)
        if match is None:
            raise _bad("malformed chunk")
        size = int(match[1], 16)
        if len(self._content) + size > self._most:
            raise _too_large()
        self._count += 1
        if self._count > max(_SOME_CHUNKS, len(self._content) // _TINY_CHUNK):
            raise _bad("the chunks are too small")
        if size:
            self._left = size + 2
        else:
            self._trailers = 0

    def _skip(self, line: bytes) -> None:
        """A trailer."""
        self._trailers += 1
        if self._trailers > _MAX_TRAILERS or not _TRAILER.match(line):
            raise _bad("malformed trailer")


def _bad(text: str) -> HandshakeRefused:
    return HandshakeRefused(400, "bad_request", text)


def _too_large() -> HandshakeRefused:
    return HandshakeRefused(413, "too_large", "the body is too large")
