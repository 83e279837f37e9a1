"""A late feed slows newcomers down: Hub.pressed, and what a Port makes of it."""

import select
import socket

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from odin.delivery.hub import Hub
from odin.delivery.message import Message, notice
from odin.gateway.port import Port
from odin.gateway.transport import Transport
from odin.metrics import Metrics
from odin.process.listeners import listen
from tests.connections import Server, head
from tests.test_groups import Client
from tests.test_transport import NotingReactor

MESSAGE = Message("a", 1, b"x")


class HubTests(SynchronousTestCase):
    def setUp(self):
        self.clock, self.soon = Clock(), []
        self.clock.advance(1000)
        self.sweep_s = 0.0
        self.hub = self.make_hub()
        self.hub.register(Client(), frozenset(("a",)))

    def make_hub(self):
        seconds = self.clock.seconds
        return Hub(sweep=self.sweep, soon=self.soon.append, clock=seconds, meter=Metrics())

    def sweep(self, _sinks, _start, _stop, _data):
        self.clock.advance(self.sweep_s)

    def deliver(self):
        self.hub.deliver(MESSAGE, self.clock.seconds())

    def turn(self):
        self.soon.pop(0)()

    def test_what_leaves_with_the_round_under_way(self):
        """A message that a group takes along with older ones is not late once the round is over."""
        self.hub.register(Client(), frozenset(("b",)))
        self.sweep_s = 0.003  # more than a slice: one group in each turn
        self.hub.notify(b"n")
        self.turn()
        self.hub.deliver(Message("b", 1, b"x"), self.clock.seconds())
        while self.soon:
            self.turn()
        self.clock.advance(10)
        self.assertFalse(self.hub.pressed(0.02))
        self.assertEqual(self.hub.waiting, 0)

    def test_idle(self):
        """Without messages nothing is late, however long that lasts."""
        self.clock.advance(100)
        self.assertFalse(self.hub.pressed(0.02))

    def test_waiting(self):
        """A message that waits longer than that presses, whatever came after it."""
        self.deliver()
        self.clock.advance(0.0625)
        self.deliver()
        self.assertFalse(self.hub.pressed(0.0625))
        self.clock.advance(0.0625)
        self.assertTrue(self.hub.pressed(0.0625))

    def test_nobody_waits(self):
        """A message that nobody wants makes nothing late."""
        self.hub.deliver(Message("b", 1, b"x"), self.clock.seconds())
        self.clock.advance(10)
        self.assertFalse(self.hub.pressed(0.02))

    def test_a_round_under_way(self):
        """While a long round goes out its oldest message counts, not only the next round's."""
        for _ in range(64):  # a second chunk: there is a look at the clock between two
            self.hub.register(Client(), frozenset(("a",)))
        self.sweep_s = 0.125
        self.deliver()
        self.turn()
        self.assertEqual(len(self.soon), 1)
        self.assertTrue(self.hub.pressed(0.0625))
        self.deliver()
        self.assertTrue(self.hub.pressed(0.0625))
        self.assertFalse(self.hub.pressed(0.125))

    def test_remembered(self):
        """A round that was late presses for a quarter of a second, then no more."""
        self.deliver()
        self.clock.advance(0.0625)
        self.turn()
        self.assertEqual((self.hub.pressed(0.05), self.hub.pressed(0.0625)), (True, False))
        self.clock.advance(0.125)
        self.assertTrue(self.hub.pressed(0.05))
        self.clock.advance(0.125)
        self.assertFalse(self.hub.pressed(0.05))

    def test_forgiven(self):
        """The next round, if it is in time, ends it at once."""
        self.deliver()
        self.clock.advance(1)
        self.turn()
        self.deliver()
        self.turn()
        self.assertFalse(self.hub.pressed(0.02))

    def test_notices(self):
        """A notice to all is no message of the feed: it has no age."""
        self.hub.notify(notice(b"x").frame)
        self.clock.advance(10)
        self.assertFalse(self.hub.pressed(0.02))


