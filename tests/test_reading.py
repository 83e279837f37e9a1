"""Reading NATS: whatever the cuts, the feed's messages arrive in order, the rest whole."""

import asyncio
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from twisted.trial.unittest import SynchronousTestCase

from odin.bus.reading import FeedClient, Splitter


def message(sid, payload, subject=b"a.b", reply=b"", headers=b""):
    arguments = [subject, b"%d" % sid, *([reply] if reply else [])]
    if headers:
        sizes = [b"%d" % len(headers), b"%d" % (len(headers) + len(payload))]
        return b"HMSG %b\r\n%b%b\r\n" % (b" ".join([*arguments, *sizes]), headers, payload)
    return b"MSG %b\r\n%b\r\n" % (b" ".join([*arguments, b"%d" % len(payload)]), payload)


class Reading:
    """A splitter for which subscription 1 is of the feed, and what came of it."""

    def __init__(self):
        self.got, self.passed = [], b""
        self.asked = []
        self.splitter = Splitter(self._receiver_of, self._pass_on)

    def _receiver_of(self, sid):
        self.asked.append(sid)
        return (lambda *message: self.got.append(message)) if sid == b"1" else None

    def _pass_on(self, data):
        self.passed += data


payloads = st.one_of(st.binary(max_size=40), st.just(b"\r\nMSG a 1 3\r\n"))
operations = st.one_of(
    st.builds(
        lambda payload, reply, headers: (message(1, payload, b"a.b", reply, headers), True),
        payloads,
        st.sampled_from([b"", b"$JS.ACK.x.1"]),
        st.sampled_from([b"", b"NATS/1.0\r\nA: b\r\n\r\n"]),
    ),
    st.builds(lambda payload: (message(2, payload, b"_INBOX.x"), False), payloads),
    st.sampled_from([(b"PING\r\n", False), (b"+OK\r\n", False), (b"INFO {}\r\n", False)]),
)


class SplitterTests(SynchronousTestCase):
    @given(st.lists(operations, max_size=12), st.lists(st.integers(0, 400), max_size=12))
    def test_any_cuts(self, stream, cuts):
        """However the stream is cut into reads, the same comes out, in order."""
        whole = b"".join(data for data, _ in stream)
        expected = Reading()
        for data, _ in stream:
            expected.splitter.feed(data)
        reading = Reading()
        places = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
        for start, end in pairwise(places):
            reading.splitter.feed(whole[start:end])
        self.assertEqual(reading.got, expected.got)
        self.assertEqual(reading.passed, expected.passed)
        self.assertEqual(len(reading.got), sum(of_feed for _, of_feed in stream))
        self.assertEqual(reading.passed, b"".join(data for data, feed in stream if not feed))

    def test_message(self):
        """Subject, payload, reply and headers."""
        reading = Reading()
        reading.splitter.feed(message(1, b"p") + message(1, b"q", b"c", b"r", b"H\r\n\r\n"))
        self.assertEqual(reading.got, [("a.b", b"p", b"", b""), ("c", b"q", b"r", b"H\r\n\r\n")])
        self.assertEqual(reading.asked, [b"1"])

    def test_broken_stream_goes_to_nats_py(self):
        """What is no NATS is passed on as it came: nats-py reconnects."""
        for garbage in (b"MSG a\r\nxyz", b"MSG a 1 x\r\nxyz", b"HMSG a 1 3\r\nxyz\r\n"):
            reading = Reading()
            reading.splitter.feed(message(1, b"p") + garbage)
            self.assertEqual(reading.passed, garbage)
            self.assertEqual(len(reading.got), 1)

    def test_failing_receiver_stops_nothing(self):
        """A defect costs one message."""
        got = []

        def receive(_subject, payload, _reply, _headers):
            got.append(payload)
            if payload == b"bad":
                raise ValueError("a defect")

        splitter = Splitter(lambda _sid: receive, lambda data: None)
        splitter.feed(message(1, b"bad") + message(1, b"good"))
        self.assertEqual(got, [b"bad", b"good"])
        self.assertEqual(len(self.flushLoggedErrors()), 1)

    def test_subject_that_is_not_utf8(self):
        """The receiver gets every message, and can tell that the subject names no channel."""
        reading = Reading()
        reading.splitter.feed(message(1, b"p", b"a.\xff\xc3\xa9") + message(1, b"q"))
        self.assertEqual(
            [each[:2] for each in reading.got], [("a.\udcff\xe9", b"p"), ("a.b", b"q")]
        )

    def test_large_payload_is_not_split_again_and_again(self):
        """Reads that complete nothing are only kept."""
        reading = Reading()
        data = message(1, b"x" * 1_000_000)
        for start in range(0, len(data), 1000):
            reading.splitter.feed(data[start : start + 1000])
        self.assertEqual(len(reading.got[0][1]), 1_000_000)


class FeedClientTests(SynchronousTestCase):
    def test_feed_is_taken_also_where_nats_py_reads(self):
        """Over a WebSocket: messages go to their takers where they are parsed."""
        client, got = FeedClient(), []
        client.feed = {"a": lambda s, p, r, h: got.append((s, p)), "b": lambda *_: 1 / 0}

        class Subscription:
            def __init__(self, subject):
                self.subject = subject

        client._subs = {1: Subscription("a"), 2: Subscription("b")}

        async def parse():
            for sid, subject in ((1, b"a"), (2, b"b"), (1, b"\xff"), (9, b"x"), (1, b"a.b")):
                await client._process_msg(sid, subject, b"", b"p", None)

        asyncio.new_event_loop().run_until_complete(parse())
        self.assertEqual(got, [("a", b"p"), ("\udcff", b"p"), ("a.b", b"p")])
        self.assertEqual(len(self.flushLoggedErrors()), 1)

    def test_pause(self):
        """No bytes are read while paused, whatever connection there is, until resumed."""
        client, done = FeedClient(), []

        class Connection:
            def get_protocol(self):
                return asyncio.StreamReaderProtocol(reader, loop=loop)

            def set_protocol(self, protocol):
                done.append("ours")

            def pause_reading(self):
                done.append("pause")

            def resume_reading(self):
                done.append("resume")

        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        reader = asyncio.StreamReader(loop=loop)
        transport = TcpTransport()
        transport._io_reader = reader
        transport._io_writer = asyncio.StreamWriter(Connection(), None, None, loop)
        client.pause()
        client.resume()
        client._read_directly(transport)
        client.pause()
        client._read_directly(transport)  # a reconnect
        client.resume()
        self.assertEqual(done, ["ours", "pause", "ours", "pause", "resume"])

    def test_private_names(self):
        """What is overridden or used of nats-py and asyncio is there."""
        for name in (
            "_process_msg",
            "_process_pong",
            "_read_loop",
            "is_connected",
            "_send_unsubscribe",
            "flush",
        ):
            self.assertTrue(hasattr(Client, name), name)
        self.assertTrue(hasattr(Client(), "_subs"))
        self.assertTrue(hasattr(Client(), "_pongs"))
        self.assertTrue(hasattr(Client(), "_transport"))
        self.assertTrue(hasattr(TcpTransport(), "_io_reader"))
        self.assertTrue(hasattr(TcpTransport(), "_io_writer"))
        loop = asyncio.new_event_loop()
        reader = asyncio.StreamReader(loop=loop)
        self.assertIsInstance(reader._buffer, bytearray)
        loop.close()
