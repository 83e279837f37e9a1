"""Answers of JetStream, good and bad."""

import asyncio

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from odin.bus.consumer import Consumer
from odin.bus.reading import Splitter
from odin.bus.stream import Stream, numbering_of
from odin.config import JetStream
from odin.errors import BrokerError

CONFIG = {"name": "FEED", "metadata": {"odin-numbering": "2000000.0123abcd"}}
INFO = {"config": CONFIG, "created": "2026-01-02T03:04:05.123456789Z", "state": {"last_seq": 9}}
ACK = b"$JS.ACK.FEED.c.1.7.1.1767323045123456789.2"


class Reply:
    def __init__(self, data):
        self.data = data


class Client:
    """Answers every question alike."""

    is_closed = True

    def __init__(self, answer=b""):
        self.answer = answer

    async def request(self, *_arguments, **_named):
        return Reply(self.answer)

    async def publish(self, _subject, _payload):
        pass

    def new_inbox(self):
        return "_INBOX.x"


class StreamTests(SynchronousTestCase):
    def info(self, answer):
        stream = Stream(Client(answer), JetStream(stream="FEED"))
        return asyncio.new_event_loop().run_until_complete(stream.info())

    def test_good(self):
        """The numbering in the metadata decides the epoch."""
        numbering = numbering_of(self.info(msgspec.json.encode(INFO)))
        self.assertEqual(numbering.epoch, "FEED-1767323045.123456-0123abcd")
        self.assertEqual(numbering.shift, 2_000_000)

    def test_no_answer_of_jetstream(self):
        """An answer without sense is the broker's fault, in words, whatever is wrong with it."""
        for answer in (
            b"", b"[]", b"\xff", b'{"config":{}}', b"[" * 100_000, b'{"error":{"code":"x"}}',
            b'{"error":{"description":"\xf0"}}',
            *(msgspec.json.encode(INFO | changed) for changed in (
                {"created": ""}, {"created": "2026-13-01"}, {"created": "0001-01-01T00:00:00"},
                {"state": None}, {"config": {}}, {"config": {"name": 1}}, {"config": []},
                {"config": CONFIG | {"metadata": {"odin-numbering": 1}}},
                {"config": CONFIG | {"metadata": "x"}}, {"config": CONFIG | {"max_msgs": "5"}},
                {"config": CONFIG | {"discard": 1}}, {"config": CONFIG | {"max_bytes": None}},
            )),
        ):  # fmt: skip
            with self.assertRaises(BrokerError, msg=answer[:200]):
                self.info(answer)


class ConsumerTests(SynchronousTestCase):
    def test_nothing_of_jetstream(self):
        """Replies and headers that JetStream does not send end the consumer, without a traceback."""
        for reply, headers in (
            (b"$JS.ACK.x", b""), (b"$JS.ACK.d.a.FEED.c.1.r", b""), (b"\xff", b""),
            (ACK.replace(b".7.", b".x."), b""), (b"", b"Nats-Last-Consumer: x\r\n"),
            (b"", b"Nats-Last-Consumer: 0\r\nNats-Last-Stream: x\r\n"),
        ):  # fmt: skip
            taken = []
            consumer = Consumer(Client(), "FEED", lambda *message, to=taken: to.append(message))
            consumer._received("a", b"{}", reply, headers)
            self.assertTrue(consumer.broken, reply)
            consumer._received("a", b"{}", ACK, b"")
            self.assertEqual(taken, [])

    def test_good(self):
        """What is in order is taken."""
        taken = []
        consumer = Consumer(Client(), "FEED", lambda *message: taken.append(message))
        consumer._received("a", b"{}", ACK, b"")
        self.assertEqual((len(taken), consumer.position, consumer.broken), (1, 7, False))


class SplitterTests(SynchronousTestCase):
    def test_broken_stays_broken(self):
        """Behind an operation that is none nothing is read any more, however it arrives."""
        got, passed = [], []
        splitter = Splitter(lambda _sid: lambda *message: got.append(message), passed.append)
        for data in (b"MSG a 1 x\r\n", b"MSG a 1 2\r\n{}\r\n"):
            splitter.feed(data)
        self.assertEqual((got, passed), ([], [b"MSG a 1 x\r\n", b"MSG a 1 2\r\n{}\r\n"]))

    def test_sizes(self):
        """A size below zero, or headers larger than all of the message: no operation of NATS."""
        for line in (b"MSG a 1 -9\r\n", b"HMSG a 1 3 2\r\n", b"HMSG a 1 -3 2\r\n"):
            got, passed = [], []
            splitter = Splitter(
                lambda _sid, to=got: lambda *message: to.append(message), passed.append
            )
            splitter.feed(line + b"{}\r\n" * 9)
            self.assertEqual((got, passed), ([], [line + b"{}\r\n" * 9]))
