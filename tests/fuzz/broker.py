"""What the broker sends: its stream of operations, and the answers of JetStream."""

import asyncio

import nats.errors

from odin.bus.consumer import Consumer
from odin.bus.reading import Splitter
from odin.bus.stream import Numbering, Stream, numbering_of
from odin.config import JetStream
from odin.errors import BrokerError
from tests.fuzz.source import Source
from tests.fuzz.watching import no_traceback

_INFO = (
    b'{"config":{"name":"FEED","metadata":{"odin-numbering":"2000000.0123abcd"},"discard":"new",'
    b'"max_msgs":5,"max_bytes":-1},"created":"2026-01-02T03:04:05.123456789Z",'
    b'"state":{"messages":3,"bytes":30,"first_seq":2,"last_seq":9,"num_deleted":2,"deleted":[4,6]}}'
)
_ACK = b"$JS.ACK.FEED.c.1.7.1.1767323045123456789.2"
_MESSAGE = b"MSG a.b 1 " + _ACK + b" 2\r\n{}\r\n"
_BEAT = b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 1\r\nNats-Last-Stream: 7\r\n\r\n"
WORDS = [
    b"MSG a.b 1 2\r\n{}\r\n", b"HMSG a.b 1 12 14\r\n", b"NATS/1.0\r\n\r\n", b"PING\r\n", b"+OK\r\n", b"\r\n",
    _ACK, _MESSAGE, _BEAT, b"NATS/1.0 409 Consumer Deleted\r\n\r\n", b"Nats-Consumer-Stalled: x\r\n",
    b'{"error":{"code":404,"err_code":10059,"description":"x"}}', b'"metadata":null', b'"config":{}',
    b'{"stream":"FEED","seq":1}', b'"created":""', b'"odin-numbering":1', b"-1", b"null", b'"x"',
]  # fmt: skip
SEEDS = [
    b"\x00\x02\x40\x80" + _MESSAGE + b"PING\r\nMSG x 2 3\r\nabc\r\n+OK\r\n",
    b"\x00\x00HMSG _INBOX.1 1 %d %d\r\n%b\r\n" % (len(_BEAT), len(_BEAT), _BEAT) + _MESSAGE,
    b"\x00\x01\x80MSG a.\xff 1 2\r\n{}\r\nMSG a 1 x\r\n",
    b"\x01" + _INFO,
    b'\x01{"error":{"code":404,"err_code":10059,"description":"stream not found"}}',
    b'\x02{"stream":"FEED","seq":12}',
    b"\x02[]",
    b"\x03" + _ACK + b"\n" + _BEAT,
    b"\x03$JS.ACK.d.a.FEED.c.1.7.1.1767323045123456789.2.r\n",
    b"\x03$JS.FC.FEED.c.x\nNATS/1.0 100 FlowControl Request\r\n\r\n",
]

_LOOP = asyncio.new_event_loop()


class _Reply:
    def __init__(self, data):
        self.data = data


class _Client:
    """A connection on which every question gets the same answer."""

    is_closed = True

    def __init__(self, answer=b""):
        self._answer = answer

    async def request(self, *_arguments, **_named):
        return _Reply(self._answer)

    async def publish(self, subject, _payload):
        assert isinstance(subject, str)

    def new_inbox(self):
        return "_INBOX.1"


def check(data):
    """Bytes are split alike in any cuts; an answer is a value, or a BrokerError."""
    source = Source(data)
    mode = source.byte() % 4
    with no_traceback():
        if mode == 0:
            _check_splitting(source)
        elif mode == 1:
            _check_info(source.rest())
        elif mode == 2:
            _check_stored(source.rest())
        else:
            _LOOP.run_until_complete(_check_consumer(source.rest()))


def _check_splitting(source):
    spacing = Source(source.take(1 + source.below(4)))
    stream = source.rest()
    whole = _split([stream])
    assert _split(spacing.cuts(stream)) == whole
    assert b"".join(whole[1]) in stream or whole[0]


def _split(reads):
    """([messages], [what nats-py gets, joined])"""
    messages, passed = [], []

    def receive(*message):
        messages.append(message)

    splitter = Splitter(lambda sid: receive if sid == b"1" else None, passed.append)
    for each in reads:
        splitter.feed(each)
    return messages, [b"".join(passed)]


def _result(coroutine):
    """What a coroutine that never waits returns; None if it says that the broker is to blame."""
    try:
        coroutine.send(None)
    except StopIteration as result:
        return result.value
    except (BrokerError, TimeoutError, OSError, nats.errors.Error):
        return None
    raise AssertionError("it waits for something")


def _check_info(answer):
    stream = Stream(_Client(answer), JetStream(stream="FEED", create=True))
    info = _result(stream.info(create=True))
    if info is None:
        return
    assert isinstance(info.full, bool)
    numbering = numbering_of(info)
    assert isinstance(numbering, Numbering) and numbering.shift >= 0
    assert 0 < len(numbering.epoch) <= 64, numbering.epoch
    assert numbering.holds(info)
    above = _result(stream.whole_above(info.state, info.state.last_seq))
    assert isinstance(above, int) and above >= 0


def _check_stored(answer):
    stream = Stream(_Client(answer), JetStream(stream="FEED"))
    sequence = _result(stream.store("a.b", b"{}"))
    assert sequence is None or isinstance(sequence, int)


async def _check_consumer(data):
    """Each message: a reply subject, a line break, and headers up to the next NUL."""
    places = []
    consumer = Consumer(_Client(), "FEED", lambda _subject, _payload, place: places.append(place))
    for each in data.split(b"\0"):
        reply, _, headers = each.partition(b"\n")
        consumer._received("a.b", b"{}", reply, headers)
    numbers = [place.number for place in places]
    assert numbers == list(range(1, len(numbers) + 1)), numbers
