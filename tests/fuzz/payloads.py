"""What a publisher sends, as a client reads it."""

import json

from odin.errors import NotJSON
from odin.wire.messages import feed_message, feed_prefix, read_payload, snapshot_message
from tests.fuzz.source import Source

WORDS = [
    b'{"channel":"x",', b'"offset":9', b'"snapshot":true', b'"nonce":"n"', b'"nonce":1', b"{}", b"[]",
    b'"\\ud800"', b'"\\u0063hannel":1', b"1e5", b"NaN", b"-0", b" ", b"\t\r\n", b"\xc3\xa9", b"\x00",
    b"null", b"true", b'{"a":{"b":[1,2,{"c":"d"}]}}', b"\xef\xbb\xbf", b"\\", b'"',
]  # fmt: skip
SEEDS = [
    b'\x00{"type":"priceUpdate","nonce":"n-1","price":1.5}',
    b'\x00 {"nonce":7} \n',
    b"\x01[1,2,null]",
    b"\x02{ }",
    b'\x03"\xc3\xa9\\ud83d\\ude00"',
    b"\x00-1.5e-3",
]
_CHANNELS = ("odin.token.BTC.price", 'a"\\b', "é.\u2028", "a")
_OURS = ("channel", "offset", "snapshot")


def check(data):
    """A payload is JSON or refused; a client reads our channel and offset, and the rest as sent."""
    source = Source(data)
    channel, offset = source.pick(_CHANNELS), source.byte() << 44
    payload = source.rest()
    theirs = _strictly(payload)
    try:
        nonce, members, is_object = read_payload(payload)
    except NotJSON:
        assert theirs is _NONE or theirs is _TOO_MUCH, payload
        return
    assert theirs is not _NONE, "accepted, though it is no JSON"
    assert nonce is None or (type(nonce) in (int, str) and nonce != "")
    if theirs is _TOO_MUCH:
        return
    assert is_object == isinstance(theirs, dict)
    message = feed_message(feed_prefix(channel), offset, members, is_object)
    read = json.loads(message)
    assert (read["channel"], read["offset"]) == (channel, offset), read
    assert "snapshot" not in read, read
    assert not [name for name in _names(message)[2:] if name in _OURS], message
    rest = {key: value for key, value in read.items() if key not in _OURS}
    expected = theirs if is_object else {"data": theirs}
    assert rest == {key: value for key, value in expected.items() if key not in _OURS}
    shown = json.loads(snapshot_message(channel, offset, message))
    assert shown == read | {"snapshot": True}


_NONE, _TOO_MUCH = object(), object()


def _names(message):
    """Those of the members of an object, repeated ones as often as they are there."""
    return [name for name, _ in json.loads(message, object_pairs_hook=list)]


def _strictly(payload):
    """The JSON value; _TOO_MUCH for what is JSON, but no text, or beyond Python's reader."""

    def refuse(name):
        raise ValueError(name)

    try:
        value = json.loads(payload.decode(), parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode()
        return value
    except (RecursionError, UnicodeEncodeError):
        return _TOO_MUCH
    except ValueError as error:
        return _TOO_MUCH if "integer string conversion" in str(error) else _NONE
