"""One HTTP request head, read strictly: of an opening handshake, or of a plain request. Pure.

RFC 6455 4.2 and RFC 9112. Everything that a proxy in front could read in another way is refused
with 400: folded lines, a second Host, a body with the upgrade, two lengths, an absolute target.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

from odin.errors import HandshakeRefused

MAX_HEAD_BYTES: Final = 16_384
MAX_LINE_BYTES: Final = 8192
MAX_HEADERS: Final = 100
END: Final = b"\r\n\r\n"

_MAX_ARGUMENTS: Final = 64  # in a query
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # and above 0x7f is text (RFC 9110 5.5)
_LENGTH: Final = re.compile(r"[0-9]{1,15}\Z")
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_ONCE: Final = frozenset(
    ("host", "origin", "authorization", "upgrade", "sec-websocket-key", "sec-websocket-version")
)
_BEARER_PROTOCOL: Final = "odin.bearer."
PROTOCOL: Final = "odin.v1"


class RequestHead(NamedTuple):
    """A request line and its headers; names in lower case, repeated ones joined by a comma."""

    method: str
    target: str
    version: str
    headers: Mapping[str, str]

    @property
    def path(self) -> str:
        """The target without its query, and without a slash at the end."""
        return self.target.partition("?")[0].rstrip("/") or "/"

    @property
    def query(self) -> dict[str, list[str]]:
        query = self.target.partition("?")[2]
        return parse_qs(query, keep_blank_values=True, max_num_fields=_MAX_ARGUMENTS)

    @property
    def persistent(self) -> bool:
        """Whether another request may follow on the connection. (HTTP/1.0 never asks for it.)"""
        return self.version == "HTTP/1.1" and "close" not in _tokens(
            self.headers.get("connection", "")
        )

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits to be told to send the body."""
        expected = self.headers.get("expect", "").lower() == "100-continue"
        return expected and self.version == "HTTP/1.1"

    def wants_websocket(self) -> bool:
        return "websocket" in _tokens(self.headers.get("upgrade", ""))


def check_sizes(data: bytes, end: int) -> None:
    """Refuse a head that is too large, complete (`end` is its length) or still coming (-1).

    Raises: HandshakeRefused 414, 431.
    """
    line_end = data.find(b"\r\n", 0, MAX_LINE_BYTES + 64)
    if line_end < 0 and len(data) > MAX_LINE_BYTES + 64:
        raise HandshakeRefused(414, "too_large", "the request line is too long")
    target = data[: max(line_end, 0)].split(b" ")
    if len(target) > 1 and len(target[1]) > MAX_LINE_BYTES:
        raise HandshakeRefused(414, "too_large", "the URL is too long")
    size = len(data) if end < 0 else end
    if size > MAX_HEAD_BYTES:
        raise HandshakeRefused(431, "too_large", "the header block is too large")
    if end >= 0 and data.count(b"\r\n", 0, end) > MAX_HEADERS + 1:
        raise HandshakeRefused(431, "too_large", "too many headers")


def parse_head(block: bytes) -> RequestHead:
    """The request in `block`, which ends with an empty line.

    Raises: HandshakeRefused 400, 431.
    """
    # one decode for all: 5 us less than line by line; latin-1 is what RFC 9110 5.5 allows
    text = block[: -len(END)].decode("latin-1")
    lines = text.split("\r\n")
    if not text.isprintable() and any(map(_CONTROL.search, lines)):
        raise _bad("a control character in the head")
    request_line = lines[0].split(" ")
    # a tab separates words for some (RFC 9112 3)
    if (
        len(request_line) != 3
        or not _NAME.match(request_line[0])
        or not lines[0].isascii()
        or "\t" in lines[0]
    ):
        raise _bad("malformed request line")
    method, target, version = request_line
    headers: dict[str, str] = {}
    for line in lines[1:]:
        if len(line) > MAX_LINE_BYTES:
            raise HandshakeRefused(431, "too_large", "a header is too long")
        name, colon, value = line.partition(":")
        if not colon or not _NAME.match(name):
            raise _bad("malformed header")
        name, value = name.lower(), value.strip(" \t")
        if name in headers:
            if name in _ONCE:
                raise _bad(f"{name} appears more than once")
            value = f"{headers[name]}, {value}"
        headers[name] = value
    return RequestHead(method, target, version, headers)


