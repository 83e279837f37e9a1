"""Both ends of a hand-over, on a clock, over a real socket pair, with real descriptors."""

import itertools
import os
import socket

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from odin.process.channel import Channel, content, pair
from odin.process.handover import Giver, Hello, Taker, Want
from tests.test_transport import NotingReactor


class Reactor(Clock, NotingReactor):
    """A clock; `turn` serves every descriptor until nothing comes any more."""

    def __init__(self):
        Clock.__init__(self)
        self.readers, self.writers = set(), set()

    def turn(self, seconds=0.0):
        self.advance(seconds)
        for _ in range(20):
            for each in list(self.readers):
                why = each.doRead()
                if why is not None:
                    each.connectionLost(why)
            for each in list(self.writers):
                each.doWrite()
            self.advance(0)


class Server:
    """A server with clients that are names with sockets; it does what it is told, and notes it."""

    def __init__(self, clients=()):
        self.here = dict(clients)
        self.busy, self.stuck, self.done = set(), set(), []
        self.relayed, self.parts, self.late, self.leaving = [], [], False, []
        self.opening = lambda _passed_s: False
        self.whole, self.space, self.endpoints = True, 1000, {}

    def note(self, *what):
        self.done.append(what if len(what) > 1 else what[0])

    # -- the old worker

    def hello(self):
        return Hello(["token"], {"user": 1.0})

    def numbered(self):
        return 7

    def feed(self, fence):
        self.note("feed", fence)
        return [("feed", 3), ("nonces", [1])]

    def flush(self, send):
        if self.relayed:
            send("relayed", self.relayed)
            self.relayed = []

    def stop_recording(self):
        self.note("stopped")

    def unbroken(self):
        return self.whole

    def release(self, *, pass_on):
        self.note("released")
        return self.endpoints if pass_on else {}

    def candidates(self):
        free = [each for each in self.here if each not in self.busy | self.stuck]
        return free, sorted(self.stuck), sorted(self.busy)

    def connections(self):
        return len(self.here)

    def loosen(self, names, most):
        loose = [(name, self.here.pop(name)) for name in itertools.islice(names, most)]
        return loose, [name for name, _ in loose], [sock.fileno() for _, sock in loose]

    def let_go(self, loose):
        for _, sock in loose:
            sock.close()

    def take_back(self, loose):
        self.here.update(loose)

    def drain(self, names, over_s):
        self.note("drain", sorted(names), over_s)
        self.leaving.append((sorted(names), Deferred()))
        return self.leaving[-1][1]

    def leave(self):
        """Those who are drained are gone."""
        for names, gone in self.leaving:
            for each in names:
                self.here.pop(each).close()
                self.busy.discard(each)
                self.stuck.discard(each)
            gone.callback(len(names))
        self.leaving.clear()

    # -- the new worker

    def inherit(self, endpoints):
        self.inherited = {number: socket.socket(fileno=fd) for number, fd in endpoints.items()}

    def greet(self, hello):
        self.note("hello", hello.tokens, hello.users)

    def note_number(self, numbered):
        self.done.append(("numbered", numbered))

    def room(self):
        return self.space

    def take_feed(self, kind, raw):
        self.parts.append((kind, content(raw)))
        return kind in ("feed", "nonces", "relayed")

    def ahead(self, _raw):
        return self.late

    def settle(self, raw, sockets):
        self.here.update(zip(content(raw), sockets, strict=True))

    def lead(self, *, unbroken=True):
        self.note("leads" if unbroken else "leads a broken feed")

    def forget(self):
        self.note("forgets")


class Puppet:
    """One end of the channel, played by the test."""

    def __init__(self, reactor, sock):
        self.got, self.descriptors, self.lost = [], [], False
        self.channel = Channel(reactor, sock, self.received, self.gone)
        self.send, self.die = self.channel.send, self.channel.close

    def received(self, kind, raw, descriptors):
        self.got.append((kind, content(raw)))
        self.descriptors += [socket.socket(fileno=each) for each in descriptors]

    def gone(self):
        self.lost = True

    @property
    def kinds(self):
        return [kind for kind, _ in self.got]


class HandoverTestCase(SynchronousTestCase):
    def setUp(self):
        self.reactor, self.told, self.peers = Reactor(), [], {}
        self.ours, self.theirs = pair()
        for each in (self.ours, self.theirs):
            self.addCleanup(each.close)

    def tell(self, *event):
        self.told.append(event)

    def clients(self, *names):
        """A server's end of a connection each; the other ends are in `peers`."""
        found = {}
        for name in names:
            found[name], self.peers[name] = socket.socketpair()
            self.peers[name].setblocking(False)
            for each in (found[name], self.peers[name]):
                self.addCleanup(each.close)
        return found

    def served_by(self, name, server):
        """Whether a client is there, and somebody has its other end."""
        server.here[name].send(b"hello " + name.encode())
        return self.peers[name].recv(100) == b"hello " + name.encode()

    def ended(self, name):
        try:
            return self.peers[name].recv(1) == b""
        except BlockingIOError:
            return False


