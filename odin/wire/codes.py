"""Close codes and error codes: every number and word that tells a client what went wrong."""

from enum import IntEnum, StrEnum
from typing import Final


class CloseCode(IntEnum):
    """WebSocket close codes that Odin sends (RFC 6455 7.4; 4000-4999 are ours).

    After the four of broken frames, after POLICY and FORBIDDEN, a client that reconnects unchanged
    is closed again; after all others it may reconnect.
    """

    NORMAL = 1000
    GOING_AWAY = 1001  # where Autobahn fails a connection without a code
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003  # binary on the JSON endpoint
    INVALID_PAYLOAD = 1007  # not UTF-8
    POLICY = 1008  # too many bad messages
    TOO_BIG = 1009
    INTERNAL = 1011  # our fault
    RESTART = 1012  # reconnect after the hint in `reconnect`
    OVERLOAD = 1013
    TOKEN_EXPIRED = 4401  # get a new token, reconnect
    FORBIDDEN = 4403  # do not reconnect with this token
    TOO_SLOW = 4408  # reconnect and resume
    RATE_LIMITED = 4429  # back off, then reconnect


NO_STATUS: Final = 1005  # never on the wire: a close frame without a code
ABNORMAL: Final = 1006  # never on the wire: the connection was lost without a close frame


class ErrorCode(StrEnum):
    """The `code` of an `error` message; the connection stays open."""

    BAD_REQUEST = "bad_request"
    UNKNOWN_TYPE = "unknown_type"
    BAD_CHANNEL = "bad_channel"
    FORBIDDEN = "forbidden"
    LIMIT_EXCEEDED = "limit_exceeded"
    RATE_LIMITED = "rate_limited"
    DUPLICATE = "duplicate"
    UNAUTHORIZED = "unauthorized"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


def close_reason(word: str, text: str = "") -> str:
    """The close reason `word: text`, cut to the 123 bytes that a close frame can carry."""
    reason = f"{word}: {text}" if text else word
    return reason.encode()[:123].decode(errors="ignore")
