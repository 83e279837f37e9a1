"""The promise, through a whole gateway without sockets (odin.gateway, odin.delivery, odin.bus).

Whatever the order of publishing, stalling, catching up, dropping and recovering: what a client has
is the publisher's stream, in order, nothing twice, and nothing missing but what it was told.
"""

import json
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from odin.delivery import backlog as backlog_module
from odin.delivery import batches as batches_module
from odin.delivery import group as group_module
from odin.wire.subjects import covers
from tests import connections
from tests.connections import NotingTransport, Server, frame, frames, head

CHANNELS = ("price.a", "price.b", "trade.a", "trade.b")  # tests.connections conflates price.*
PATTERNS = ([">"], ["price.*"], ["trade.a", "price.a"], ["*.b", "trade.*"])


class FullTransport(NotingTransport):
    """Takes nothing while `full`, as transport.Transport would report it."""

    def __init__(self, protocol):
        super().__init__(protocol)
        self.full, self.held = False, b""

    @property
    def behind(self):
        return bool(self.held)

    @behind.setter
    def behind(self, value):
        pass

    @property
    def sink(self):
        return None if self.held else super().sink

    def write(self, data):
        if self.held or self.full:
            self.hold(data, 0)
        else:
            self.written += data

    def hold(self, data, sent):
        was_behind, self.held = self.behind, self.held + data[sent:]
        if not was_behind:
            self.protocol.fellBehind()

    def drain(self):
        """The peer reads all there is; what comes next may be too much again."""
        self.written, self.held, was_behind = self.written + self.held, b"", self.behind
        if was_behind:
            self.protocol.caughtUp()


def sweep(sinks, start, stop, data):
    """Full sockets take three bytes."""
    stuck = []
    for index in range(start, stop):
        transport = sinks[index].transport
        if transport.full:
            transport.written += data[:3]
            stuck.append((index, 3))
        else:
            transport.written += data
    return stuck or None


class Client:
    """One that resumes where it was."""

    def __init__(self, machine, patterns):
        self.machine, self.patterns = machine, patterns
        self.got, self.told, self.gaps = [], [], []
        self.last = None
        self.transport = None
        self.connect()

    def connect(self):
        server = self.machine.server
        protocol = server.factory.buildProtocol(None)
        self.transport = FullTransport(protocol)
        protocol.makeConnection(self.transport)
        protocol.dataReceived(head("/ws"))
        self.transport.written = b""
        self.rest = b""
        self.acknowledged = False
        data = {"channels": self.patterns}
        if self.last is not None:
            data["recover"] = {"epoch": server.bridge.epoch, "offset": self.last}
        protocol.dataReceived(frame(json.dumps({"type": "subscribe", "data": data})))

    def read(self):
        """What came since the last time, whole frames."""
        data, self.transport.written = self.rest + self.transport.written, b""
        whole = 0
        while (end := _end(data, whole)) is not None:
            whole = end
        self.rest = data[whole:]
        for _, payload in frames(data[:whole]):
            self.take(json.loads(payload))

    def take(self, message):
        kind = message.get("type")
        if kind == "subscription_ack":
            self.acknowledged = True
            if message.get("recovered") is not True:
                if self.last is not None:
                    assert self.last < self.machine.server.bridge.history.floor
                    self.gaps.append((self.last, message["offset"]))
                self.last = message["offset"]
                self.since = self.last if not self.got and not self.gaps else self.since
        elif kind == "conflated":
            self.told.append((message["from"], message["to"]))
        elif "channel" in message and self.acknowledged:
            assert message["offset"] > self.last, "a repeat, or out of order"
            self.last = message["offset"]
            self.got.append(message["offset"])

    def lose(self):
        self.read()  # what the kernel had is there; what Odin held is gone
        protocol, self.transport.held = self.transport.protocol, b""
        from twisted.internet.error import ConnectionLost
        from twisted.python.failure import Failure

        protocol.connectionLost(Failure(ConnectionLost()))

    def check(self):
        """Everything it should have, but for what it was told."""
        log = self.machine.log
        mine = [n for n, c in log if n > self.since and any(covers(p, c) for p in self.patterns)]
        channel = dict(log)
        got = set(self.got)
        for n in mine:
            if n in got or any(start < n <= end for start, end in self.gaps):
                continue
            assert channel[n].startswith("price."), (n, "is lost")
            assert any(start <= n <= end for start, end in self.told), (n, "was not told")
            assert any(m > n and channel[m] == channel[n] for m in got), (n, "has no newer one")
        assert got <= set(mine)


def _end(data, start):
    """Where the frame that begins at `start` ends; None if it is not whole."""
    rest = data[start:]
    if len(rest) < 2:
        return None
    length, at = rest[1], 2
    if length == 126:
        length, at = int.from_bytes(rest[2:4], "big"), 4
    elif length == 127:
        length, at = int.from_bytes(rest[2:10], "big"), 10
    return start + at + length if len(rest) >= at + length else None


class PromiseMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.patches = [
            mock.patch.object(backlog_module, "CONFLATE_AFTER", 400),
            mock.patch.object(backlog_module, "TAKE_BYTES", 300),
            mock.patch.object(backlog_module, "_SHARE", 3),
            mock.patch.object(backlog_module, "_PART", 5),
            mock.patch.object(backlog_module, "_HOLES", 2),
            mock.patch.object(batches_module, "BATCH_BYTES", 250),
            mock.patch.object(group_module, "MERGE_AFTER", 600),
            mock.patch.object(group_module, "_LOOK_AT", 4),
            mock.patch.object(group_module, "_COMPACT_AT", 3),
            mock.patch.object(connections, "sweep", sweep),
            mock.patch.object(connections, "BOUNDS", connections.BOUNDS._replace(messages=60)),
        ]
        for each in self.patches:
            each.start()
        self.server = Server()
        self.log, self.clients = [], []

    @precondition(lambda self: len(self.clients) < 6)
    @rule(patterns=st.sampled_from(PATTERNS))
    def come(self, patterns):
        self.clients.append(Client(self, patterns))

    @rule(channel=st.sampled_from(CHANNELS), count=st.integers(1, 12), turn=st.booleans())
    def publish(self, channel, count, turn):
        for _ in range(count):
            self.server.bridge.received(channel, b'{"n":%d}' % len(self.log))
            self.log.append((self.server.bridge.offset, channel))
        if turn:
            self.server.turn()

    @rule()
    def turn(self):
        self.server.turn()

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def stall(self, data):
        data.draw(st.sampled_from(self.clients)).transport.full = True

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), still_full=st.booleans())
    def drain(self, data, still_full):
        client = data.draw(st.sampled_from(self.clients))
        client.transport.full = still_full
        client.transport.drain()
        client.read()

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def drop(self, data):
        client = data.draw(st.sampled_from(self.clients))
        client.lose()
        if client.last is not None:
            client.connect()
        else:  # it never heard its acknowledgement: it begins anew
            self.clients.remove(client)

    def teardown(self):
        for client in self.clients:
            client.transport.full = False
            client.transport.drain()
        self.server.turn()
        for client in self.clients:
            client.read()
            client.check()
        assert self.server.metrics is not None
        for each in self.patches:
            each.stop()


class PromiseTests(SynchronousTestCase):
    def test_any_order_of_events(self):
        """500 random histories of some dozens of events each."""
        run_state_machine_as_test(
            PromiseMachine,
            settings=settings(max_examples=300, stateful_step_count=40, deadline=None),
        )
        self.assertEqual(self.flushLoggedErrors(), [])