class BothTests(HandoverTestCase):
    """A giver and a taker."""

    def begin(self, *names, fence=b"f"):
        self.old, self.new = Server(self.clients(*names)), Server()
        self.giver = Giver(self.reactor, self.old, self.ours, self.tell)
        self.taker = Taker(self.reactor, self.new, self.theirs, fence=fence, tell=self.tell)

    def test_everybody_moves(self):
        """State, clients, end: all are with the new one, and nothing is left open here."""
        names = [f"c{n:03}" for n in range(230)]  # three messages
        self.begin(*names)
        self.old.relayed = ["a message"]
        self.reactor.turn()
        self.assertEqual((self.old.here, sorted(self.new.here)), ({}, names))
        self.assertTrue(all(self.served_by(each, self.new) for each in names))
        self.assertEqual(self.old.done, [("feed", b"f"), "released", "stopped"])
        hello = ("hello", ["token"], {"user": 1.0})
        self.assertEqual(self.new.done[:3], [hello, ("numbered", 7), "leads"])
        parts = [("feed", 3), ("nonces", [1]), ("relayed", ["a message"])]
        self.assertEqual(self.new.parts, parts)
        expected = [("synced", None), ("released", None), ("taken", 230), ("given", 230)]
        self.assertEqual(list(dict.fromkeys(self.told)), expected)
        self.assertEqual((self.reactor.readers, self.reactor.writers), (set(), set()))
        self.reactor.advance(60)
        self.assertIn("forgets", self.new.done)

    def test_the_feed_goes_on_while_some_leave(self):
        """Those who moved get it from the new one, as long as others take to leave."""
        self.begin("a", "b")
        self.old.stuck = {"b"}
        self.reactor.turn()
        self.assertEqual(list(self.new.here), ["a"])
        self.old.relayed = ["a message"]
        self.reactor.turn(1)
        self.reactor.turn(1)
        self.assertEqual(self.new.parts[-1], ("relayed", ["a message"]))
        self.old.leave()
        self.reactor.turn(1)
        self.assertIn(("given", 1), self.told)

    def test_endpoints(self):
        """Listening sockets go with their numbers, before the new one accepts anybody."""
        self.begin("a")
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        self.old.endpoints = {2: listener.fileno()}
        self.reactor.turn()
        (number,), (sock,) = self.new.inherited.keys(), self.new.inherited.values()
        self.addCleanup(sock.close)
        self.assertEqual((number, sock.getsockname()), (2, listener.getsockname()))

    def test_a_broken_feed(self):
        """The new one knows whether the old one has missed something."""
        self.begin("a")
        self.old.whole = False
        self.reactor.turn()
        self.assertIn("leads a broken feed", self.new.done)

    def test_no_feed_wanted(self):
        """A successor with a numbering of its own gets none."""
        self.begin("a", fence=None)
        self.reactor.turn()
        self.assertEqual((self.new.parts, sorted(self.new.here)), ([], ["a"]))
        self.assertNotIn(("feed", None), self.old.done)

    def test_nobody_is_there(self):
        """Without clients it is over at once."""
        self.begin()
        self.reactor.turn()
        self.assertIn(("given", 0), self.told)

    def test_busy_ones_move_when_they_rest(self):
        """Who is in the middle of something is looked at again; the feed is relayed meanwhile."""
        self.begin("a", "b")
        self.old.busy = {"b"}
        self.reactor.turn()
        self.assertEqual((list(self.old.here), list(self.new.here)), (["b"], ["a"]))
        self.old.relayed = ["meanwhile"]
        self.reactor.turn(0.1)
        self.assertEqual(self.new.parts[-1], ("relayed", ["meanwhile"]))
        self.old.busy.clear()
        self.reactor.turn(0.1)
        self.assertEqual((list(self.old.here), list(self.new.here)), ([], ["a", "b"]))
        self.assertIn(("given", 2), self.told)

    def test_patience_ends(self):
        """Who never comes to rest is drained, shortly, and then it is over."""
        self.begin("a", "b")
        self.old.busy = {"b"}
        self.reactor.turn()
        for _ in range(19):
            self.reactor.turn(0.5)
        self.assertEqual(self.old.leaving, [])
        self.reactor.turn(0.5)
        self.assertEqual(self.old.done[-1], ("drain", ["b"], 0.5))
        self.assertNotIn("leads", self.new.done)
        self.old.leave()
        self.reactor.turn(0.1)
        self.assertTrue(self.ended("b"))
        self.assertIn("leads", self.new.done)
        self.assertIn(("given", 1), self.told)

    def test_those_who_never_can(self):
        """They are drained once, from the start; the others move and nobody waits for patience."""
        self.begin("a", "b", "c")
        self.old.stuck = {"b"}
        self.reactor.turn()
        self.assertEqual(list(self.new.here), ["a", "c"])
        self.reactor.turn(1)
        drains = [each for each in self.old.done if each[0] == "drain"]
        self.assertEqual(drains, [("drain", ["b"], 5.0)])
        self.old.leave()
        self.reactor.turn(1)
        self.assertIn(("given", 2), self.told)

    def test_handshakes_under_way(self):
        """It does not end while connections may still become clients."""
        self.begin()
        self.old.opening = lambda passed_s: passed_s < 1
        self.reactor.turn()
        self.old.here = self.clients("late")
        self.reactor.turn(0.5)
        self.assertEqual(list(self.new.here), ["late"])
        self.assertNotIn("stopped", self.old.done)
        self.reactor.turn(0.5)
        self.assertIn(("given", 1), self.told)


