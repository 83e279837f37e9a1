"""The request head: parse_head, check_upgrade, body_length, and what is read out of a head."""

import base64
import re

from odin.errors import HandshakeRefused
from odin.gateway import handshake
from tests.connections import head

WORDS = [
    b"GET ", b"POST ", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"/ws", b"?token=", b"?channels=a,b",
    b"Host: x\r\n", b"Upgrade: websocket\r\n", b"Connection: Upgrade\r\n", b"\r\n\r\n", b"\r\n ",
    b"Sec-WebSocket-Version: 13\r\n", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Origin: http://x\r\n",
    b"Authorization: Bearer x\r\n", b"Sec-WebSocket-Protocol: odin.v1, odin.bearer.x\r\n", b"%2C",
    b"\x85", b"\xa0", b"\x00", b"#", b"http://x/", b";", b"&",
]  # fmt: skip
SEEDS = [
    head(),
    head("/ws?channels=a.*,b&token=x.y.z", "Origin: http://localhost", "Content-Length: 0"),
    head("/ws", "Authorization: Bearer a.b.c", "Sec-WebSocket-Protocol: odin.v1, odin.bearer.x"),
    head("/ws", "X: caf\xe9\ty", "X: twice"),
]

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(%b) ([\x21-\x7e]+) ([\x21-\x7e]+)" % _TOKEN)
_HEADER = re.compile(rb"(%b):([\t\x20-\x7e\x80-\xff]*)" % _TOKEN)  # RFC 9110 5.5
_STATUSES = {400, 405, 414, 426, 431, 505}


def check(data):
    """What is accepted has one meaning, that of a strict reading; the rest gets its 4xx."""
    end = data.find(handshake.END)
    end = end + len(handshake.END) if end >= 0 else -1
    if (parsed := _or_refused(handshake.check_sizes, data, end)) is _REFUSED or end < 0:
        return
    block = data[:end]
    parsed = _or_refused(handshake.parse_head, block)
    strictly = _strict(block)
    if parsed is _REFUSED:
        return
    key = _or_refused(handshake.check_upgrade, parsed)
    length = _or_refused(handshake.body_length, parsed)
    if strictly is None:
        assert key is length is _REFUSED, "accepted, though it is no request head"
        return
    assert (parsed.method, parsed.target, parsed.version) == strictly[:3], (parsed, strictly)
    assert dict(parsed.headers) == strictly[3], (parsed.headers, strictly[3])
    assert isinstance(parsed.wants_websocket(), bool)
    token = _or_refused(handshake.token_of, parsed)
    assert token in (None, _REFUSED) or isinstance(token, str)
    channels = _or_refused(handshake.channels_of, parsed)
    assert channels in (None, _REFUSED) or all(type(each) is str and each for each in channels)
    if length is not _REFUSED:
        given, coding = (parsed.headers.get(n) for n in ("content-length", "transfer-encoding"))
        assert coding is None or (given is None and coding.lower() == "chunked" and length is None)
        assert coding is not None or length == int(given or 0) >= 0
        assert parsed.headers.get("host") or parsed.version == "HTTP/1.0"
    if key is not _REFUSED:
        assert length in (0, _REFUSED)
        assert len(base64.b64decode(key, validate=True)) == 16
        assert parsed.method == "GET" and parsed.version == "HTTP/1.1"
        assert parsed.target.startswith("/") and "#" not in parsed.target
        assert "transfer-encoding" not in parsed.headers and parsed.headers["host"]


_REFUSED = object()


def _or_refused(function, *arguments):
    try:
        return function(*arguments)
    except HandshakeRefused as refusal:
        assert refusal.status in _STATUSES, refusal.status
        return _REFUSED


def _strict(block):
    """(method, target, version, headers) by regular expressions; None if it is no head."""
    first, *lines = block[:-4].split(b"\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        return None
    headers = {}
    for each in lines:
        found = _HEADER.fullmatch(each)
        if found is None:
            return None
        name, value = found[1].decode().lower(), found[2].strip(b" \t").decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return *(each.decode() for each in line.groups()), headers