class PortReactor(Clock, NotingReactor):
    """A clock that knows who wants to read, and polls nothing."""

    def __init__(self):
        Clock.__init__(self)
        self.readers, self.writers = set(), set()


class PortTests(SynchronousTestCase):
    """A port for a whole server whose feed is late; the kernel's queue is the real one."""

    def setUp(self):
        self.server, self.reactor = Server(), PortReactor()
        listener = listen("127.0.0.1", 0)
        self.address = listener.getsockname()
        kind = Transport.configured(
            self.reactor, read_bytes=4096, write_bytes=4096, max_pending=1 << 20
        )
        self.port = Port.on(listener, self.server.factory, kind, self.reactor)
        listener.close()
        self.addCleanup(self.close)
        self.server.open()  # somebody whom the feed is for

    def close(self):
        if self.port.connected:
            self.port.stopListening()
        self.reactor.advance(1)
        for each in list(self.reactor.readers):
            each.abortConnection()
        self.reactor.advance(1)

    def come(self, count):
        """So many newcomers, in the kernel's queue."""
        for _ in range(count):
            self.addCleanup(socket.create_connection(self.address).close)

    def press(self):
        """The feed is late, until `relieve`."""
        self.server.hub.deliver(Message("a", 1, b"x"), self.server.clock.seconds() - 1)
        self.assertTrue(self.server.factory.pressed)

    def relieve(self):
        self.server.turn()
        self.server.clock.advance(1)

    def poll(self):
        """One turn of a reactor, as far as the port goes; how many are accepted in it."""
        before = self.server.factory.transports
        if self.port in self.reactor.readers and select.select([self.port], [], [], 0.2)[0]:
            self.port.doRead()
        return self.server.factory.transports - before

    def test_in_time(self):
        """While the feed is in time all who wait are accepted, and the port goes on reading."""
        self.come(30)
        accepted = self.poll()
        self.assertGreater(accepted, 8)
        while accepted < 30:
            accepted += self.poll()
        self.assertIn(self.port, self.reactor.readers)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_few_at_a_time(self):
        """While it is late eight come in, then a pause, and so on; nobody is refused."""
        self.press()
        self.come(20)
        for _ in range(2):
            self.assertEqual(self.poll(), 8)
            self.assertNotIn(self.port, self.reactor.readers)
            self.assertEqual(self.poll(), 0)
            self.reactor.advance(0.01)
        self.assertEqual(self.poll(), 4)
        self.assertIn(self.port, self.reactor.readers)  # nobody waits: the next one needs not

    def test_read_at_once(self):
        """Who has sent a request already is answered in the turn that accepts it."""
        with (
            socket.create_connection(self.address) as client,
            socket.create_connection(self.address) as gone,
        ):
            client.sendall(head())
            gone.close()
            accepted = 0
            while accepted < 2:
                accepted += self.poll()
            client.settimeout(1)
            self.assertTrue(client.recv(100).startswith(b"HTTP/1.1 101"))

    def test_goes_on_afterwards(self):
        """Once the feed is in time again the rest comes in without pauses."""
        self.press()
        self.come(30)
        self.assertEqual(self.poll(), 8)
        self.relieve()
        self.reactor.advance(0.01)
        accepted = 0
        while accepted < 22:
            accepted += self.poll()
        self.assertIn(self.port, self.reactor.readers)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_closed_meanwhile(self):
        """A port that is closed during the pause stays closed."""
        self.press()
        self.come(10)
        self.poll()
        closed = self.port.stopListening()
        self.reactor.advance(1)
        self.successResultOf(closed)
        self.assertNotIn(self.port, self.reactor.readers)
        self.assertEqual(self.port.factory.transports, 9)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_closing_at_the_end_of_the_pause(self):
        """A port that is asked to close just before its pause ends accepts no more."""
        self.press()
        self.come(10)
        self.reactor.callLater(0.01, self.port.stopListening)
        self.poll()
        self.reactor.advance(0.01)
        self.assertEqual(self.poll(), 0)
        self.assertFalse(self.port.connected)
