"""How much of a recovery is done at once, for whom, and what is kept for others."""

from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from odin.bus import searches as searches_module
from odin.delivery import search as search_module
from tests.recoveries import BOUNDS, Client, World


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
