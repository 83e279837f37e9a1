"""Messages between processes: whole, in order, with their own descriptors (odin.process.channel)."""

import gc
import os
import select
import socket
import struct

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from odin.process.channel import (
    MAX_DESCRIPTORS,
    Channel,
    ChannelBroken,
    Inbox,
    adopt,
    content,
    first_message,
    pair,
)

MESSAGES = st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 5)), max_size=8)


class Loop:
    """A reactor's part in it: reads and writes as long as there is something to do."""

    def __init__(self):
        self.readers, self.writers = set(), set()
        self.addReader, self.removeReader = self.readers.add, self.readers.discard
        self.addWriter, self.removeWriter = self.writers.add, self.writers.discard

    def run(self):
        for _ in range(5000):
            reads, writes, _ = select.select(self.readers, self.writers, (), 0)
            if not reads and not writes:
                return
            for act in [each.doRead for each in reads] + [each.doWrite for each in writes]:
                why = act()
                if why is not None:  # as twisted.internet.posixbase does it
                    self.removeReader(act.__self__)
                    self.removeWriter(act.__self__)
                    act.__self__.connectionLost(Failure(why))
        raise AssertionError("it does not come to rest")


class End:
    """A channel that notes what comes: (kind, content, inodes of the descriptors)."""

    def __init__(self, loop, sock, inbox=None):
        self.got, self.lost = [], 0
        self.channel = Channel(loop, sock, self.received, self.was_lost, inbox)

    def received(self, kind, raw, descriptors):
        self.got.append((kind, content(raw), inodes(descriptors)))
        for each in descriptors:
            os.close(each)

    def was_lost(self):
        self.lost += 1


def wire(kind, body, count=0):
    """A message as the module's docstring has it."""
    packed = msgspec.msgpack.encode((kind, body))
    return struct.pack(">IH", len(packed), count) + packed


def inodes(descriptors):
    return [os.fstat(each).st_ino for each in descriptors]


def in_use(expected=None):
    """How many descriptors this process has; what other tests have left is gone.

    If there are as many as expected nothing need be collected: that takes 20 ms.
    """
    count = len(os.listdir("/proc/self/fd"))
    if count == expected:
        return count
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


class ChannelTestCase(SynchronousTestCase):
    def setUp(self):
        self.loop = Loop()
        self.before = in_use()
        self.sock, other = pair()
        self.end = End(self.loop, other)
        self.addCleanup(self.sock.close)
        self.addCleanup(self.end.channel.close)

    def files(self, count):
        """Descriptors to send, each of another file."""
        made = [os.memfd_create("odin-test") for _ in range(count)]
        for each in made:
            self.addCleanup(os.close, each)
        return made

    def send(self, data, descriptors=()):
        socket.send_fds(self.sock, [data], descriptors)