class GiverTests(HandoverTestCase):
    """The taker dies, or talks nonsense: what it has not acknowledged is served here."""

    bodies = {"want": Want(b"f"), "room": 1000, "took": 1000}

    def begin(self, *names):
        self.old = Server(self.clients(*names))
        self.giver = Giver(self.reactor, self.old, self.ours, self.tell)
        self.taker = Puppet(self.reactor, self.theirs)

    def wait(self, seconds):
        """Time passes, and this process runs all the while."""
        for _ in range(int(seconds * 10)):
            self.reactor.turn(0.1)

    def follow(self, *steps):
        """Say these, one at a time."""
        for each in steps:
            self.taker.send(each, self.bodies.get(each))
            self.reactor.turn()

    def assertKept(self, *names):
        self.assertEqual(sorted(self.old.here), list(names))
        self.assertTrue(all(self.served_by(each, self.old) for each in names))
        self.assertEqual(self.told[-1], ("kept", len(names)))
        self.assertEqual([each for each, _ in self.told].count("kept"), 1)
        self.assertIn("stopped", self.old.done)
        self.assertEqual(self.reactor.readers, set())

    def test_the_taker_dies(self):
        """At whatever step: before its wish, in the state, before, between and after clients."""
        names = [f"c{n:03}" for n in range(150)]  # two messages
        for steps, kinds, left in (
            ((), [], names),
            (("want",), ["hello", "feed", "nonces", "caught-up"], names),
            (("want", "synced"), ["numbered"], names),
            (("want", "synced", "noted", "room"), ["clients"], names),
            (("want", "synced", "noted", "room", "took"), ["clients"], names[100:]),
            (("want", "synced", "noted", "room", "took", "took"), ["end"], []),
        ):
            self.setUp()
            self.begin(*names)
            self.follow(*steps)
            self.assertEqual(self.taker.kinds[-len(kinds) :] if kinds else [], kinds)
            for each in self.taker.descriptors:
                each.close()
            self.taker.die()
            self.reactor.turn()
            self.assertKept(*left)
            self.assertEqual(("released", None) in self.told, "noted" in steps)
            self.assertTrue(all(self.ended(each) for each in names if each not in left))
            self.reactor.turn(60)
            self.assertEqual(self.told[-1], ("kept", len(left)))

    def test_the_feed_goes_first(self):
        """What was published before clients go, or before the end, is relayed before that."""
        self.begin("a")
        self.follow("want")
        self.old.relayed = ["one"]
        self.follow("synced", "noted", "room")
        self.assertEqual(self.taker.kinds[-2:], ["relayed", "clients"])
        self.old.relayed = ["two"]
        self.follow("took")
        self.assertEqual(self.taker.got[-2:], [("relayed", ["two"]), ("end", True)])
        self.assertIn("stopped", self.old.done)
        self.follow("leads")
        self.assertEqual(self.told, [("released", None), ("given", 1)])

    def test_it_acknowledges_and_dies(self):
        """An acknowledgement that was not read yet counts: those clients are gone."""
        self.begin("a", "b")
        self.follow("want", "synced", "noted", "room")
        for each in self.taker.descriptors:
            each.close()
        self.taker.send("took", 1000)
        self.taker.die()
        self.reactor.turn()
        self.assertKept()
        self.assertTrue(self.ended("a") and self.ended("b"))

    def test_it_dies_while_it_is_looked_for_others(self):
        """Those who were not at rest are still here, too."""
        self.begin("a", "b")
        self.old.busy = {"b"}
        self.follow("want", "synced", "noted", "room", "took")
        self.taker.die()
        self.reactor.turn(0.1)
        self.assertKept("b")

    def test_no_room(self):
        """Nobody is sent for whom the new worker has no descriptor: they are let go."""
        self.begin("a", "b", "c")
        self.bodies = self.bodies | {"room": 2, "took": 0}
        self.follow("want", "synced", "noted", "room")
        self.assertEqual(self.taker.got[-1], ("clients", ["a", "b"]))
        self.bodies["room"] = 0
        self.follow("took", "room")
        self.assertEqual(self.old.done[-1][:2], ("drain", ["c"]))

    def test_enough(self):
        """Told to stop, it waits for the answer to those who are on their way, and keeps the rest."""
        names = [f"c{n:03}" for n in range(150)]
        self.begin(*names)
        self.follow("want", "synced", "noted", "room")
        over = self.giver.stop()
        self.reactor.turn()
        self.assertNoResult(over)
        self.follow("took")
        self.assertEqual(self.taker.kinds[-1], "end")
        self.follow("leads")
        self.successResultOf(over)
        self.assertEqual(self.told[-1], ("kept", 50))
        self.assertEqual(sorted(self.old.here), names[100:])

    def test_enough_without_answer(self):
        """It does not wait for ever: two seconds for the answer, two for the end of the taker."""
        self.begin("a")
        over = self.giver.stop()
        self.wait(2.5)
        self.assertEqual(self.told, [("stuck", None)])
        self.assertNoResult(over)
        self.wait(2.5)
        self.successResultOf(over)
        self.assertKept("a")

    def test_no_answer(self):
        """At whatever step: the taker is called stuck, and must be dead before anybody is served
        here who may have been there."""
        for steps, patience_s in (
            ((), 5),
            (("want",), 20),
            (("want", "synced"), 5),
            (("want", "synced", "noted"), 5),
            (("want", "synced", "noted", "room"), 5),
            (("want", "synced", "noted", "room", "took"), 5),
        ):
            self.setUp()
            self.begin("a")
            self.follow(*steps)
            self.wait(patience_s - 0.5)
            self.assertNotIn(("stuck", None), self.told, steps)
            self.wait(1)
            self.assertEqual(self.told[-1], ("stuck", None), steps)
            on_its_way = steps[-1:] == ("room",)
            self.assertEqual("a" in self.old.here, not on_its_way and "took" not in steps)
            for each in self.taker.descriptors:
                each.close()
            self.taker.die()
            self.reactor.turn()
            self.assertKept(*(() if "took" in steps else ("a",)))
            self.assertEqual(self.told.count(("stuck", None)), 1)

    def test_it_answers_after_all(self):
        """What it had acknowledged before it was killed is not served here."""
        self.begin("a")
        self.follow("want", "synced", "noted", "room")
        self.wait(5.5)
        self.assertEqual(self.told[-1], ("stuck", None))
        for each in self.taker.descriptors:
            each.close()
        self.taker.send("took", 1000)
        self.taker.die()
        self.reactor.turn()
        self.assertKept()
        self.assertTrue(self.ended("a"))

    def test_a_state_that_nobody_reads(self):
        """The same while the state is on its way."""
        self.begin("a")
        self.old.feed = lambda _fence: [("feed", b"x" * (6 << 20)), ("nonces", [1])]
        self.taker.channel._reactor.readers.discard(self.taker.channel)  # it stands still
        self.taker.send("want", Want(b"f"))
        self.wait(19)
        self.assertEqual(self.told, [])
        self.wait(2)
        self.assertEqual(self.told, [("stuck", None)])
        self.taker.die()
        self.reactor.turn()
        self.assertKept("a")

    def test_it_stood_still_itself(self):
        """Then the taker, and clients that are not at rest, have their time anew."""
        self.begin("a", "b")
        self.old.busy = {"b"}
        self.follow("want", "synced", "noted", "room")
        self.reactor.turn(60)
        self.assertNotIn(("stuck", None), self.told)
        self.follow("took")
        self.reactor.turn(60)
        self.wait(5)
        self.assertEqual(self.old.leaving, [])
        self.wait(6)
        self.assertEqual([names for names, _ in self.old.leaving], [["b"]])

    def test_nonsense(self):
        """A message out of turn ends it as if the taker had died, and is logged."""
        for steps, nonsense in ((("want", "synced"), "synced"), ((), "took"), (("want",), "want")):
            self.setUp()
            self.begin("a")
            self.follow(*steps, nonsense)
            self.assertKept("a")
            self.assertTrue(self.taker.lost)
            self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_a_wish_that_is_none(self):
        """So does one that cannot be read."""
        self.begin("a")
        self.taker.send("want", 5)
        self.reactor.turn()
        self.assertKept("a")
        self.assertEqual(len(self.flushLoggedErrors(msgspec.ValidationError)), 1)


