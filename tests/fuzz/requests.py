"""What a client asks for, as a whole session answers it."""

import json

from odin.access.tokens import Identity, issue
from odin.errors import BadRequest
from odin.wire.messages import decode_request
from odin.wire.subjects import covers
from tests.connections import SECRET, Server
from tests.fuzz.source import Source
from tests.fuzz.watching import Reused, no_traceback

WORDS = [
    b'{"type":"ping"', b'{"type":"heartbeat"}', b'{"type":"subscriptions"}', b'"id":1,', b'"id":"a"',
    b'{"type":"subscribe","data":{"channels":["a.b"]}}', b'"snapshot":true', b"}\n{", b'"data":{}',
    b'"recover":{"epoch":"E","offset":1}', b'{"type":"unsubscribe","data":{"channels":["a.*"]}}',
    b'{"type":"auth","token":"T0"}', b'{"type":"auth","token":"T1"}', b'"T2"', b'"nonce":"n"',
    b'{"type":"publish","channel":"a.b","data":{}}', b'"a.>"', b'">"', b'"*.b"', b'"c.d"', b"null",
]  # fmt: skip
SEEDS = [
    b'{"type":"ping","id":7,"timestamp":1.5,"nonce":"n"}\n{"type":"heartbeat"}',
    b'{"type":"subscribe","id":"x","data":{"channels":["a.b","z","a..b"],"snapshot":true}}\n'
    b'{"type":"subscriptions"}\n{"type":"unsubscribe","data":{"channels":["a.b"]}}',
    b'{"type":"auth","token":"T1"}\n{"type":"subscribe","data":{"channels":["c.d"],'
    b'"recover":{"epoch":"E","offset":2}}}\n{"type":"auth","token":"T2"}\n{"type":"ping"}',
    b'{"type":"auth","token":"T0"}\n{"type":"publish","id":1,"channel":"a.b",'
    b'"data":{"type":"t","nonce":"1"}}',
    b'[]\n{}\n{"type":1}\n"\xc3\xa9"\nnull\n{"type":"x","id":true}',
]
_REPLIES = frozenset(
    (
        "pong",
        "heartbeat",
        "subscription_ack",
        "unsubscription_ack",
        "subscriptions",
        "auth_ack",
        "publish_ack",
        "error",
    )
)
_CODES = frozenset((1008, 4429))


def _token(channels, publish):
    # longer than any run: corpus entries must mean the same next year
    return issue(Identity("u", channels=channels, publish=publish), SECRET, 10**9)[0].encode()


_TOKENS = {
    b"T0": _token(None, (">",)),
    b"T1": _token(("a.>", "c.d"), ("a.*",)),
    b"T2": _token(("a.b", "*.x"), ()),
}


def check(data):
    """One reply to each request, or the end; and nothing that the token does not permit."""
    source = Source(data)
    texts = [each for each in source.rest().split(b"\n") if _is_utf8(each)][:40]
    with _SERVER as server, no_traceback():
        peer = server.open()
        peer.messages()
        for text in texts:
            for word, token in _TOKENS.items():
                text = text.replace(b'"%b"' % word, b'"%b"' % token)  # noqa: PLW2901
            text = text.replace(b'"E"', b'"%b"' % server.bridge.epoch.encode())  # noqa: PLW2901
            if not _answered(server, peer, text):
                break
        peer.lose()
        server.turn()
        assert not list(server.hub.groups)


def _server():
    """One with a short past."""
    server = Server(rate=0)
    for n in range(6):
        server.bridge.publish(("a.b", "c.d")[n % 2], b'{"n":%d}' % n)
    server.turn()
    return server


def _answered(server, peer, text):
    """Whether the session goes on after a request that was answered as it should be."""
    session = peer.protocol.session
    peer.protocol.text(text)
    server.turn()
    came = peer.frames()
    replies = [
        message
        for opcode, payload in came
        if opcode == 1 and payload.startswith(b'{"type":')
        for message in [json.loads(payload)]
        if message["type"] in _REPLIES
    ]
    closes = [int.from_bytes(payload[:2], "big") for opcode, payload in came if opcode == 8]
    assert len(replies) == 1, (text, came)
    assert _CODES.issuperset(closes), closes
    _check_reply(text, replies[0])
    if closes:
        assert session.group is None
        return False
    patterns, allowed = session.group.patterns, session.identity.channels
    for pattern in patterns:
        assert allowed is None or any(covers(each, pattern) for each in allowed), pattern
    assert len(patterns) <= server.context.max_channels
    return True


def _check_reply(text, reply):
    try:
        request = decode_request(text)
    except BadRequest as error:
        assert reply["type"] == "error", reply
        assert reply["code"] in ("bad_request", "unknown_type"), reply
        assert reply.get("id") == error.request_id
    else:
        assert reply.get("id") == request.id, (text, reply)
        assert reply.get("code") != "internal", reply


def _is_utf8(text):
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


_SERVER = Reused(_server)
