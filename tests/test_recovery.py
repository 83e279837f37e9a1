"""Recoveries while the feed goes on: each answer is whole at its moment, none holds the others."""

from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from odin.bus import recovery as recovery_module
from odin.bus import searches as searches_module
from odin.bus.interfaces import Stored
from odin.delivery import history as history_module
from odin.delivery import search as search_module
from tests.recoveries import Client, World

CHANNELS = ("a", "a.b", "c.b", "d")


class RecoveryMachine(RuleBasedStateMachine):
    """Any order of messages, evictions, numberings, steps, answers of the broker, and ends."""

    stores = False

    def __init__(self):
        super().__init__()
        self.patches = [
            mock.patch.object(search_module, "FEW", 1),
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