def check_upgrade(head: RequestHead) -> str:
    """The Sec-WebSocket-Key of a request that may be upgraded.

    Raises: HandshakeRefused 400, 405, 426, 505.
    """
    headers = head.headers
    if head.method != "GET":
        raise HandshakeRefused(405, "bad_request", "use GET", (("Allow", "GET"),))
    if head.version != "HTTP/1.1":
        raise HandshakeRefused(505, "bad_request", "use HTTP/1.1")
    _check_target(head)
    if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
        raise _bad("a handshake has no body")
    if "upgrade" not in _tokens(headers.get("connection", "")):
        raise _bad("Connection: Upgrade is missing")
    if headers.get("sec-websocket-version", "").strip() != "13":
        raise HandshakeRefused(
            426,
            "bad_version",
            "this server speaks version 13 (RFC 6455)",
            (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")),
        )
    key = headers.get("sec-websocket-key", "").strip()
    try:
        nonce = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        nonce = b""
    if len(nonce) != 16:
        raise _bad("Sec-WebSocket-Key must be 16 bytes in base64")
    return key


def body_length(head: RequestHead) -> int | None:
    """How long the body of a plain request is; None if it comes in chunks.

    Raises: HandshakeRefused 400, 505.
    """
    headers = head.headers
    if head.version not in ("HTTP/1.1", "HTTP/1.0"):
        raise HandshakeRefused(505, "bad_request", "use HTTP/1.1")
    _check_target(head)
    if head.target.count("&") >= _MAX_ARGUMENTS:
        raise _bad(f"more than {_MAX_ARGUMENTS} arguments")
    for name in ("origin", "authorization"):
        if not headers.get(name, "").isascii():
            raise _bad(f"{name} is not ASCII")
    length, coding = headers.get("content-length"), headers.get("transfer-encoding")
    if coding is not None:
        if length is not None or head.version != "HTTP/1.1" or coding.lower() != "chunked":
            raise _bad("Transfer-Encoding must be chunked, without Content-Length")
        return None
    if length is None:
        return 0
    if not _LENGTH.match(length):
        raise _bad("Content-Length must be one decimal number")
    return int(length)


def token_of(head: RequestHead) -> str | None:
    """The bearer token of a request: from the header, a subprotocol, or the query."""
    scheme, _, credentials = head.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    for each in protocols_of(head):
        if each.startswith(_BEARER_PROTOCOL):
            return each[len(_BEARER_PROTOCOL) :]
    return next(filter(None, _query(head).get("token", ())), None)


def channels_of(head: RequestHead) -> list[str] | None:
    """The patterns of `?channels=a,b`, none of `?channels=`; None without."""
    values = _query(head).get("channels")
    if values is None:
        return None
    return [each for value in values for each in value.split(",") if each]


def protocols_of(head: RequestHead) -> list[str]:
    """The subprotocols that the client offers, in its order."""
    offered = head.headers.get("sec-websocket-protocol")
    if offered is None:
        return []
    return [each.strip() for each in offered.split(",") if each.strip()]


def origin_host(origin: str) -> str:
    """The host of an Origin, for a log; never raises."""
    try:
        return urlsplit(origin).hostname or origin[:100]
    except ValueError:
        return origin[:100]


def _check_target(head: RequestHead) -> None:
    """What is asked for, and of whom. Raises: HandshakeRefused 400."""
    if not head.target.startswith("/") or "#" in head.target:
        raise _bad("the target must be a path")
    host = head.headers.get("host")
    if not host and head.version != "HTTP/1.0":
        raise _bad("Host is missing")
    if host and not host.isascii():
        raise _bad("Host is not ASCII")


def _query(head: RequestHead) -> dict[str, list[str]]:
    if "?" not in head.target:
        return {}
    try:
        return head.query
    except ValueError:
        raise _bad("malformed query") from None


def _tokens(value: str) -> set[str]:
    return {each.strip(" \t").lower() for each in value.split(",")}


def _bad(text: str) -> HandshakeRefused:
    return HandshakeRefused(400, "bad_request", text)
