"""Recoveries while the feed goes on: each answer is whole at its moment, none holds the others."""

from collections import deque
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from odin.bus import recovery as recovery_module
from odin.bus import searches as searches_module
from odin.bus.bridge import Bridge
from odin.bus.interfaces import Stored
from odin.bus.memory import MemoryBus
from odin.bus.recovery import Recovery
from odin.delivery import history as history_module
from odin.delivery import search as search_module
from odin.delivery.history import Bounds, History
from odin.delivery.nonces import NonceWindow
from odin.delivery.playback import Playback
from odin.errors import Unavailable
from odin.wire.subjects import covers

CHANNELS = ("a", "a.b", "c.b", "d")
BOUNDS = Bounds(messages=15, size=1 << 30, age_s=1000, channels=100, channels_size=1 << 30)


class Nothing:
    """A hub, and a meter: notes nothing."""

    def __getattr__(self, _name):
        return lambda *_arguments, **_named: None


class StoreBus(MemoryBus):
    """A bus with a store, which answers when the test says so."""

    def __init__(self, stores):
        self.stores = stores
        self.fetches = []  # (Deferred, patterns, after, until)

    def fetch(self, patterns, after, until, most):
        self.fetches.append((Deferred(), patterns, after, until))
        return self.fetches[-1][0]


class World:
    """A recovery without a gateway: its steps run when the test says so."""

    def __init__(self, *, stores=False, most=20, bounds=BOUNDS):
        self.steps, self.clock, self.log = deque(), Clock(), []
        self.most = most
        self.bus = StoreBus(stores)
        self.history = History(bounds)
        self.bridge = Bridge(
            self.bus, Nothing(), NonceWindow(1, 2), self.history, conflate=(), publishable=(),
            control=Nothing().control, clock=self.clock.seconds, wall=self.clock.seconds,
            meter=Nothing(),
        )  # fmt: skip
        self.recovery = Recovery(
            self.bridge, most=most, now=self.clock.seconds, timers=self.clock,
            later=self.steps.append, meter=Nothing(),
        )  # fmt: skip
        self.renumber("one")
        self.bridge.status_changed(True, "one", 0)

    def renumber(self, epoch, offset=0):
        self.bridge.status_changed(False, epoch, offset)
        self.log = []

    def publish(self, channel, count=1):
        for _ in range(count):
            self.bridge.received(channel, b"{}")
            self.log.append((channel, self.bridge.offset))

    def wanted(self, patterns, after):
        return [n for c, n in self.log if n > after and any(covers(each, c) for each in patterns)]

    def step(self, count=1):
        while self.steps and count:
            self.steps.popleft()()
            count -= 1

    def turns(self):
        while self.steps:
            self.step()

    def answer(self, number, outcome="found"):
        """The store answers a fetch."""
        deferred, patterns, after, until = self.bus.fetches.pop(number)
        if outcome == "found":
            found = [n for n in self.wanted(patterns, after) if n <= until]
            channels = {n: c for c, n in self.log}
            stored = [Stored(channels[n], b"{}", n) for n in found]
            deferred.callback(stored if len(stored) <= self.most else None)
        elif outcome == "none":
            deferred.callback(None)
        else:
            deferred.errback(Unavailable("away"))


class Client:
    """Asks once, and compares the answer with what was published, at that moment."""

    def __init__(self, world, patterns, offset, epoch=None):
        self.world, self.patterns, self.offset = world, frozenset(patterns), offset
        self.epoch = world.bridge.epoch if epoch is None else epoch
        self.gone = self.answered = False
        self.result = None
        self.asked_at = world.clock.seconds()
        found = world.recovery.replay(self.patterns, self.epoch, offset, lambda: self.gone)
        self.at_once = not isinstance(found, Deferred)
        if self.at_once:
            self.take(found)
        else:
            found.addCallback(self.take)

    @property
    def got(self):
        return self.result and [each.offset for each in self.result._messages[: self.result._end]]

    def take(self, result):
        assert not self.gone, "nobody is there to get this"
        assert not self.answered
        self.answered, self.result = True, result
        world = self.world
        wanted = world.wanted(self.patterns, self.offset)
        if isinstance(result, Playback):
            assert self.epoch == world.bridge.epoch
            assert (self.got or []) == wanted, (self.got, wanted)
            assert len(wanted) <= world.most
        else:
            assert result is None
            assert (
                self.epoch != world.bridge.epoch
                or len(wanted) > world.most
                or self.offset < world.history.floor
                or self.offset > world.history.head
                or world.clock.seconds() - self.asked_at >= 4
            ), "refused without a reason"


