"""Plain HTTP on a connection: what is taken, one request at a time, and how it ends."""

import json

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from odin.gateway.plain import PlainHttp
from odin.gateway.websocket import OdinProtocol
from odin.inner import MOST_CONNECTIONS, InnerFactory, InnerTimes
from odin.web.answers import AnswerPage
from odin.web.health import Livez
from tests.connections import Peer, Server, frames, head
from tests.heads import HEADS, post, request

GET = request()
SLOW = request(b"/slow")


class SlowAnswers:
    """Answers when the test says so."""

    def __init__(self):
        self.asked = []

    def answer(self, page):
        self.asked.append(Deferred())
        return self.asked[-1]

    def give(self):
        self.asked.pop(0).callback((200, b"slow\n"))


class PlainTestCase(SynchronousTestCase):
    def setUp(self):
        self.server = Server()
        self.slow = SlowAnswers()
        self.server.site.mount({"slow": AnswerPage(self.slow, "slow")})
        self.peer = self.server.connect()

    def statuses(self, peer=None):
        """Of the answers since the last time."""
        data = (peer or self.peer).read()
        return [int(each.split()[0]) for each in data.split(b"HTTP/1.")[1:] for each in [each[2:]]]

    def arrive(self, *datas):
        """Reads of one turn; what is to run after it has not."""
        for data in datas:
            self.peer.protocol.dataReceived(data)

    def give(self):
        self.slow.give()
        self.server.turn()