class ReceivingTests(ChannelTestCase):
    @settings(deadline=None, max_examples=150)
    @given(MESSAGES, st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1))
    def test_cut_anywhere(self, messages, cuts):
        """Each comes once, in order, with its own descriptors, however the bytes are cut."""
        sock, other = pair()
        end, expected, cuts = End(self.loop, other), [], cuts * 400
        for number, (body, count) in enumerate(messages):
            data = wire(str(number), body, count)
            files = [os.memfd_create("odin-test") for _ in range(count)]
            expected.append((str(number), body, inodes(files)))
            while data:
                size, pause = cuts.pop()
                socket.send_fds(sock, [data[:size]], files)
                data = data[size:]
                while files:  # what travels lives on
                    os.close(files.pop())
                if pause:
                    self.loop.run()
        self.loop.run()
        self.assertEqual(end.got, expected)
        sock.close()
        self.loop.run()
        expected = self.before + 2
        self.assertEqual((end.lost, in_use(expected)), (1, expected))

    def test_several_in_one_read(self):
        """All that is there is handed over at once, what is not complete waits for its rest."""
        last = wire("c", {"x": [3]})
        self.send(wire("a", 1) + wire("b", None) + last[:-1])
        self.assertIsNone(self.end.channel.doRead())
        self.assertEqual(self.end.got, [("a", 1, []), ("b", None, [])])
        self.send(last[-1:])
        self.loop.run()
        self.assertEqual(self.end.got[2:], [("c", {"x": [3]}, [])])
        self.assertIsNone(self.end.channel.doRead())  # nothing there

    def test_closed_while_receiving(self):
        """Who closes on a message gets no other, and hears of no loss."""
        self.end.received = self.end.channel._received = lambda *_: (
            self.end.got.append(1),
            self.end.channel.close(),
        )
        self.send(wire("a", 1) + wire("b", 2))
        self.loop.run()
        self.assertEqual((self.end.got, self.end.lost, self.loop.readers), ([1], 0, set()))

    def test_broken(self):
        """What is no message ends the channel: what came before counts, nothing after it does."""
        (file,) = self.files(1)
        for data, descriptors in (
            (b"\xff" * 64, ()),
            (b"GET / HTTP/1.1\r\n\r\n", ()),
            (struct.pack(">IH", (256 << 20) + 1, 0), ()),
            (struct.pack(">IH", 500, MAX_DESCRIPTORS + 1), ()),
            (struct.pack(">IH", 0, 0), ()),
            (struct.pack(">IH", 2, 0) + b"\xc1\xc1", ()),
            (struct.pack(">IH", 5, 0) + msgspec.msgpack.encode([1, 2, 3, 4]), ()),
            (struct.pack(">IH", 3, 0) + msgspec.msgpack.encode((1, 2)), ()),
            (wire("no descriptor", 0, 1), ()),
            (wire("one of two", 0, 2), [file]),
            (wire("more than there is room for", 0, 1), [file] * 253),
        ):
            sock, other = pair()
            end = End(self.loop, other)
            sock.send(wire("good", 1))
            self.loop.run()
            socket.send_fds(sock, [data + wire("late", 2)], descriptors)
            self.loop.run()
            self.assertEqual((end.got, end.lost), ([("good", 1, [])], 1), data)
            self.assertFalse(end.channel.open)
            self.assertRaises(OSError, sock.send, b"x")
            sock.close()
        self.assertEqual(in_use(), self.before + 3)

    def test_not_understood(self):
        """A receiver's error is logged and ends the channel."""
        end = self.end
        end.channel._received = lambda kind, raw, _: content(raw, int)
        self.send(wire("a", 1) + wire("a", "one") + wire("a", 2))
        self.loop.run()
        self.assertEqual((end.lost, end.channel.open), (1, False))
        self.assertEqual(len(self.flushLoggedErrors(msgspec.ValidationError)), 1)

    def test_lost_once(self):
        """The end of the other side is told once, after its last words; our own is not told."""
        self.send(wire("bye", 1))
        self.sock.close()
        self.loop.run()
        self.end.channel.connectionLost(Failure(ConnectionError()))
        self.assertEqual((self.end.got, self.end.lost), ([("bye", 1, [])], 1))
        sock, other = pair()
        end = End(self.loop, other)
        end.channel.close()
        end.channel.close()
        sock.close()
        self.loop.run()
        self.assertIsNone(end.channel.doRead())
        end.channel.connectionLost(Failure(ConnectionError()))
        self.assertEqual((end.lost, self.loop.readers), (0, set()))

    def test_not_taken(self):
        """Descriptors of a message that was never complete, or of none, are closed at the end."""
        files = self.files(3)
        self.send(wire("none", 0), files[:1])
        self.send(wire("two", 0, 2)[:-1], files[1:])
        self.loop.run()
        self.assertEqual((self.end.got, in_use()), ([("none", 0, [])], self.before + 2 + 3 + 3))
        self.end.channel.close()
        self.assertEqual(in_use(), self.before + 1 + 3)

    def test_not_inherited(self):
        """What was received is not for the programs that this process starts."""
        seen = []
        self.end.channel._received = lambda _kind, _raw, descriptors: seen.extend(descriptors)
        self.send(wire("a", 0, 1), self.files(1))
        self.loop.run()
        self.assertFalse(os.get_inheritable(seen[0]))
        os.close(seen[0])


