"""The feed goes over from one process to another: nothing lost, nothing twice, one numbering."""

from collections import Counter, deque
from itertools import product
from unittest import mock

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import succeed
from twisted.trial.unittest import SynchronousTestCase

from odin.bus import succession
from odin.bus.bridge import Bridge
from odin.bus.interfaces import FENCE
from odin.bus.memory import MemoryBus
from odin.bus.succession import SETTLE_S, FeedHead, Follower, Nonces, Predecessor, Relayed, Ring
from odin.delivery.history import Bounds, History
from odin.delivery.hub import Hub
from odin.delivery.nonces import NonceWindow
from odin.wire.frames import payload_of
from tests.connections import sweep
from tests.test_bus import NotingMeter

SUBJECTS = ("a", "c.d")
PLAIN = (b'{"v":1}', b"[2]")
NONCES = (b'{"nonce":"n","v":1}', b'{"nonce":"n"}', b'{"nonce":5}')
EARLY = (*PLAIN, *NONCES, b"not json")
LATE = (b'{"w":1}', b"[4]", b'{"nonce":"m","v":1}', b'{"nonce":"m"}')


class SharedBus(MemoryBus):
    """The seam to a broker that other processes have as well: the test is the broker."""

    shared = True

    def publish(self, subject, payload):
        self.published((subject, payload))
        return succeed(None)

    def published(self, each):
        pass


class Process:
    """The feed's side of one process."""

    def __init__(self, *, follows=False, messages=10_000, bus=SharedBus):
        self.now, self.notices, self.orders = 1000.0, [], []
        clock, meter = (lambda: self.now), NotingMeter()
        hub = Hub(sweep=sweep, soon=lambda _: None, clock=clock, meter=meter)
        hub.notify = lambda frame: self.notices.append(msgspec.json.decode(payload_of(frame)))
        self.bus = bus()
        self.bridge = Bridge(
            self.bus,
            hub,
            NonceWindow(600, 1000),
            History(Bounds(messages, 1 << 20, 600, 100, 1 << 20)),
            conflate=("c.*",),
            publishable=(">",),
            control=lambda *order: self.orders.append(order),
            clock=clock,
            wall=clock,
            meter=meter,
        )
        self.predecessor = Predecessor(self.bridge)
        self.follower = Follower(self.bus, self.bridge, follows=follows, clock=clock)

    @property
    def ring(self):
        """[(subject, offset, what the publisher said)] of the history."""
        ring = self.bridge.history.contents()[0]
        return [(each.channel, each.offset, _said(each)) for each in ring]

    def said(self):
        return [(subject, payload) for subject, _, payload in self.ring]

    def take(self, kind, body):
        """A message of the predecessor, as it is after its way between two processes."""
        take, cls = {
            "feed": (self.follower.adopt, FeedHead),
            "ring": (self.follower.fill, Ring),
            "nonces": (self.follower.know, Nonces),
            "relayed": (self.follower.relayed, Relayed),
        }[kind]
        take(msgspec.msgpack.decode(msgspec.msgpack.encode(body), type=cls))


def _said(message):
    rest = payload_of(message.frame).partition(b',"offset":')[2].partition(b",")[2] or b"}"
    return rest[len(b'"data":') : -1] if rest.startswith(b'"data":') else b"{" + rest


def plain(messages):
    """Those that are JSON and have no nonce: the ones that must all be there."""
    return [each for each in messages if each[1] != b"not json" and b"nonce" not in each[1]]


