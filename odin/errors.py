"""The exception tree. The class carries the wire code; each edge translates in one place.

OdinError
├── ConfigError                 a bad setting; stops the start
├── BrokerError                 the broker, or its stream, does not do what Odin needs of it
├── BadFile                     a file of a setting; stops the start, later it is tried again
├── RequestError                a client's request cannot be done: an `error` message
│   ├── BadRequest              bad_request
│   │   ├── NotJSON             bad_request
│   │   └── UnknownType         unknown_type
│   ├── BadChannel              bad_channel
│   ├── Forbidden               forbidden
│   ├── LimitExceeded           limit_exceeded
│   ├── RateLimited             rate_limited, with a time to wait
│   ├── Duplicate               duplicate
│   ├── Unauthorized            unauthorized
│   └── Unavailable             unavailable: the broker is away
└── HandshakeRefused            an HTTP status instead of the upgrade
"""

from typing import ClassVar

from odin.wire.codes import ErrorCode


class OdinError(Exception):
    """The root of everything Odin raises on purpose."""


class ConfigError(OdinError):
    """A setting that cannot be used; the text names source, key, value and what is allowed."""


class BrokerError(OdinError):
    """What the broker, or its stream, does not do; the text is for operators."""


class BadFile(OdinError, OSError):
    """A file that a setting names, and that cannot be used: `key`, `path`, and `why`."""

    def __init__(self, key: str, path: str, why: str) -> None:
        super().__init__(f"{key}: {path!r}: {why}")
        self.key = key
        self.path = path
        self.why = why


class RequestError(OdinError):
    """A request that cannot be done. The text is sent to the client."""

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL

    def __init__(self, message: str, *, request_id: int | str | None = None) -> None:
        super().__init__(message)
        self.request_id = request_id


class BadRequest(RequestError):
    code = ErrorCode.BAD_REQUEST


class NotJSON(BadRequest):
    pass


class UnknownType(BadRequest):
    code = ErrorCode.UNKNOWN_TYPE


class BadChannel(RequestError):
    code = ErrorCode.BAD_CHANNEL


class Forbidden(RequestError):
    code = ErrorCode.FORBIDDEN


class LimitExceeded(RequestError):
    code = ErrorCode.LIMIT_EXCEEDED


class RateLimited(RequestError):
    """Too many messages; `retry_after_s` says when the next one will be taken."""

    code = ErrorCode.RATE_LIMITED

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Duplicate(RequestError):
    code = ErrorCode.DUPLICATE


class Unauthorized(RequestError):
    """A token that is not accepted; `cause` is one bounded word for a metric, never sent."""

    code = ErrorCode.UNAUTHORIZED

    def __init__(self, cause: str) -> None:
        super().__init__("the token is missing or not valid")
        self.cause = cause


class Unavailable(RequestError):
    code = ErrorCode.UNAVAILABLE


class HandshakeRefused(OdinError):
    """An HTTP request that is answered with `status` before any upgrade.

    `cause` is one bounded word for a metric; the text is sent to the client.
    """

    def __init__(
        self, status: int, cause: str, text: str, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(text)
        self.status = status
        self.cause = cause
        self.headers = headers
