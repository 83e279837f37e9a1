"""Plain HTTP on a connection: any bytes, in any cuts."""

import re

from tests.connections import Server, head
from tests.fuzz.source import Source
from tests.fuzz.watching import Reused, arrive, comparable, kept, no_traceback

MAX_BODY = 1000  # of the server of tests.connections
MAX_KEPT = 26_000  # a head of 16 KiB, one read of 4 KiB behind it, and a body
WORDS = [
    b"GET /livez HTTP/1.1\r\n", b"POST /livez HTTP/1.1\r\n", b"HEAD / HTTP/1.1\r\n", b"Host: x\r\n",
    b"\r\n\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n",
    b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"Content-Type: multipart/form-data\r\n",
    b"Content-Type: application/x-www-form-urlencoded\r\n", b"OPTIONS * HTTP/1.1\r\n", b" HTTP/1.0\r\n",
    b"Upgrade: websocket\r\n", b"/ws", b"%2e%2e", b"\r\n ", b"\x85", b"\x0b", b"0x2", b"+5", b";q",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"99999999999999999999",
]  # fmt: skip
_GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
SEEDS = [
    b"\x00\x02\x30\x80" + _GET + _GET,
    b"\x00\x01\x90POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello" + _GET,
    b"\x00\x03\x30\x60\x90POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n0\r\n\r\n",
    b"\x00\x00GET /ws HTTP/1.1\r\nHost: x\r\n\r\n" + head(),
    b"\x00\x00HEAD / HTTP/1.0\r\nExpect: 100-continue\r\nConnection: keep-alive\r\n\r\n",
    b"\x01\x00POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n",
]
_ANSWER = re.compile(rb"HTTP/1\.[01] (\d\d\d) [^\r\n]*\r\n(?:[!-9;-~]+: [^\r\n]*\r\n)*\r\n")
_STATUSES = frozenset(
    (100, 101, 200, 400, 401, 404, 405, 408, 411, 413, 414, 415, 417, 426, 429, 431, 501, 503, 505)
)


def check(data):
    """No exception, no 500, nothing hoarded, answers that are HTTP, the same ones in any cuts."""
    source = Source(data)
    more = source.byte() & 1
    spacing = Source(source.take(1 + source.below(4)))
    stream = source.rest()
    if more:
        stream += b"x" * 20_000
    with _SERVER as server, no_traceback():
        whole = _outcome(server, [stream])
        cut = _outcome(server, spacing.cuts(stream))
        assert cut == whole, ("by cuts", cut, whole)


def _outcome(server, reads):
    peer = server.connect()
    server.context._nonces = server.context.numbered = 0
    arrive(peer, reads)
    size = kept(peer.protocol.__dict__)
    assert size <= MAX_KEPT, f"{size} bytes are kept of one client"
    outcome = comparable(server, peer.read()), peer.ended
    answer = _ANSWER.match(outcome[0])
    assert not outcome[0] or answer, outcome
    assert answer is None or int(answer[1]) in _STATUSES, outcome
    peer.lose()
    server.turn()
    assert server.factory.transports == 0
    return outcome


_SERVER = Reused(Server)
