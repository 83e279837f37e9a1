"""Subscribing is a queue: whatever a client asks in whatever state, each answer is whole.

A machine lets clients send several requests in one go, some of which wait for the broker, while
they read or do not read, and compares each stream, frame by frame, with what was published.
"""

from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from tests.connections import frame
from tests.subscribers import CHANNELS, MOST_CHANNELS, Client, World, auth

NAMES = (*CHANNELS, "price.*", "*.b", "trade.>", ">", "bad..name")
TOKENS = (None, ("trade.>",), ("price.*", "trade.a"), (">",))  # what they permit
TOKEN_REQUESTS = [*map(auth, TOKENS), {"type": "auth", "token": "nonsense"}]


class SubscribingMachine(RuleBasedStateMachine):
    """Any order of publishing, asking, stalling, catching up, answers of the broker and ends."""

    def __init__(self):
        super().__init__()
        self.world = World()
        for each in self.world.patches:
            each.start()
        self.clients = []

    @precondition(lambda self: len(self.clients) < 3)
    @rule(full=st.booleans())
    def come(self, full):
        self.clients.append(Client(self.world, full=full))

    @rule(channel=st.sampled_from(CHANNELS), count=st.integers(1, 6), turn=st.booleans())
    def publish(self, channel, count, turn):
        for _ in range(count):
            self.world.publish(channel)
        if turn:
            self.world.server.turn()

    @rule()
    def turn(self):
        self.world.server.turn()

    @rule(late=st.booleans(), in_steps=st.booleans())
    def broker(self, late, in_steps):
        self.world.replays.late, self.world.replays.in_steps = late, in_steps

    @rule(count=st.integers(1, 5))
    def begin_a_turn(self, count):
        """Some of what a turn does; of searches a step each."""
        for _ in range(min(count, len(self.world.server.soon))):
            self.world.server.soon.pop(0)()

    @precondition(lambda self: self.world.replays.waiting)
    @rule(data=st.data(), outcome=st.sampled_from(("found", "found", "none", "failed")))
    def answer(self, data, outcome):
        number = data.draw(st.integers(0, len(self.world.replays.waiting) - 1))
        self.world.replays.answer(number, outcome)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), count=st.integers(1, 4))
    def ask(self, data, count):
        client = data.draw(st.sampled_from(self.clients))
        client.ask(*(data.draw(self.requests(client)) for _ in range(count)))

    def requests(self, client):
        names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3)
        log = self.world.log
        offsets = st.sampled_from((client.position, 0, len(log) // 2, len(log), len(log) + 2))
        subscribe = st.builds(
            lambda channels, snapshot, recover: client.subscription(
                *channels, snapshot=snapshot, recover=recover
            ),
            names,
            st.booleans(),
            st.none() | offsets,
        )
        unsubscribe = names.map(lambda each: {"type": "unsubscribe", "data": {"channels": each}})
        others = st.sampled_from([*TOKEN_REQUESTS, {"type": "subscriptions"}])
        return subscribe | subscribe | unsubscribe | others

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def stall(self, data):
        data.draw(st.sampled_from(self.clients)).transport.full = True

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), full=st.booleans())
    def drain(self, data, full):
        data.draw(st.sampled_from(self.clients)).drain(full=full)

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def end(self, data):
        client = data.draw(st.sampled_from(self.clients))
        client.lose()
        self.clients.remove(client)

    def turn_and_drain(self):
        """Until nothing is left to do but for the broker."""
        while self.world.server.soon or any(each.transport.held for each in self.clients):
            self.world.server.turn()
            for client in self.clients:
                client.drain()
        for client in self.clients:
            client.read()

    @invariant()
    def read(self):
        for each in self.clients:
            each.read()

    def teardown(self):
        world = self.world
        try:
            self.turn_and_drain()
            while world.replays.waiting:
                world.replays.answer(0)
                self.turn_and_drain()
            for client in self.clients:
                client.check()
            hub = world.server.hub
            assert hub.sessions == len(self.clients) == sum(map(len, hub.groups))
        finally:
            for each in world.patches:
                each.stop()


class MachineTests(SynchronousTestCase):
    def test_any_order_of_events(self):
        """Each answer is whole and in order, whatever else happens."""
        limits = settings(max_examples=150, stateful_step_count=40, deadline=None)
        run_state_machine_as_test(SubscribingMachine, settings=limits)
        self.assertEqual(self.flushLoggedErrors(), [])