class SendingTests(ChannelTestCase):
    def test_more_than_the_kernel_takes(self):
        """What does not fit waits, and goes when there is room, descriptors with their message."""
        mine, files = End(self.loop, self.sock), self.files(2)
        self.loop.removeReader(self.end.channel)
        mine.channel.send("big", b"x" * 3_000_000, files[:1])
        waiting = mine.channel.waiting
        mine.channel.send("a", 1)
        mine.channel.send("b", 2, files[1:])
        self.loop.run()
        self.assertGreater(waiting, 1_000_000)
        self.assertGreater(mine.channel.waiting, waiting)
        self.assertEqual((self.loop.writers, self.end.got), ({mine.channel}, []))
        self.loop.addReader(self.end.channel)
        self.loop.run()
        self.assertEqual((mine.channel.waiting, self.loop.writers), (0, set()))
        self.assertEqual(
            self.end.got,
            [
                ("big", b"x" * 3_000_000, inodes(files[:1])),
                ("a", 1, []),
                ("b", 2, inodes(files[1:])),
            ],
        )

    def test_closed(self):
        """A closed channel sends nothing, nor what waited; the peer hears the end."""
        mine = End(self.loop, self.sock)
        mine.channel.send("big", b"x" * 3_000_000)
        mine.channel.close()
        self.assertEqual((mine.channel.waiting, self.loop.writers), (0, set()))
        mine.channel.send("late")
        self.loop.run()
        self.assertEqual((self.end.got, self.end.lost, mine.lost), ([], 1, 0))

    def test_peer_gone(self):
        """Sending to somebody who is gone is no error; the loss is told."""
        mine = End(self.loop, self.sock)
        self.end.channel.close()
        mine.channel.send("a", 1)
        self.assertEqual(mine.lost, 0)
        self.loop.run()
        self.assertEqual((mine.lost, mine.channel.open, self.loop.writers), (1, False, set()))


class BrokenTests(ChannelTestCase):
    def test_bad_descriptor(self):
        """A message that cannot be sent ends the channel: it does not spin for ever."""
        sock, other = pair()
        self.addCleanup(other.close)
        end = End(self.loop, sock)
        closed = os.open(os.devnull, os.O_RDONLY)
        os.close(closed)
        end.channel.send("x", None, [closed])
        self.loop.run()
        self.assertFalse(end.channel.open)


class FirstTests(ChannelTestCase):
    def test_hand_on(self):
        """The first message is waited for; what came with it is for the channel."""
        (file,) = self.files(1)
        sock, other = pair()
        second = wire("b", 2)
        sock.send(wire("a", 1) + second[:3])
        kind, raw, descriptors, inbox = first_message(other)
        self.assertEqual((kind, content(raw), descriptors), ("a", 1, []))
        end = End(self.loop, other, inbox)
        sock.send(second[3:])
        socket.send_fds(sock, [wire("c", 3, 1)], [file])
        self.loop.run()
        self.assertEqual(end.got, [("b", 2, []), ("c", 3, inodes([file]))])
        sock.close()
        end.channel.close()

    def test_whole_messages_wait(self):
        """What is complete in the inbox is heard at once, though nothing more comes."""
        sock, other = pair()
        self.addCleanup(sock.close)
        sock.send(wire("a", 1) + wire("b", 2))
        *_, inbox = first_message(other)
        end = End(self.loop, other, inbox)
        self.assertIsNone(end.channel.doRead())
        self.assertEqual(end.got, [("b", 2, [])])
        end.channel.close()

    def test_descriptors(self):
        """They come with the first message, too, and can be adopted as the sockets they are."""
        kind, listener = "begin", socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        sock, other = pair()
        socket.send_fds(sock, [wire(kind, None, 1)], [listener.fileno()])
        *_, descriptors, _inbox = first_message(other)
        adopted = adopt(*descriptors)
        self.assertEqual(adopted.getsockname(), listener.getsockname())
        self.assertFalse(adopted.getblocking())
        for each in (sock, other, adopted):
            each.close()

    def test_none(self):
        """Raises when there is no first message."""
        for data, error in ((b"", EOFError), (b"\0\0", EOFError), (b"\xff" * 9, ChannelBroken)):
            sock, other = pair()
            sock.send(data)
            sock.close()
            self.assertRaises(error, first_message, other)
            other.close()
        self.assertIsNone(Inbox().take())


class ReactorTests(TestCase):
    timeout = 10

    def test_real_reactor(self):
        """Two channels talk, one closes, the other is told."""
        (a, b), answered, lost = pair(), Deferred(), Deferred()
        first = Channel(reactor, a, lambda kind, raw, _: answered.callback(kind), None)
        second = Channel(
            reactor, b, lambda kind, raw, _: second.send("pong"), lambda: lost.callback(None)
        )
        first.send("ping")
        answered.addCallback(self.assertEqual, "pong")
        answered.addCallback(lambda _: first.close())
        return answered.addCallback(lambda _: lost)
