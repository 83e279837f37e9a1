"""Groups, hub and nonces: each message once to everybody who wants it, in order."""

from itertools import product
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from odin.delivery import batches, group
from odin.delivery.group import ABSENT
from odin.delivery.groups import Groups
from odin.delivery.hub import Hub
from odin.delivery.message import Message, joined
from odin.wire.subjects import covers, is_pattern

SUBJECTS = ("a.x", "a.y", "b.x", "c")
TOKENS = ("a", "b", "*", ">")
PATTERNS = [
    text
    for size in range(1, 5)
    for tokens in product(TOKENS, repeat=size)
    if is_pattern(text := ".".join(tokens))
]
SHORT_SUBJECTS = [".".join(tokens) for n in range(1, 6) for tokens in product("ab", repeat=n)]
PATTERN_SETS = ([">"], ["a.*"], ["a.x", "a.>"], ["*.x"], ["c"], [], ["a.y", "c"])


class Client:
    """A recipient whose socket is as full as the test wants it."""

    def __init__(self):
        self.group, self.position = None, ABSENT
        self.sink, self.waiting, self.got = self, b"", b""
        self.full = False

    def send(self, data):
        if self.waiting or self.full:
            self.hold(data, 0)
        else:
            self.got += data

    def offer(self, messages):
        self.send(joined(messages))

    def hold(self, data, sent):
        self.waiting += data[sent:]
        if self.sink is not None:
            self.sink = None
            if self.group is not None:
                self.group.fell_behind(self)

    def drain(self):
        self.full = False
        self.got, self.waiting, self.sink = self.got + self.waiting, b"", self
        if self.group is not None:
            self.group.caught_up(self)


def sweep(sinks, start, stop, data):
    """Full sockets take one byte, and from then on are behind."""
    stuck = []
    for index in range(start, stop):
        client = sinks[index]
        if client.full:
            client.got += data[:1]
            stuck.append((index, 1))
        else:
            client.got += data
    return stuck or None


class Meter:
    def __init__(self):
        self.rounds = []

    def round_done(self, latency_s, duration_s):
        self.rounds.append((latency_s, duration_s))