class SubscribingTests(SynchronousTestCase):
    """Some of these histories by name."""

    def setUp(self):
        self.world = World()
        self.replays, self.server = self.world.replays, self.world.server
        for each in self.world.patches:
            each.start()
            self.addCleanup(each.stop)

    def publish(self, count, *channels):
        for n in range(count):
            self.world.publish(channels[n % len(channels)])

    def check(self, client):
        """Let the client read all there is, and compare."""
        client.drain()
        while self.server.soon:
            self.server.turn()
            client.drain()
        client.check()

    def kinds(self, client):
        return [each["type"] for each in client.acks]

    def test_recoveries_in_one_go(self):
        """Each is whole, to a client that has read nothing yet; and so is a snapshot."""
        self.publish(40, "trade.a", "price.a")
        for first in ({"recover": 2}, {"snapshot": True}):
            client = Client(self.world, full=True)
            client.ask(
                client.subscription("price.a", **first), client.subscription("trade.a", recover=30)
            )
            self.publish(3, "trade.a", "price.a")
            self.check(client)
            self.assertIs(client.acks[-1]["recovered"], True)
            self.assertEqual(client.got[-3:], [len(self.world.log) - n for n in (2, 1, 0)])

    def test_one_replay_at_a_time(self):
        """The next one waits until the client has read the last; nobody is closed for asking."""
        self.server.context.max_pending = 2000
        self.publish(40, "trade.a")
        client = Client(self.world, full=True)
        client.ask(*[client.subscription("trade.a", recover=0)] * 10)
        self.server.turn()
        self.assertLess(client.session._backlog.replaying, 10_000)
        self.assertTrue(client.session.awaiting)
        self.assertEqual(client.protocol.state, client.protocol.STATE_OPEN)
        self.check(client)
        self.assertEqual(client.got, [*range(1, 41)] * 10)

    def test_behind_a_recovery_that_waits(self):
        """What is published meanwhile is not lost to the second of two subscriptions."""
        self.replays.late = True
        for outcome in ("found", "none", "failed"):
            client = Client(self.world)
            client.ask(
                client.subscription("trade.a", recover=len(self.world.log)),
                client.subscription("trade.b"),
            )
            self.publish(4, "trade.a", "trade.b")
            self.server.turn()
            self.assertEqual(client.acks, [])
            self.replays.answer(0, outcome)
            self.publish(4, "trade.a", "trade.b")
            self.check(client)
            kind = "error" if outcome == "failed" else "subscription_ack"
            self.assertEqual(self.kinds(client), [kind, "subscription_ack"])

    def test_the_same_patterns_again(self):
        """Nothing older than the acknowledgement or the snapshot comes behind it."""
        client = Client(self.world)
        client.subscribe("trade.a", "price.a")
        for asked in ("trade.a", "bad..name"):
            self.publish(3, "trade.a")
            client.subscribe(asked, snapshot=True)
            client.read()
            self.assertEqual(client.acks[-1]["offset"], len(self.world.log))
            self.assertEqual(client.got[-3:], [len(self.world.log) - n for n in (2, 1, 0)])
        self.check(client)

    def test_recovery_or_snapshot(self):
        """What was recovered needs no snapshot; what was not comes as one."""
        self.publish(10, "trade.a", "price.a")
        client = Client(self.world)
        client.subscribe("trade.a", "price.a", snapshot=True, recover=4)
        client.subscribe("price.a", snapshot=True, recover=99)
        client.read()
        self.assertEqual([each["recovered"] for each in client.acks], [True, False])
        self.assertEqual(client.got, [5, 6, 7, 8, 9, 10])
        self.check(client)

    def test_offset_of_the_acknowledgement(self):
        """A connection that is lost right behind the acknowledgement loses nothing."""
        self.publish(10, "trade.a")
        client = Client(self.world)
        client.subscribe("trade.a", recover=4)
        client.subscribe("trade.a", recover=10)
        client.subscribe("trade.a", recover=11)
        client.read()
        self.assertEqual([each["offset"] for each in client.acks], [4, 10, 10])

    def test_a_token_meanwhile(self):
        """A new token holds for what was asked behind it, and ends what was asked before."""
        self.replays.late = True
        client = Client(self.world)
        client.ask(
            client.subscription("trade.a", "price.a", recover=0),
            auth(("price.*",)),
            client.subscription("trade.b", recover=0),
            {"type": "subscriptions"},
        )
        self.server.turn()
        self.replays.answer(0)
        self.publish(4, *CHANNELS)
        self.check(client)
        self.assertEqual(client.acks[2]["rejected"][0]["code"], "forbidden")
        self.assertEqual(client.acks[3]["channels"], ["price.a"])

    def test_a_token_that_ends_meanwhile(self):
        """What is carried out when the token has ended is refused, whenever it was asked."""
        self.replays.late = True
        client = Client(self.world)
        ends = 4_000_000_000
        client.ask(auth(CHANNELS), client.subscription("trade.a", recover=0))
        self.server.turn()
        self.server.context.wall = lambda: ends * 2
        self.replays.answer(0)
        self.server.turn()
        client.read()
        self.assertEqual([each["type"] for each in client.acks], ["auth_ack", "error"])
        self.assertEqual(client.acks[1]["code"], "unauthorized")

    def test_limit_of_channels(self):
        """Waiting is no way around the limit."""
        self.replays.late = True
        client = Client(self.world)
        client.ask(*(client.subscription(each, recover=0) for each in CHANNELS))
        for _ in range(MOST_CHANNELS):
            self.server.turn()
            self.replays.answer(0)
        self.check(client)
        self.assertEqual([each["count"] for each in client.acks], [1, 2, 3, 3])
        self.assertEqual(client.acks[3]["rejected"][0]["code"], "limit_exceeded")

    def test_others_do_not_wait(self):
        """A ping is answered at once, and so is everything that other clients ask."""
        self.replays.late = True
        client, other = Client(self.world), Client(self.world)
        client.subscribe("trade.a", recover=0)
        other.ask({"type": "subscriptions"})
        other.read()
        self.assertEqual(self.kinds(other), ["subscriptions"])
        client.protocol.dataReceived(frame('{"type":"ping"}'))
        self.assertIn(b'"type":"pong"', client.transport.written)
        self.replays.answer(0)
        self.check(client)

    def test_how_many_may_wait(self):
        """512 requests, or what limits.keptPerClient has room for; no more are taken then."""
        self.replays.late = True
        client = Client(self.world)
        client.ask(client.subscription("trade.a", recover=0), *[{"type": "subscriptions"}] * 515)
        written = client.transport.written
        self.assertEqual(written.count(b'"code":"limit_exceeded"'), 4)
        self.server.turn()
        self.replays.answer(0)
        self.check(client)
        self.assertEqual(len(client.acks), 512)
        many = {"type": "unsubscribe", "data": {"channels": [f"trade.{n}" for n in range(1000)]}}
        self.server.context.max_kept = 300_000
        client.subscribe("trade.a", recover=0)
        client.ask(*[many] * 5)
        self.replays.answer(0)
        self.check(client)
        self.assertEqual(len(client.acks), 512 + 1 + 3)

    def test_one_in_a_turn(self):
        """However much a client asks for at once: others are served between two of its requests."""
        client, other = Client(self.world), Client(self.world)
        client.ask(*[{"type": "subscriptions"}] * 5)
        for number in range(1, 6):
            client.read()
            self.assertEqual(len(client.acks), number)
            other.protocol.dataReceived(frame('{"type":"ping"}'))
            self.server.soon.pop(0)()
        self.check(client)

    def test_the_end(self):
        """Answers that come after the end of the connection do nothing."""
        self.replays.late = True
        client = Client(self.world)
        client.ask(client.subscription("trade.a", recover=0), client.subscription("trade.b"))
        self.server.turn()
        self.assertEqual(client.session.awaiting, 1)
        client.lose()
        self.assertEqual(client.session.awaiting, 0)
        self.replays.answer(0)
        self.assertEqual((self.server.hub.sessions, len(self.server.hub.groups)), (0, 0))

    def test_too_slow_for_a_subscription(self):
        """A client that ends while it is given what was pending is in no group afterwards."""
        self.server.context.max_pending = 1000
        client = Client(self.world, full=True)
        self.publish(5, "trade.a")
        self.server.turn()
        self.publish(20, "trade.a")
        client.subscribe("trade.b")
        self.assertEqual(client.protocol.localCloseCode, 4408)
        self.assertEqual((self.server.hub.sessions, len(self.server.hub.groups)), (0, 0))

    def test_our_failure(self):
        """A defect in a request that had to wait closes with 1011, and is logged."""
        for unread in (False, True):
            self.replays.late = not unread
            self.publish(10, "trade.a")
            client = Client(self.world, full=unread)
            client.ask(*[client.subscription("trade.a", recover=0)] * 2)
            self.server.turn()
            with mock.patch.object(self.server.hub, "resubscribe", side_effect=ZeroDivisionError):
                if unread:
                    client.transport.full = False
                    client.transport.drain()
                else:
                    self.replays.answer(0)
            self.assertEqual(client.protocol.localCloseCode, 1011)
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