class Succession:
    """A broker, two processes and a channel between them; each of the three ways has its delay.

    `straight`: both sides get all messages in one order. Else only those of a subject keep
    theirs, also around the fence; then what is said before it is not said again much later, for
    that could be counted in two ways.
    """

    def __init__(self, draw, *, straight):
        self.draw, self.straight = draw, straight
        self.old, self.new = Process(), Process(follows=True)
        self.old.bus.startService()
        self.to_old, self.to_new, self.wire = {}, {}, deque()
        self.published, self.followed = [], []
        self.subscribed = self.gave = self.led = False
        self.pool = EARLY
        self.new.bus.published = self.send

    # -- what may happen at any time

    def things(self, *more):
        """Some of them, in any order."""
        things = (self.publish, self.publish, self.old_receives, self.new_receives, *more)
        for each in self.draw(st.lists(st.sampled_from(things), max_size=10)):
            each()

    def publish(self):
        self.send((self.draw(st.sampled_from(SUBJECTS)), self.draw(st.sampled_from(self.pool))))

    def send(self, each):
        if each[0] != FENCE:
            self.published.append(each)
        key = "all" if self.straight else each[0]
        self.to_old.setdefault(key, deque()).append(each)
        if self.subscribed:
            self.to_new.setdefault(key, deque()).append(each)

    def old_receives(self):
        self.receive(self.to_old, self.old.bridge)

    def new_receives(self):
        self.receive(self.to_new, self.new.follower)

    def receive(self, queues, receiver, most=4):
        queues = [each for each in queues.values() if each]
        for queue in queues if most > 4 else [self.draw(st.sampled_from(queues))] if queues else ():
            for _ in range(min(most, len(queue))):
                subject, payload = queue.popleft()
                if subject == FENCE:
                    receiver.controlled(subject, payload)
                else:
                    receiver.received(subject, payload)
                if receiver is self.new.follower:
                    fenced = subject == FENCE and not self.led
                    self.followed = [] if fenced else [*self.followed, (subject, payload)]

    def flush(self):
        self.old.predecessor.flush(lambda kind, body: self.wire.append((kind, body)))

    def arrive(self):
        for _ in range(min(2, len(self.wire))):
            self.new.take(*self.wire.popleft())

    # -- what happens in this order

    def run(self):
        self.things()
        self.old.predecessor.record()
        self.things()
        self.subscribed = True
        self.new.bus.startService()
        self.things()
        if self.draw(st.integers(0, 9)):
            self.settle()
            self.things()
            self.hand_over()
        self.lead()
        self.things()
        self.receive(self.to_new, self.new.follower, most=1 << 20)
        self.check()
        self.new.follower.forget()
        self.check_repeats()

    def settle(self):
        """Nothing is longer on its way than this."""
        assert not self.new.follower.ready
        self.receive(self.to_old, self.old.bridge, most=1 << 20)
        self.receive(self.to_new, self.new.follower, most=1 << 20)
        self.new.now += SETTLE_S + 0.1
        if not self.straight:
            self.pool = LATE

    def hand_over(self):
        """It ends as it should, or some of what was numbered is never relayed."""
        assert self.new.follower.ready
        self.wire.extend(self.old.predecessor.state(self.new.follower.fence))
        self.gave = True
        self.things(self.flush, self.arrive, self.arrive)
        self.things(self.flush, self.arrive, self.arrive)
        if self.draw(st.booleans()):
            self.flush()
        self.things(self.arrive)

    def lead(self):
        while self.wire:
            self.arrive()
        self.inherited = self.new.ring
        self.new.follower.lead()
        self.new.follower.lead()
        self.led = True

    # -- what must be

    def check(self):
        """What the new process sent, and can replay."""
        said, expected = self.new.said(), self.published if self.gave else self.followed
        for subject in SUBJECTS:
            mine, theirs = (
                [e for e in plain(them) if e[0] == subject] for them in (said, expected)
            )
            assert mine == theirs, (mine, theirs)
        for nonce, subject in product((b'"n"', b"5", b'"m"'), SUBJECTS):
            sent, wanted = (
                [e for e in them if e[0] == subject and b'"nonce":' + nonce in e[1]]
                for them in (said, expected)
            )
            assert len(sent) == bool(wanted), (subject, nonce)
        assert [offset for _, offset, _ in self.new.ring] == list(range(1, len(said) + 1))
        assert self.new.bridge.offset == self.new.bridge.history.head == len(said)
        last = self.new.bridge.history.contents()[2]
        assert {each.channel: _said(each) for each in last} == dict(said)
        if self.gave:
            assert self.new.bridge.epoch == self.old.bridge.epoch
            assert self.inherited == self.old.ring[: len(self.inherited)]

    def check_repeats(self):
        """After `forget` everything may be said again, as often as somebody likes."""
        expected = Counter(self.new.said())
        for each in [(subject, payload) for subject in SUBJECTS for payload in PLAIN] * 2:
            self.new.follower.received(*each)
            expected[each] += 1
        assert Counter(self.new.said()) == expected


class SuccessionTests(SynchronousTestCase):
    @settings(max_examples=200, deadline=None)
    @given(st.data(), st.booleans(), st.sampled_from((1, 100, 1 << 20)))
    def test_whatever_is_late(self, data, straight, chunk):
        """Each message once, the order of each subject, one numbering."""
        with mock.patch.object(succession, "_CHUNK", chunk):
            Succession(data.draw, straight=straight).run()