class Time:
    """A clock that runs out after so many looks."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 0.0003
        return self.now


def make_hub():
    soon = []
    return Hub(sweep=sweep, soon=soon.append, clock=Time(), meter=Meter()), soon


class DeliveryMachine(RuleBasedStateMachine):
    """Any order of publishing, coming, going, falling behind and slices of sending."""

    def __init__(self):
        super().__init__()
        self.hub, self.soon = make_hub()
        self.clients, self.expected, self.patterns = [], {}, {}
        self.count = 0

    @rule(patterns=st.sampled_from(PATTERN_SETS), many=st.integers(1, 150))
    def come(self, patterns, many):
        if len(self.clients) + many > 400:
            return
        for _ in range(many):
            client = Client()
            self.clients.append(client)
            self.expected[client], self.patterns[client] = b"", patterns
            self.hub.register(client, frozenset(patterns))

    @rule(subject=st.sampled_from(SUBJECTS))
    def publish(self, subject):
        self.count += 1
        frame = b"<%d>" % self.count
        self.hub.deliver(Message(subject, self.count, frame), 0.0)
        for client, patterns in self.patterns.items():
            if any(covers(each, subject) for each in patterns):
                self.expected[client] += frame

    @rule()
    def notify(self):
        self.count += 1
        frame = b"[%d]" % self.count
        self.hub.notify(frame)
        for client in self.patterns:
            self.expected[client] += frame

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), patterns=st.sampled_from(PATTERN_SETS))
    def resubscribe(self, data, patterns):
        client = data.draw(st.sampled_from(self.clients))
        if client in self.patterns:
            self.hub.resubscribe(client, frozenset(patterns))
            self.patterns[client] = patterns
            assert client.got + client.waiting == self.expected[client]

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def leave(self, data):
        client = data.draw(st.sampled_from(self.clients))
        self.hub.unregister(client)
        self.patterns.pop(client, None)

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def fill(self, data):
        data.draw(st.sampled_from(self.clients)).full = True

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def drain(self, data):
        data.draw(st.sampled_from(self.clients)).drain()

    @precondition(lambda self: self.soon)
    @rule()
    def one_slice(self):
        self.soon.pop(0)()

    @invariant()
    def nothing_twice_or_out_of_order(self):
        for client in self.patterns:
            assert self.expected[client].startswith(client.got + client.waiting)

    def teardown(self):
        while self.soon:
            self.soon.pop(0)()
        for client in self.clients:
            client.drain()
            self.hub.unregister(client)
            if client in self.patterns:
                assert client.got == self.expected[client]
            else:
                assert self.expected[client].startswith(client.got)
        groups = self.hub.groups
        assert self.hub.waiting == self.hub._arrivals.waiting == 0
        assert not len(groups)
        assert not groups._index
        assert not groups._exact and not groups._open
        assert self.hub.sessions == 0


class DeliveryTests(SynchronousTestCase):
    limits = settings(max_examples=80, stateful_step_count=40, deadline=None)

    def test_any_order_of_events(self):
        """Everybody gets what it wants, once, in order; nothing is left behind at the end."""
        run_state_machine_as_test(DeliveryMachine, settings=self.limits)

    def test_any_order_of_events_when_batches_are_cut(self):
        """The same if a batch is seldom all that waits."""
        self.patch(batches, "BATCH_BYTES", 7)
        self.patch(group, "_COMPACT_AT", 2)
        run_state_machine_as_test(DeliveryMachine, settings=self.limits)


class HubTests(SynchronousTestCase):
    def setUp(self):
        self.hub, self.soon = make_hub()

    def turn(self):
        while self.soon:
            self.soon.pop(0)()

    def test_joined_in_one_turn(self):
        """Messages of one turn leave in one send per group, counted one by one."""
        client = Client()
        self.hub.register(client, frozenset((">",)))
        sends = []
        self.hub._sweep = lambda sinks, start, stop, data: sends.append(data)
        for n in range(3):
            self.hub.deliver(Message("a", n, b"%d" % n), 0.0)
        self.assertEqual(len(self.soon), 1)
        self.turn()
        self.assertEqual((sends, self.hub.delivered), ([b"012"], 3))
        self.assertEqual(len(self.hub._meter.rounds), 1)

    def test_slices(self):
        """A big round gives the reactor turns in between."""
        clients = [Client() for _ in range(2000)]
        for each in clients:
            self.hub.register(each, frozenset((">",)))
        self.hub.deliver(Message("a", 1, b"x"), 0.0)
        slices = 0
        while self.soon:
            self.soon.pop(0)()
            slices += 1
        self.assertGreater(slices, 3)
        self.assertTrue(all(each.got == b"x" for each in clients))

    def test_nobody(self):
        """A message that nobody wants costs no turn and leaves no trace."""
        self.hub.deliver(Message("a", 1, b"x"), 0.0)
        self.assertEqual((self.soon, self.hub._oldest), ([], None))

    def test_a_failing_recipient_stops_nobody(self):
        """A defect in one group's sending is logged, and the others get theirs."""
        good, bad = Client(), Client()
        bad.hold = lambda data, sent: 1 / 0
        bad.full = True
        self.hub.register(bad, frozenset(("a",)))
        self.hub.register(good, frozenset((">",)))
        self.hub.deliver(Message("a", 1, b"x"), 0.0)
        self.turn()
        self.assertEqual(good.got, b"x")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_flush(self):
        """At the end everything goes out at once."""
        client = Client()
        self.hub.register(client, frozenset((">",)))
        self.hub.deliver(Message("a", 1, b"x"), 0.0)
        self.hub.flush()
        self.assertEqual(client.got, b"x")

    def test_many_subjects(self):
        """Invented subjects cannot fill the memory with remembered routes."""
        groups = Groups()
        for n in range(70_000):
            groups.route(f"s.{n}")
        self.assertLessEqual(len(groups._routes), 65_536)

    @given(st.data())
    def test_routes(self, data):
        """The groups of a subject are those that `covers` says, whoever came, changed and went."""
        groups, clients = Groups(), [Client() for _ in range(4)]
        sets = st.frozensets(st.sampled_from(PATTERNS), max_size=6)
        for _ in range(data.draw(st.integers(1, 12))):
            client, patterns = data.draw(st.sampled_from(clients)), data.draw(st.none() | sets)
            if patterns is None:
                groups.leave(client)
            elif client.group is None:
                groups.join(client, patterns)
            else:
                groups.change(client, patterns)
            for subject in SHORT_SUBJECTS:
                expected = {
                    each.group
                    for each in clients
                    if each.group and any(covers(one, subject) for one in each.group.patterns)
                }
                route = groups.route(subject)
                self.assertEqual((set(route), len(route)), (expected, len(expected)), subject)

    def test_cost_of_a_change(self):
        """Who is alone with many patterns pays for those that change; none has a node of its own."""
        groups, client = Groups(), Client()
        many = frozenset(f"a.*.b.*.{n}" for n in range(1000))
        groups.join(client, many)
        with mock.patch.object(groups, "_forget_route") as forget:
            groups.change(client, many | {"x"})
            groups.change(client, many)
        self.assertEqual([each.args for each in forget.call_args_list], [("x",), ("x",)])
        self.assertEqual((len(groups._index), len(groups._exact._counts)), (1000, 1))