class RecoveryMachine(RuleBasedStateMachine):
    """Any order of messages, evictions, numberings, steps, answers of the broker, and ends."""

    stores = False

    def __init__(self):
        super().__init__()
        self.patches = [
            mock.patch.object(search_module, "LOOKS", 4),
            mock.patch.object(search_module, "MATCHES", 2),
            mock.patch.object(search_module, "QUICK", 2),
            mock.patch.object(searches_module, "_MOST_RUNNING", 2),
            mock.patch.object(searches_module, "_MOST_KEPT", 2),
            mock.patch.object(recovery_module, "_DECODED", 3),
            mock.patch.object(recovery_module, "_MAX_FETCHES", 2),
            mock.patch.object(recovery_module, "_LOOKS", 2),
            mock.patch.object(history_module, "_MAX_GONE", 3),
        ]
        for each in self.patches:
            each.start()
        self.world, self.clients, self.epochs = World(stores=self.stores), [], 1

    @rule(channel=st.sampled_from(CHANNELS), count=st.integers(1, 8))
    def publish(self, channel, count):
        if self.world.bridge.live:
            self.world.publish(channel, count)

    @rule(
        patterns=st.sets(
            st.sampled_from((">", "a", "d", "*.b", "a.>", "x", "*")), min_size=1, max_size=3
        ),
        back=st.integers(-2, 30),
        old=st.booleans(),
    )
    def ask(self, patterns, back, old):
        offset = max(0, self.world.history.head - back)
        epoch = "old" if old and back % 7 == 0 else None
        self.clients.append(Client(self.world, patterns, offset, epoch))

    @rule(count=st.integers(1, 6))
    def step(self, count):
        self.world.step(count)

    @rule(seconds=st.sampled_from((0.02, 0.02, 1.0, 5.0)))
    def wait(self, seconds):
        self.world.clock.advance(seconds)

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def leave(self, data):
        data.draw(st.sampled_from(self.clients)).gone = True

    @rule()
    def broker(self):
        self.world.bridge.status_changed(not self.world.bridge.live)

    @rule(start=st.integers(0, 20))
    def renumber(self, start):
        self.epochs += 1
        self.world.renumber(f"epoch-{self.epochs}", start)
        self.world.bridge.status_changed(True, f"epoch-{self.epochs}", start)

    @precondition(lambda self: self.world.bus.fetches)
    @rule(data=st.data(), outcome=st.sampled_from(("found", "found", "found", "none", "failed")))
    def answer(self, data, outcome):
        number = data.draw(st.integers(0, len(self.world.bus.fetches) - 1))
        self.world.answer(number, outcome)

    def teardown(self):
        world = self.world
        try:
            if not world.bridge.live:
                world.bridge.status_changed(True)
            for _ in range(40):
                world.turns()
                while world.bus.fetches:
                    world.answer(0)
                world.clock.advance(0.5)
            world.turns()
            assert all(each.answered or each.gone for each in self.clients)
            searches = world.recovery._searches
            assert (searches._running, searches._queue, searches._kept) == ({}, {}, {})
            assert world.recovery._size_fetched() >= 0
        finally:
            for each in self.patches:
                each.stop()


class StoredMachine(RecoveryMachine):
    """The same with a broker that stores."""

    stores = True


class MachineTests(SynchronousTestCase):
    def test_memory(self):
        """What memory has, whole, or an honest no; everybody who is there gets an answer."""
        limits = settings(max_examples=150, stateful_step_count=40, deadline=None)
        run_state_machine_as_test(RecoveryMachine, settings=limits)

    def test_store(self):
        """What memory does not have, the broker's store has."""
        limits = settings(max_examples=150, stateful_step_count=40, deadline=None)
        run_state_machine_as_test(StoredMachine, settings=limits)