class TakerTests(HandoverTestCase):
    """The giver dies: who was acknowledged is served here, of the others nothing is left."""

    def begin(self, *names):
        self.old = self.clients(*names)
        self.new = Server()
        self.taker = Taker(self.reactor, self.new, self.theirs, fence=b"f", tell=self.tell)
        self.giver = Puppet(self.reactor, self.ours)

    def give(self, *names):
        self.giver.send("clients", names, [self.old[each].fileno() for each in names])
        for each in names:
            self.old[each].close()
        self.reactor.turn()

    def assertLeads(self, *names):
        self.assertEqual(sorted(self.new.here), list(names))
        self.assertTrue(all(self.served_by(each, self.new) for each in names))
        self.assertIn("leads", self.new.done)
        self.assertIn(("taken", len(names)), self.told)
        self.assertEqual(self.reactor.readers, set())

    def test_the_giver_dies(self):
        """At whatever step, the new worker leads with those it acknowledged."""
        hello = ("hello", Hello([], {}))
        for said, given in (
            ((), ()),
            ((hello,), ()),
            ((hello, ("feed", 3)), ()),
            ((hello, ("caught-up", None)), ()),
            ((hello, ("caught-up", None)), (("a", "b"),)),
            ((hello, ("caught-up", None)), (("a",), ("b",))),
        ):
            self.setUp()
            self.begin("a", "b")
            for each in said:
                self.giver.send(*each)
            for each in given:
                self.give(*each)
            self.reactor.turn()
            self.assertEqual(self.giver.kinds.count("took"), len(given))
            self.assertEqual(("synced", None) in self.told, len(said) == 2 and said[1][1] is None)
            self.assertNotIn("leads", self.new.done)
            self.giver.die()
            self.reactor.turn()
            self.assertLeads(*(name for names in given for name in names))

    def test_the_feed_comes_first(self):
        """Clients wait until the feed here is as far as theirs; then they are acknowledged."""
        self.begin("a")
        self.new.late = True
        self.give("a")
        self.reactor.turn(1)
        self.assertEqual((self.new.here, self.giver.kinds), ({}, ["want"]))
        self.new.late = False
        self.reactor.turn(0.1)
        self.assertEqual((list(self.new.here), self.giver.kinds), (["a"], ["want", "took"]))

    def test_acknowledged_first(self):
        """Nobody is served here before the giver can know that it must not."""
        self.begin("a")
        settle, known = self.new.settle, []

        def settled(raw, sockets):
            self.giver.channel.doRead()
            known.extend(self.giver.kinds)
            settle(raw, sockets)

        self.new.settle = settled
        self.give("a")
        self.assertEqual((known, list(self.new.here)), (["want", "took"], ["a"]))

    def test_it_dies_while_clients_wait(self):
        """Those that were not acknowledged are closed, once, and later nothing happens to them."""
        self.begin("a", "b")
        self.give("a")
        self.new.late = True
        self.give("b")
        self.giver.die()
        self.reactor.turn()
        self.assertLeads("a")
        self.assertTrue(self.ended("b"))
        free = os.dup(0)  # gets a number that was closed
        self.addCleanup(os.close, free)
        self.new.late = False
        self.reactor.turn(60)
        self.assertLeads("a")
        os.fstat(free)

    def test_a_feed_that_never_comes(self):
        """After some seconds it gives up: the giver keeps the clients, and this one leads."""
        self.begin("a")
        kept = self.old["a"].dup()
        self.addCleanup(kept.close)
        self.new.late = True
        self.give("a")
        for _ in range(300):
            self.reactor.turn(0.02)
        self.assertTrue(self.giver.lost)
        self.assertNotIn("took", self.giver.kinds)
        self.assertFalse(self.ended("a"))
        self.assertLeads()

    def test_nonsense(self):
        """An unknown message ends it as if the giver had died, and is logged."""
        self.begin()
        self.giver.send("nonsense")
        self.reactor.turn()
        self.assertTrue(self.giver.lost)
        self.assertLeads()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
