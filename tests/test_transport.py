"""The write-through transport, over socket pairs and a reactor that only notes."""

import socket

from twisted.internet import error, tcp
from twisted.internet.abstract import FileDescriptor
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from odin.gateway.transport import Transport, sweep
from odin.process.listeners import listen


class NotingReactor:
    """Knows who wants to read and write; polls nothing."""

    def __init__(self):
        self.readers, self.writers, self.now = set(), set(), 0.0

    def addReader(self, each):
        self.readers.add(each)

    def addWriter(self, each):
        self.writers.add(each)

    def removeReader(self, each):
        self.readers.discard(each)

    def removeWriter(self, each):
        self.writers.discard(each)

    def seconds(self):
        return self.now

    def callLater(self, _delay, call, *args):
        call(*args)


class NotingProtocol:
    """Notes what the transport tells it."""

    def __init__(self):
        self.events, self.stays = [], False

    def fellBehind(self):
        self.events.append("behind")

    def caughtUp(self):
        self.events.append("caught up")

    def overflowed(self, pending):
        self.events.append(("overflowed", pending))

    def half_closed(self):
        self.events.append("half-closed")
        return self.stays

    def connectionLost(self, reason):
        self.events.append(("lost", reason.type))


class TransportTests(SynchronousTestCase):
    def setUp(self):
        self.ours, self.theirs = socket.socketpair()
        self.addCleanup(self.ours.close)
        self.addCleanup(self.theirs.close)
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.theirs.setblocking(False)
        self.reactor, self.protocol = NotingReactor(), NotingProtocol()
        kind = Transport.configured(
            self.reactor, read_bytes=2048, write_bytes=4096, max_pending=100_000
        )
        self.transport = kind(self.ours, self.protocol, None, None, 0, self.reactor)

    def received(self):
        """Everything that can be read on the other side now."""
        got = b""
        while True:
            try:
                got += self.theirs.recv(65536)
            except BlockingIOError:
                return got

    def fill(self):
        """Write until the kernel takes no more; returns what was written."""
        written = b""
        while not self.transport.behind:
            chunk = b"%08d" % len(written) * 100
            self.transport.write(chunk)
            written += chunk
        return written

    def drain(self):
        """Read, and let the transport write, until nothing is left."""
        got = self.received()
        while self.transport.behind:
            self.transport.doWrite()
            got += self.received()
        return got

    def test_writes_at_once(self):
        """A write with nothing waiting is in the kernel when it returns."""
        self.transport.write(b"hello")
        self.assertEqual((self.received(), self.transport.behind), (b"hello", False))
        self.assertEqual((self.reactor.writers, self.protocol.events), (set(), []))

    def test_behind_means_bytes_wait(self):
        """The connection is behind exactly while bytes wait, and says so once each way."""
        self.fill()
        self.assertTrue(self.transport.behind)
        self.assertGreater(self.transport.pending, 0)
        self.assertIn(self.transport, self.reactor.writers)
        self.assertIsNone(self.transport.sink)
        self.drain()
        self.assertEqual((self.transport.behind, self.transport.pending), (False, 0))
        self.assertIs(self.transport.sink, self.ours)
        self.assertEqual(self.protocol.events, ["behind", "caught up"])
        self.assertEqual(self.reactor.writers, set())

    def test_order_is_kept(self):
        """What is written while behind comes after what waits, byte for byte."""
        written = self.fill()
        for n in range(50):
            self.transport.write(b"<%d>" % n)
            written += b"<%d>" % n
        self.transport.writeSequence([b"a", b"b"])
        self.assertEqual(self.drain(), written + b"ab")

    def test_hold_keeps_the_rest(self):
        """What a direct send left over goes first, and only that."""
        self.transport.hold(b"abcdef", 2)
        self.transport.write(b"ghi")
        self.assertEqual(self.drain(), b"cdefghi")

    def test_held_bytes_are_shared(self):
        """What a send of a batch left over is no copy; neither is what a later write leaves."""
        batch = b"x" * 50_000
        self.transport.hold(batch, 10)
        self.assertIs(self.transport.dataBuffer, batch)
        self.transport.doWrite()
        self.assertTrue(self.transport.behind)
        self.assertIs(self.transport.dataBuffer, batch)
        self.transport.write(b"end")
        self.assertEqual(self.drain(), batch[10:] + b"end")

    def test_a_second_time_behind(self):
        """Falling behind again after catching up works as the first time."""
        for _ in range(3):
            written = self.fill()
            self.assertEqual(self.drain(), written)
        self.assertEqual(self.protocol.events, ["behind", "caught up"] * 3)

    def test_bound(self):
        """More than max_pending is told, with the number of bytes."""
        self.fill()
        self.transport.write(b"x" * 100_001)
        self.assertEqual(self.protocol.events[-1][0], "overflowed")
        self.assertGreater(self.protocol.events[-1][1], 100_000)

    def test_progress(self):
        """progress_at moves only when the kernel takes something, and is None at rest."""
        self.assertIsNone(self.transport.progress_at)
        self.reactor.now = 5.0
        self.fill()
        self.reactor.now = 9.0
        self.transport.doWrite()
        self.assertEqual(self.transport.progress_at, 5.0)
        self.transport.write(b"y" * 50_000)
        self.received()
        self.transport.doWrite()
        self.assertEqual(self.transport.progress_at, 9.0)
        self.drain()
        self.assertIsNone(self.transport.progress_at)

    def test_lose_connection_sends_what_waits(self):
        """loseConnection ends the connection only after the last byte."""
        written = self.fill()
        self.transport.loseConnection()
        got = self.received()
        while self.transport.doWrite() is None:
            got += self.received()
        self.assertEqual(got + self.received(), written)

    def test_peer_sends_no_more(self):
        """The end of what the peer sends is the end, unless the protocol has something to say."""
        done = Failure(error.ConnectionDone())
        self.protocol.stays = True
        self.theirs.shutdown(socket.SHUT_WR)
        self.assertIsInstance(self.transport.doRead(), error.ConnectionDone)
        self.transport.readConnectionLost(done)
        self.transport.write(b"still here")
        self.assertEqual((self.received(), self.protocol.events), (b"still here", ["half-closed"]))
        self.protocol.stays = False
        self.transport.readConnectionLost(done)
        self.assertEqual(self.protocol.events[2:], [("lost", error.ConnectionDone)])

    def test_connection_lost_once(self):
        """The end closes the socket, forgets the protocol, and tells it once."""
        self.fill()
        for _ in range(2):
            self.transport.connectionLost(Failure(error.ConnectionDone()))
        self.assertEqual(self.protocol.events, ["behind", ("lost", error.ConnectionDone)])
        self.assertEqual((self.transport.fileno(), self.ours.fileno()), (-1, -1))
        self.assertEqual((self.reactor.readers, self.reactor.writers), (set(), set()))
        self.transport.write(b"too late")
        self.assertFalse(self.transport.behind)
        self.assertEqual(self.transport.client, ("", 0))

    def test_peer_gone(self):
        """Writing to a peer that is gone raises nothing: the reactor reports the end."""
        self.theirs.close()
        self.transport.write(b"x")
        self.transport.write(b"y")

    def test_sweep(self):
        """A sweep sends to its slice, and names those that did not take all."""
        self.fill()
        pairs = [socket.socketpair() for _ in range(3)]
        for pair in pairs:
            for each in pair:
                each.setblocking(False)
                self.addCleanup(each.close)
        dead = socket.socket()
        dead.close()
        sinks = [pairs[0][0], self.ours, dead, pairs[1][0], pairs[2][0]]
        self.assertEqual(sweep(sinks, 0, 4, b"data"), [(1, 0)])
        self.assertEqual(pairs[0][1].recv(10), b"data")
        self.assertEqual(pairs[1][1].recv(10), b"data")
        self.assertRaises(BlockingIOError, pairs[2][1].recv, 10)
        self.assertIsNone(sweep(sinks, 3, 5, b"more"))

    def test_private_names(self):
        """The names of Twisted that the transport leans on are there."""
        for name in ("_writeDisconnected", "_tempDataBuffer", "_tempDataLen", "SEND_LIMIT"):
            found = hasattr(FileDescriptor, name) or name in (
                FileDescriptor.__init__.__code__.co_names
            )
            self.assertTrue(found, name)
        for name in ("_closeSocket", "_maybePauseProducer", "bufferSize", "doWrite", "reactor"):
            self.assertTrue(hasattr(tcp.Server, name) or name == "reactor", name)
        self.assertIs(tcp.Port.transport, tcp.Server)
        self.assertTrue(hasattr(tcp.Port, "_fromListeningDescriptor"))


class PortTests(SynchronousTestCase):
    def test_no_delay_is_inherited(self):
        """A message never waits for the acknowledgement of the one before (Nagle)."""
        listener = listen("127.0.0.1", 0)
        self.addCleanup(listener.close)
        with socket.create_connection(listener.getsockname()):
            listener.setblocking(True)
            accepted, _ = listener.accept()
            with accepted:
                self.assertTrue(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