class StepsTests(SynchronousTestCase):
    """How much is done at once, and for whom."""

    def world(self, count=20_000, **options):
        bounds = BOUNDS._replace(messages=50_000, channels=20_000)
        world = World(bounds=bounds, most=options.pop("most", 100), **options)
        for n in range(count):
            world.publish(f"odin.c{n % 3000}")
        return world

    def test_little_is_found_at_once(self):
        """Who missed a few hundred messages, or nothing on its channels, waits for no turn."""
        world = self.world()
        for patterns, back in (([">"], 90), (["odin.*"], 90), (["odin.c1"], 900),
                               (["odin.x"], 19_000), ([f"q{n}" for n in range(900)], 20_000)):  # fmt: skip
            client = Client(world, patterns, world.history.head - back)
            self.assertTrue(client.at_once)
            self.assertIsNot(client.result, None)
        self.assertFalse(world.steps)

    def test_much_is_found_in_turns(self):
        """Nothing is looked at when it is asked for; then LOOKS messages at a time."""
        world = self.world()
        client = Client(world, ["*.c7"], 0)
        self.assertFalse(client.at_once)
        count = 0
        with mock.patch.object(world.history, "after", wraps=world.history.after) as after:
            while not client.answered:
                after.reset_mock()
                world.step()
                self.assertLessEqual(after.call_count, 1)
                count += 1
        self.assertGreater(count, 20_000 / search_module.LOOKS)

    def test_one_step_each_in_turn(self):
        """Two that have much to look at go on alternately; a third with little is not behind."""
        world = self.world()
        order = []
        step = search_module.Search.step

        def noting(search):
            order.append(sorted(search.patterns)[0])
            return step(search)

        with mock.patch.object(search_module.Search, "step", noting):
            clients = [Client(world, [name], 0) for name in ("*.x1", "*.x2")]
            world.step(4)
            little = Client(world, ["*.x3"], world.history.head - 10)
            world.turns()
        self.assertTrue(little.at_once)
        self.assertEqual(order[:4], ["*.x1", "*.x2"] * 2)
        self.assertTrue(all(each.answered for each in clients))

    def test_gone(self):
        """A client that ends, ends its search; one that asks for the same goes on with it."""
        world = self.world()
        one, two = (Client(world, ["*.c7"], 0) for _ in range(2))
        world.step(2)
        one.gone = True
        world.turns()
        self.assertTrue(two.answered)
        three = Client(world, ["*.c8"], 0)
        world.step()
        three.gone = True
        world.step()
        self.assertEqual((len(world.steps), world.recovery._searches._running), (0, {}))

    def test_queue(self):
        """So many searches are under way that their memory is bounded; the others follow."""
        world = self.world()
        clients = [Client(world, [f"*.c{n}"], 0) for n in range(30)]
        searches = world.recovery._searches
        self.assertEqual(len(searches._running), searches_module._MOST_RUNNING)
        self.assertTrue(all(each._matcher is None for each in searches._queue))
        world.turns()
        self.assertTrue(all(each.answered for each in clients))

    def test_too_many(self):
        """A recovery of too much is refused at the first message too many, and keeps nothing."""
        world = self.world()
        client = Client(world, [">"], 0)
        world.step()
        world.turns()
        self.assertIsNone(client.result)
        [kept] = world.recovery._searches._kept.values()
        self.assertEqual(kept.search.messages, [])

    def test_shared(self):
        """Equal requests share one list, also if messages came between them."""
        world = self.world()
        one, two = (Client(world, ["*.c7"], 0) for _ in range(2))
        world.turns()
        world.publish("odin.c7", 3)
        with mock.patch.object(world.history, "after", wraps=world.history.after) as after:
            three = Client(world, ["*.c7"], 0)
        self.assertTrue(three.at_once)
        self.assertEqual(after.call_count, 1)
        self.assertEqual(len(three.got), len(one.got) + 3)
        self.assertIs(one.result._messages, three.result._messages)
        self.assertIs(one.result._messages, two.result._messages)

    def test_little_is_shared(self):
        """What is found at once is looked for once, by however many; nothing old comes with it."""
        world = self.world()
        start = world.history.head - 90
        first = Client(world, ["odin.*"], start)
        with mock.patch("odin.delivery.search.Matcher") as matcher:
            clients = [Client(world, ["odin.*"], start) for _ in range(20)]
            matcher.assert_not_called()
        for each in clients:
            self.assertIs(each.result._messages, first.result._messages)
        Client(world, ["odin.*"], world.history.head - 5)
        self.assertEqual(len(world.recovery._searches._kept), 1)

    def test_new_patterns_push_out_no_shared_search(self):
        """One client with ever new requests does not make the others search again."""
        world = self.world()
        for _ in range(2):
            shared = Client(world, ["*.c7"], 0)
            world.turns()
        kept = world.recovery._searches._kept
        for n in range(300):
            Client(world, [f"*.x{n}"], 0).gone = True
        world.turns()
        self.assertLessEqual(len(kept), searches_module._MOST_KEPT)
        again = Client(world, ["*.c7"], 0)
        self.assertTrue(again.at_once)
        self.assertIs(again.result._messages, shared.result._messages)

    def test_bytes_of_what_is_kept(self):
        """Patterns count as well as references; after some seconds nothing is kept."""
        world = self.world()
        for n in range(60):
            Client(world, [f"*.x{n}.{m}" for m in range(1000)], 0).gone = True
        kept = world.recovery._searches._kept
        sizes = [each.search.size for each in kept.values()]
        self.assertGreater(min(sizes), 64_000)
        self.assertLessEqual(sum(sizes), searches_module._MOST_BYTES)
        world.turns()
        world.clock.pump([1] * 7)
        self.assertEqual((kept, world.clock.getDelayedCalls()), ({}, []))

    def test_what_left_the_ring_is_not_kept(self):
        """Nothing is kept in memory only for the next who might ask."""
        world = World(bounds=BOUNDS._replace(messages=5000))
        world.publish("odin.c7", 1)
        world.publish("x", 4000)
        Client(world, ["*.c7"], 0)
        world.turns()
        self.assertEqual(len(world.recovery._searches._kept), 1)
        world.publish("x", 1500)
        world.clock.advance(1)
        self.assertEqual(world.recovery._searches._kept, {})

    def test_a_defect(self):
        """Of a search that fails everybody who waits for it is told."""
        world = self.world()
        found = [
            world.recovery.replay(frozenset(("*.c7",)), world.bridge.epoch, 0, lambda: False)
            for _ in range(2)
        ]
        with (
            mock.patch.object(search_module.Search, "step", side_effect=ZeroDivisionError),
            mock.patch.object(search_module.Search, "quick", True),
        ):
            world.turns()
        for each in found:
            self.failureResultOf(each, ZeroDivisionError)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class WaitingTests(SynchronousTestCase):
    """Clients that wait for the bus."""

    def test_looks_are_bounded(self):
        """Of ten thousand that wait some are looked at at a time, each within two seconds."""
        world = World(stores=True)
        world.publish("a", 3)
        world.bridge.numbered = world.bridge.live = False
        clients = [Client(world, ["a"], 1) for _ in range(10_000)]
        for _ in range(5):
            world.clock.advance(0.025)
            self.assertLessEqual(len(world.steps), 10_000 // 50)
            world.turns()
        world.bridge.numbered = world.bridge.live = True
        for _ in range(110):
            world.clock.advance(0.025)
            self.assertLessEqual(len(world.steps), 10_000 // 50)
            world.turns()
        self.assertTrue(all(each.got == [2, 3] for each in clients))

    def test_deadlines(self):
        """15 s for a bus that is away, 4 s for a message that is ahead; some more for many."""
        for count, slack in ((1, 0.1), (5000, 2.5)):
            for away, limit in ((True, 15), (False, 4)):
                world = World(stores=True)
                world.publish("a", 3)
                world.bridge.live = not away
                world.bridge.numbered = not away
                clients = [Client(world, ["a"], 9) for _ in range(count)]
                for seconds, answered in ((limit - 0.1, False), (slack + 0.1, True)):
                    for _ in range(round(seconds / 0.025)):
                        world.clock.advance(0.025)
                        world.turns()
                    self.assertEqual({each.answered for each in clients}, {answered})

    def test_decoded_in_steps(self):
        """What the broker had is made into messages some at a time."""
        world = World(stores=True, most=5000)
        world.publish("a", 3000)
        client = Client(world, ["a"], 0)
        world.answer(0)
        with mock.patch.object(world.bridge, "encoded", wraps=world.bridge.encoded) as encoded:
            while world.steps:
                encoded.reset_mock()
                world.step()
                for called in encoded.call_args_list:
                    self.assertLessEqual(len(called.args[0]), recovery_module._DECODED)
        self.assertEqual(client.got, list(range(1, 3001)))

    def test_a_nonce_in_two_parts(self):
        """A duplicate is left out also if it is decoded later."""
        world = World(stores=True, most=5000)
        world.publish("a", 1000)
        found = world.recovery.replay(frozenset("a"), world.bridge.epoch, 0, lambda: False)
        payload = b'{"nonce":"n"}'
        stored = [Stored("a", payload if n in (1, 900) else b"{}", n) for n in range(1, 901)]
        world.bus.fetches.pop(0)[0].callback(stored)
        world.turns()
        offsets = [each.offset for each in self.successResultOf(found)._messages]
        self.assertEqual((len(offsets), offsets[0], 900 in offsets), (899, 1, False))

    def test_unread_fetches(self):
        """While too much that was fetched is not read, nothing more is fetched."""
        self.patch(recovery_module, "_MOST_FETCHED", 100)
        world = World(stores=True, most=5000)
        world.publish("a", 300)
        one = Client(world, ["a"], 0)
        world.answer(0)
        world.turns()
        two = Client(world, ["a"], 1)
        self.assertEqual(world.bus.fetches, [])
        while one.result:
            one.result.take()
        one.result = None
        world.clock.advance(0.025)
        world.turns()
        world.answer(0)
        world.turns()
        self.assertEqual(len(two.got), 299)