class HeadTests(PlainTestCase):
    def test_each(self):
        """Whatever comes gets its status, is refused with a JSON error, and causes no traceback."""
        for status, data in HEADS:
            peer = self.server.connect()
            peer.send(data)
            answer = peer.read()
            self.assertEqual(int(answer.split()[1]), status, data[:100])
            if status not in (200, 405):
                self.assertTrue(json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"])
                self.assertEqual(peer.ended, "half-closed", data[:100])
        self.assertGreater(len(HEADS), 90)

    def test_in_pieces(self):
        """The same byte by byte."""
        for status, data in HEADS:
            peer = self.server.connect()
            for at in range(len(data)):
                if peer.ended is None:
                    peer.send(data[at : at + 1])
            self.assertEqual(int(peer.read().split()[1]), status, data[:100])

    def test_continue(self):
        """A client that asks first is told to go on, one that sends at once is not."""
        asking = post(b"Content-Length: 2", b"Expect: 100-Continue")
        self.peer.send(asking)
        self.assertEqual(self.peer.read(), b"HTTP/1.1 100 Continue\r\n\r\n")
        self.peer.send(b"{}")
        self.assertEqual(self.statuses(), [405])
        self.peer.send(asking + b"{}")
        self.assertEqual(self.statuses(), [405])
        self.peer.send(post(b"Content-Length: 99999999", b"Expect: 100-continue"))
        self.assertEqual(self.statuses(), [413])


class NamesTests(SynchronousTestCase):
    def test_nobody_elses(self):
        """It takes no name away from what a WebSocket is made of, Autobahn's least of all."""
        shared = {"data", "factory", "transport", "asks_upgrade"}
        own = {name for name in vars(PlainHttp) if not name.startswith("__")} - shared
        for kind in OdinProtocol.__mro__:
            if kind is not PlainHttp:
                self.assertEqual(
                    own & (set(vars(kind)) | set(vars(kind).get("__slots__", ()))), set()
                )


class TurnTests(PlainTestCase):
    """One answer a turn."""

    def test_one_a_turn(self):
        """Of many requests in one read one is answered; the next in a later turn, in order."""
        self.arrive(GET + SLOW + GET * 50)
        self.assertEqual(self.statuses(), [200])
        self.server.turn()
        self.assertEqual((self.statuses(), len(self.slow.asked)), ([], 1))
        self.slow.give()
        self.assertEqual(self.statuses(), [200])
        for _ in range(50):
            self.assertEqual(len(self.server.soon), 1)
            self.server.soon.pop()()
            self.assertEqual(self.statuses(), [200])
        self.server.turn()
        self.assertEqual(self.statuses(), [])

    def test_what_waits_is_bounded(self):
        """While an answer is on its way one more read is taken, and then none."""
        self.arrive(SLOW)
        self.assertTrue(self.peer.transport.reading)
        self.arrive(GET * 3)
        self.assertFalse(self.peer.transport.reading)
        self.give()
        self.assertEqual(self.statuses(), [200] * 4)
        self.assertTrue(self.peer.transport.reading)

    def test_unread_answers(self):
        """Nothing is answered while the answer before has not left."""
        self.peer.transport.behind = True
        self.peer.protocol.fellBehind()
        self.arrive(GET * 2)
        self.server.turn()
        self.assertEqual(self.statuses(), [200])
        self.arrive(GET * 2)
        self.assertFalse(self.peer.transport.reading)
        self.peer.transport.behind = False
        self.peer.protocol.caughtUp()
        self.server.turn()
        self.assertEqual(self.statuses(), [200] * 3)
        self.assertTrue(self.peer.transport.reading)

    def test_upgrade_in_the_same_read(self):
        """A request and an upgrade in one segment: an answer, then 101, and it is read from."""
        self.arrive(GET + head())
        self.arrive(b"")
        self.server.turn()
        answer = self.peer.read()
        self.assertEqual(answer.count(b"HTTP/1.1 200"), 1)
        self.assertEqual(answer.count(b"HTTP/1.1 101"), 1)
        self.assertTrue(self.peer.transport.reading)
        self.assertEqual(self.peer.protocol.__dict__, {})  # as any other WebSocket
        self.peer.say(type="ping", id=1)
        self.assertEqual(json.loads(frames(self.peer.read())[0][1])["id"], 1)

    def test_error_behind_an_answer(self):
        """A bad request behind one that waits gets its status once it is its turn."""
        for data, status in ((post(b"Content-Length: 99999999"), 413), (b"nonsense\r\n\r\n", 400)):
            self.peer = self.server.connect()
            self.arrive(SLOW, data)
            self.give()
            self.assertEqual((self.statuses(), self.peer.ended), ([200, status], "half-closed"))
            self.assertTrue(self.peer.transport.reading)  # so that no reset takes the answer away

    def test_last_answer(self):
        """Nothing that comes behind the last request is answered."""
        self.arrive(request(b"/livez", b"Connection: close") + GET)
        self.server.turn()
        self.assertEqual((self.statuses(), self.peer.ended), ([200], "lost"))


class TimeTests(PlainTestCase):
    """Deadlines: 5 s for a request, 60 between two."""

    def test_absolute(self):
        """A later request has one deadline for head and body, which no byte moves."""
        self.peer.send(GET)
        data = post(b"Content-Length: 100")
        for at in range(0, len(data), 8):
            self.server.advance(0.25)
            self.peer.send(data[at : at + 8])
        self.assertIsNone(self.peer.ended)
        for _ in range(16):
            self.server.advance(0.25)
            if self.peer.ended is None:
                self.peer.send(b"x")
        self.assertEqual(self.peer.ended, "lost")

    def test_behind_an_answer(self):
        """One that came while another was answered has its deadline from its turn on."""
        self.arrive(SLOW, b"GET /livez")
        self.server.advance(20)
        self.assertIsNone(self.peer.ended)
        self.give()
        self.server.advance(4)
        self.assertIsNone(self.peer.ended)
        self.server.advance(2)
        self.assertEqual(self.peer.ended, "lost")

    def test_idle(self):
        """A connection that is kept ends after a minute; empty lines are nothing."""
        self.peer.send(GET)
        for _ in range(19):
            self.server.advance(3)
            self.peer.send(b"\r\n")
        self.assertIsNone(self.peer.ended)
        self.server.advance(4)
        self.assertEqual(self.peer.ended, "lost")

    def test_at_the_last_moment(self):
        """A request that is whole when its deadline comes is answered."""
        self.arrive(SLOW)
        self.peer.protocol.due()
        self.give()
        self.assertEqual((self.statuses(), self.peer.ended), ([200], None))

    def test_answering(self):
        """An answer may take its time."""
        self.arrive(SLOW)
        self.server.advance(300)
        self.give()
        self.assertEqual((self.statuses(), self.peer.ended), ([200], None))


class HalfCloseTests(PlainTestCase):
    """The peer sends no more (nc -N)."""

    def test_nothing_to_come(self):
        """Without an answer to come the connection ends: at once, in a request, as a WebSocket."""
        for data in (b"", b"GET /li", post(b"Content-Length: 9"), GET, head()):
            peer = self.server.connect()
            peer.send(data)
            self.assertFalse(peer.protocol.half_closed())

    def test_answer_to_come(self):
        """The answer comes, and those to what was sent before, then the end."""
        self.arrive(SLOW, GET)
        self.assertTrue(self.peer.protocol.half_closed())
        self.give()
        self.assertEqual((self.statuses(), self.peer.ended), ([200, 200], "lost"))

    def test_unfinished_behind_it(self):
        """What can never be whole is not waited for."""
        self.arrive(SLOW, b"GET /li")
        self.assertTrue(self.peer.protocol.half_closed())
        self.give()
        self.assertEqual((self.statuses(), self.peer.ended), ([200], "lost"))

    def test_upgrade_behind_it(self):
        """A WebSocket that can say nothing any more ends."""
        self.arrive(SLOW, head())
        self.assertTrue(self.peer.protocol.half_closed())
        self.give()
        self.assertEqual(self.peer.ended, "lost")

    def test_gone(self):
        """A connection that is lost while it waits is forgotten."""
        self.arrive(SLOW, GET)
        self.peer.lose()
        self.give()
        self.assertEqual((self.statuses(), self.server.factory.transports), ([], 0))


class InnerTests(PlainTestCase):
    """The internal listener: the same, without WebSockets."""

    def setUp(self):
        super().setUp()
        server = self.server
        server.site.mount({"livez": Livez()})
        factory = InnerFactory(server.site.exchange, server.wheel, InnerTimes(5, 3), server.clock)
        factory.later = server.soon.append
        server.factory = factory
        self.peer = Peer(server)

    def test_heads(self):
        """It takes and refuses the same."""
        for status, data in HEADS:
            peer = Peer(self.server)
            peer.send(data)
            self.assertEqual(int(peer.read().split()[1]), status, data[:100])
            peer.lose()

    def test_no_upgrade(self):
        """It has no WebSockets."""
        self.peer.send(head())
        self.assertEqual(self.statuses(), [426])
        self.peer.send(head("/livez"))
        self.assertEqual(self.statuses(), [200])

    def test_deadlines(self):
        """A head, a body and a peer that does not read have an end."""
        for data in (b"", b"GET /li", post(b"Content-Length: 9", body=b"x")):
            peer = Peer(self.server)
            peer.send(data)
            self.server.advance(6)
            self.assertIsNotNone(peer.ended, data)
        self.peer = Peer(self.server)
        self.peer.transport.behind = True
        self.arrive(GET)
        self.peer.protocol.fellBehind()
        self.server.advance(4)
        self.assertEqual(self.peer.ended, "lost")
        self.server.advance(6)
        self.assertEqual(self.peer.ended, "aborted")

    def test_refused_and_slow(self):
        """A refusal that waits to be read has its end, too, once it has left."""
        self.peer.transport.behind = True
        self.arrive(b"nonsense\r\n\r\n")
        self.peer.protocol.fellBehind()
        self.peer.transport.behind = False
        self.peer.protocol.caughtUp()
        self.server.advance(4)
        self.assertEqual(self.peer.ended, "aborted")

    def test_catching_up(self):
        """One that reads in time goes on."""
        self.peer.transport.behind = True
        self.arrive(GET + GET)
        self.peer.protocol.fellBehind()
        self.server.advance(2)
        self.peer.transport.behind = False
        self.peer.protocol.caughtUp()
        self.server.advance(4)
        self.assertEqual((self.statuses(), self.peer.ended), ([200, 200], None))

    def test_room(self):
        """It has room for so many."""
        factory = self.server.factory
        peers = [Peer(self.server) for _ in range(MOST_CONNECTIONS - 1)]
        self.assertEqual(factory.room, 0)
        self.assertIn(b" 503 ", factory.refusal())
        peers[0].lose()
        self.assertEqual(factory.room, 1)