class FollowerTests(SynchronousTestCase):
    """A predecessor that has said something, and its successor, step by step."""

    def setUp(self):
        self.old, self.new = Process(messages=4), Process(follows=True)
        self.old.bus.startService()
        for n in range(6):
            self.old.now += 1
            self.old.bridge.received("a" if n else "c.first", b'{"n":%d}' % n)

    def follow(self, *relayed):
        """Up to date, and these are relayed."""
        self.old.predecessor.record()
        self.new.bus.startService()
        for kind, body in self.old.predecessor.state(self.new.follower.fence):
            self.new.take(kind, body)
        for each in relayed:
            self.old.bridge.received("a", each)
        self.old.predecessor.flush(self.new.take)

    def test_history(self):
        """Ring, floor, times and last values of channels are the same; replays go on."""
        self.patch(succession, "_CHUNK", 60)
        self.new = Process(follows=True, messages=4)
        self.new.now = self.old.now
        self.follow(b'{"n":6}')
        old, new = self.old.bridge.history, self.new.bridge.history
        self.assertEqual(new.contents(), old.contents())
        self.assertEqual((new.floor, new.head, len(new)), (3, 7, 4))
        self.assertTrue(new.contents()[2][0].conflate)
        self.assertEqual(len(new.replay(frozenset(("a",)), 4, 99)), 3)
        self.assertIsNone(new.replay(frozenset(("a",)), 2, 99))

    def test_cut_short(self):
        """The predecessor dies in the middle of its state: nobody can resume in what is not there."""
        self.old.predecessor.record()
        self.new.bus.startService()
        parts = self.old.predecessor.state(self.new.follower.fence)
        for kind, body in parts[:-1]:
            self.new.take(kind, body)
        self.new.follower.lead()
        self.assertNotEqual(self.new.bridge.epoch, self.old.bridge.epoch)
        self.assertIsNone(self.new.bridge.history.replay(frozenset(("a",)), 3, 99))

    def test_gap(self):
        """The broker was away meanwhile: a new epoch, and everybody hears of it."""
        for relayed in ((), (b'{"n":6}',)):
            self.setUp()
            self.follow(*relayed)
            self.new.follower.status_changed(False)
            self.new.follower.status_changed(True, gap=True)
            self.new.follower.lead()
            self.assertNotEqual(self.new.bridge.epoch, self.old.bridge.epoch)
            self.assertEqual([each["epoch"] for each in self.new.notices], [self.new.bridge.epoch])

    def test_told_stale(self):
        """Clients that were told `stale` before the state are told `live`."""
        self.old.bridge.status_changed(False)
        self.follow()
        self.new.follower.lead()
        self.assertEqual([each["status"] for each in self.new.notices], ["live"])
        self.assertEqual(self.new.bridge.epoch, self.old.bridge.epoch)

    def test_nonces(self):
        """What the predecessor has seen the successor drops: texts, numbers, digests of long ones."""
        payloads = [b'{"nonce":"n"}', b'{"nonce":7}', b'{"nonce":"%s"}' % (b"x" * 100)]
        payloads += [
            b'{"nonce":%d}' % (sign * 10**digits) for sign in (1, -1) for digits in (25, 90)
        ]
        for each in payloads:
            self.old.bridge.received("b", each)
        self.follow()
        self.new.follower.lead()
        for each in payloads:
            self.new.follower.received("b", each + b" ")  # else it is one that was relayed
        self.assertEqual(self.new.bridge.duplicates, len(payloads))
        self.new.follower.received("b", b'{"nonce":"7"}')
        self.new.follower.received("other", payloads[0])
        self.assertEqual(self.new.bridge.offset, 8 + len(payloads))

    def test_who_does_not_follow(self):
        """Else the follower is not there, and has nothing to lead."""
        process = Process()
        process.bus.startService()
        process.bus._receiver.received("a", b"{}")
        self.assertIs(process.bus._receiver, process.bridge)
        epoch = process.bridge.epoch
        process.follower.lead()
        self.assertEqual((process.bridge.offset, process.bridge.epoch), (1, epoch))
        self.assertTrue(process.follower.ready)

    def test_ready(self):
        """It may begin once the fence is behind it, or if none can be expected."""
        follower = self.new.follower
        self.assertFalse(follower.ready)
        self.new.bus.startService()
        self.assertFalse(follower.ready)
        follower.controlled(FENCE, b"somebody else's")
        self.new.now += SETTLE_S + 0.1
        self.assertFalse(follower.ready)
        follower.controlled(FENCE, follower.fence)
        self.assertFalse(follower.ready)
        self.new.now += SETTLE_S + 0.1
        self.assertTrue(follower.ready)
        other = Process(follows=True)
        other.bus.startService()
        other.now += 2.1
        self.assertTrue(other.follower.ready)

    def test_the_predecessor_died_before_its_state(self):
        """A feed of its own, live, with what came from the broker."""
        self.new.bus.startService()
        self.new.follower.received("a", b"{}")
        self.assertEqual((self.new.said(), self.new.notices), ([], []))
        self.new.follower.lead()
        self.assertEqual(self.new.said(), [("a", b"{}")])
        self.assertNotEqual(self.new.bridge.epoch, self.old.bridge.epoch)
        self.assertEqual([each["status"] for each in self.new.notices], ["live"])
        self.assertTrue(self.new.bridge.live)

    def test_without_a_broker(self):
        """If the broker is away when it begins to lead, clients hear so, and later that it is back."""
        self.follow(b"{}")
        self.new.follower.status_changed(False)
        self.new.follower.lead()
        self.assertFalse(self.new.bridge.live)
        self.new.follower.status_changed(True, gap=True)
        self.assertEqual([each["status"] for each in self.new.notices], ["stale", "live"])
        self.assertEqual(self.new.notices[1]["epoch"], self.new.bridge.epoch)

    def test_a_gap(self):
        """If messages may have been missed meanwhile, nobody can resume across that."""
        self.follow(b"{}")
        epoch = self.new.bridge.epoch
        self.assertEqual(epoch, self.old.bridge.epoch)
        for connected in (False, True):
            self.new.follower.status_changed(connected, gap=connected)
        self.assertEqual((self.new.bridge.epoch, self.new.notices), (epoch, []))
        self.new.follower.lead()
        self.assertNotEqual(self.new.bridge.epoch, epoch)
        self.assertEqual((self.new.bridge.offset, self.new.bridge.history.floor), (7, 7))

    def own(self, *numbers):
        """Messages that the broker brings to the successor."""
        for each in numbers:
            self.new.follower.received("a", b'{"n":%d}' % each)

    def relay(self, *numbers):
        """Messages that the broker brings to the predecessor."""
        for each in numbers:
            self.old.bridge.received("a", b'{"n":%d}' % each)
        self.old.predecessor.flush(self.new.take)

    def test_nothing_old_at_the_end(self):
        """What only the successor got is not sent behind newer messages when either had lost the
        broker: a new epoch tells that messages may be missing. What is newer is sent."""
        for loses in ("the predecessor", "the successor", "both"):
            self.setUp()
            self.follow()
            epoch, sent = self.old.bridge.epoch, []
            self.new.bridge.relay = lambda *message, sent=sent: sent.append(message[1])
            self.own(10)
            self.relay(10)
            self.own(11)
            if loses != "the predecessor":
                self.new.follower.status_changed(False)
                self.new.follower.status_changed(True, gap=True)
            if loses != "the successor":
                self.old.bridge.status_changed(False)
            self.own(12, 13)
            if loses != "the successor":
                self.old.bridge.status_changed(True, gap=True)
            self.own(14)
            self.relay(14)
            self.own(15)
            self.new.follower.lead(unbroken=self.old.predecessor.unbroken)
            self.assertEqual(sent, [b'{"n":%d}' % each for each in (10, 14, 15)])
            self.assertNotEqual(self.new.bridge.epoch, epoch)

    def test_unbroken(self):
        """A loss before the state, or one that is not over, is none of what follows it."""
        self.old.bridge.status_changed(False)
        self.old.bridge.status_changed(True, gap=True)
        self.follow()
        self.assertTrue(self.old.predecessor.unbroken)
        self.own(10)
        self.relay(10)
        self.old.bridge.status_changed(False)
        self.own(11)
        self.assertTrue(self.old.predecessor.unbroken)
        self.new.follower.lead()
        self.assertEqual(self.new.said()[-1], ("a", b'{"n":11}'))
        self.assertEqual(self.new.bridge.epoch, self.old.bridge.epoch)

    def test_forget(self):
        """A relayed message that the broker never brings hides later ones only until `forget`."""
        self.follow(b'{"v":1}', b'{"v":1}')
        self.new.follower.lead()
        self.new.follower.received("a", b'{"v":1}')
        self.assertEqual(self.new.bridge.offset, 8)
        self.new.follower.forget()
        self.new.follower.received("a", b'{"v":1}')
        self.assertEqual(self.new.bridge.offset, 9)

    def test_stop(self):
        """Once it has stopped nothing is relayed, and a new record begins anew."""
        self.follow()
        self.old.bridge.received("a", b"{}")
        self.old.predecessor.stop()
        self.old.bridge.received("a", b"{}")
        self.old.predecessor.flush(lambda *_: self.fail("relayed"))
        self.old.predecessor.record()
        head = self.old.predecessor.state(b"")[0][1]
        self.assertEqual((head.before, head.after), (b"", b""))

    def test_a_bus_of_its_own(self):
        """With a bus that nobody shares, what is relayed is not expected from there as well."""
        self.new = Process(follows=True, bus=MemoryBus)
        self.follow(b'{"v":1}')
        self.new.follower.lead()
        self.new.follower.received("a", b'{"v":1}')
        self.assertEqual(self.new.bridge.offset, 8)

    def test_orders(self):
        """Operators' messages pass at any time; a fence is none."""
        self.follow()
        self.new.follower.controlled("odin.control.drop", b"x")
        for process in (self.old, self.new):
            process.bridge.controlled(FENCE, b"f")
        self.assertEqual((self.old.orders, self.new.orders), ([], [("drop", b"x")]))
