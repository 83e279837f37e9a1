"""Server frames (RFC 6455 5.2): unmasked, unfragmented, encoded once for all who get them."""

from typing import Final

_TEXT: Final = 0x81  # FIN + opcode 1
_PING: Final = 0x89  # FIN + opcode 9

# The two header bytes of every text frame below 126 bytes, made once.
_SHORT_TEXT: Final = tuple(bytes((_TEXT, length)) for length in range(126))

PING: Final = bytes((_PING, 0))  # an empty ping: any pong, or any traffic, answers it


def text_frame(payload: bytes) -> bytes:
    """One whole text frame around `payload`, which must be valid UTF-8."""
    length = len(payload)
    if length < 126:
        return _SHORT_TEXT[length] + payload
    if length < 0x10000:
        return b"\x81\x7e" + length.to_bytes(2, "big") + payload
    return b"\x81\x7f" + length.to_bytes(8, "big") + payload


def payload_of(frame: bytes) -> bytes:
    """What is in a frame that `text_frame` made."""
    length = frame[1]
    return frame[2 if length < 126 else 4 if length == 126 else 10 :]
