"""The nested reactor."""

import asyncio
import socket
import time

from twisted.internet import defer, reactor
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.trial.unittest import SynchronousTestCase, TestCase

from odin.process import reactors


class NamesTests(SynchronousTestCase):
    def test_borrowed_names(self):
        """What the nested reactor borrows from EPollReactor is there."""
        for name in (
            "_POLL_DISCONNECTED", "_POLL_IN", "_POLL_OUT", "_add", "_remove", "_doReadOrWrite",
            "addReader", "addWriter", "removeReader", "removeWriter", "removeAll",
            "getReaders", "getWriters",
        ):  # fmt: skip
            self.assertTrue(hasattr(EPollReactor, name), name)

    def test_monotonic(self):
        """The reactor's clock does not follow the wall clock."""
        self.assertLess(abs(reactor.seconds() - time.monotonic()), 60)

    def test_call_soon_without_asyncio(self):
        """A reactor without an asyncio loop gets callLater instead."""
        calls = []

        class Plain:
            def callLater(self, delay, call):
                calls.append((delay, call))

        reactors.call_soon(Plain())(print)
        self.assertEqual(calls, [(0, print)])
        self.assertIsNone(reactors.event_loop(Plain()))


class BothWorldsTests(TestCase):
    def test_installed(self):
        """The tests run on the reactor that Odin runs on."""
        self.assertIsInstance(reactor, reactors.Reactor)

    async def test_asyncio_and_twisted_share_a_thread(self):
        """asyncio tasks run while Twisted's sockets are served."""
        received = defer.Deferred()

        class Echo(Protocol):
            def dataReceived(self, data):
                self.transport.write(data)

        class Once(Protocol):
            def connectionMade(self):
                self.transport.write(b"ping")

            def dataReceived(self, data):
                self.transport.loseConnection()
                received.callback(data)

        port = reactor.listenTCP(0, Factory.forProtocol(Echo), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        reactor.connectTCP("127.0.0.1", port.getHost().port, ClientFactory.forProtocol(Once))
        loop = reactors.event_loop(reactor)
        slept = defer.Deferred.fromFuture(
            asyncio.ensure_future(asyncio.sleep(0.01, "slept"), loop=loop)
        )
        self.assertEqual(await slept, "slept")
        self.assertEqual(await received, b"ping")

    async def test_hang_up_is_reported(self):
        """A peer that resets is reported as lost, and leaves nothing in the poller."""
        lost = defer.Deferred()

        class Server(Protocol):
            def connectionLost(self, reason):
                lost.callback(None)

        port = reactor.listenTCP(0, Factory.forProtocol(Server), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        client = socket.create_connection(("127.0.0.1", port.getHost().port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        reactor.callLater(0.01, client.close)
        await lost
