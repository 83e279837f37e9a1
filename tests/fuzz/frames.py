"""A whole connection after its handshake: any bytes, in any cuts."""

import struct

from tests.connections import Server, frame, head
from tests.fuzz.source import Source
from tests.fuzz.watching import Reused, arrive, comparable, kept, no_traceback

MAX_MESSAGE = 1000
MAX_BYTES = 64 * MAX_MESSAGE  # of an input that has grown by repetition
MAX_KEPT = 2 * MAX_MESSAGE + 1024  # a frame and a message that are under way
WORDS = [
    b"\x81\x14", b"\x01\x08", b"\x80\x08", b"\x89\x00", b"\x8a\x00", b"\x88\x02\x03\xe8",
    b"\xc1\x08", b'{"type":"ping"}', b'{"type":"subscriptions"}', b"\xff" * 8, b"\xe2\x82",
    b"\xd2", b"\xdc", b"\xe6", b"\xf0",
]  # fmt: skip
_TEXTS = (
    b'{"type":"ping","id":1}',
    b'{"type":"subscribe","data":{"channels":["a.*","b.>"],"snapshot":true}}',
    b'{"type":"unsubscribe","data":{"channels":["a.*"]}}',
    b'{"type":"subscribe","data":{"channels":["c"],"recover":{"epoch":"x","offset":1}}}',
    b'{"type":"publish","channel":"a.b","data":{}}',
    b'{"type":"auth","token":"x"}',
    b'{"type":"heartbeat"}',
    b"nonsense",
)
_LONG = struct.pack("!BBQ", 0x82, 0xFF, 1 << 19) + bytes(4)  # a frame that is much longer
_DEFLATE = ("Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover",)
SEEDS = [
    b"\x01\x00" + frame(_TEXTS[0]) + frame(b"x" * 300, 9) + frame(b"\x03\xe8", 8),
    b"\x01\x02\x80\x90" + frame(_TEXTS[1], fin=False) + frame(b"", 10) + frame(b"", 0),
    b"\x00\x01\x40\x81\xf0\x01\x05hello\x80\x06 world\x89\x03abc\xd3\x88\x02\x03\xe8",
    b"\x02\x00\x81\xf1\x81\xf2\x81\xf3\x81\xf4\x81\xf5\x81\xf6\x82\xf0",
    b"\x04\x00\xc1\x02\xff\xff\x81\xf0",
    b"\x00\x00\x89\xe6\x28\x81\xf0",
    b"\x00\x00\x89\x02ab\xdb\x81\xf0",
]


def check(data):
    """Bytes mean the same however they are cut, raise nothing, and are not hoarded."""
    source = Source(data)
    mode = source.byte()
    spacing = Source(source.take(6))
    stream = source.rest() if mode & 1 else b"".join(_made(source))[:MAX_BYTES]
    request = head("/ws", *(_DEFLATE if mode & 4 else ()))
    with _SERVERS[mode >> 1 & 1] as server, no_traceback():
        whole = _outcome(server, [request, stream])
        if len(stream) > 1:
            cut = _outcome(server, [request, *spacing.cuts(stream)])
            assert cut == whole, ("by cuts", cut, whole)
        behind = _outcome(server, [request + stream])
        assert behind == whole, ("right behind the handshake", behind, whole)


def _made(source):
    """Frames of a client, well-formed more often than not."""
    made = b""
    for _ in range(48):
        if not source.more:
            return
        first, kind = source.byte(), source.byte()
        if kind < 200:
            made = frame(source.take(kind % 126), first & 15, fin=first >> 7, rsv=first >> 4 & 7)
        elif kind < 220:
            made = (made * (kind - 199))[: 8 * MAX_MESSAGE]  # the same once more, and again
        elif kind < 230:
            made = struct.pack("!BBQ", first, 0xFF, 1 << source.below(64)) + source.take(64)
        elif kind < 232:
            made = bytes((first, source.below(126)))  # not masked
        elif kind < 240:
            made = frame(b"x" * (source.below(10) * MAX_MESSAGE // 8), first & 15, fin=first >> 7)
        else:
            made = frame(_TEXTS[kind % 8], first & 15, fin=first >> 7, rsv=first >> 4 & 7)
        yield made


def _outcome(server, reads):
    """(what was written, how it ended) by a connection of which these are the reads."""
    server.context._nonces = server.context.numbered = 0
    peer = server.connect()
    arrive(peer, reads)
    _check_kept(peer)
    written = comparable(server, peer.read())
    # which of two errors in a payload is found first depends on how much of it is there
    written, invalid, _reason = written.partition(b"\x03\xefinvalid_payload: ")
    outcome = written[:-1] if invalid else written, peer.ended, peer.protocol.state
    assert b'"internal"' not in outcome[0], outcome
    arrive(peer, [_LONG, bytes(2 * MAX_KEPT)])  # nobody keeps what comes behind, whatever it is
    _check_kept(peer)
    peer.lose()
    server.turn()
    left = server.factory.transports, server.factory.connections, len(list(server.hub.groups))
    assert left == (0, 0, 0), left
    return outcome


def _check_kept(peer):
    size = kept(peer.protocol.__dict__)
    assert size <= MAX_KEPT, f"{size} bytes are kept of one client"


_SERVERS = [
    Reused(lambda: Server(max_message=MAX_MESSAGE)),
    Reused(lambda: Server(max_message=MAX_MESSAGE, rate=20)),
]
