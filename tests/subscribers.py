"""Clients that compare, frame by frame, what they get with what was published and asked.

World    a server whose recoveries are late when the test says so, and all that was published
Client   one connection; it asks, stalls, reads, and raises AssertionError if a promise breaks
"""

import json
from collections import deque
from unittest import mock

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from odin.access.tokens import Identity, issue
from odin.delivery import backlog as backlog_module
from odin.delivery import playback as playback_module
from odin.delivery import search as search_module
from odin.errors import Unavailable
from odin.gateway.outflow import Outflow
from odin.wire.subjects import covers, is_pattern
from tests import connections
from tests.connections import SECRET, Server, frame, frames, head
from tests.test_promise import FullTransport, sweep

CHANNELS = ("price.a", "price.b", "trade.a", "trade.b")  # tests.connections conflates price.*
MOST_CHANNELS = 3
IN_TURN = ("subscription_ack", "unsubscription_ack", "subscriptions", "auth_ack", "error")


def token(channels):
    """A token that permits these channels."""
    identity = Identity(user_id="u", expires_at=4_000_000_000, channels=channels)
    return issue(identity, SECRET, 10**7)[0]


def wanted(patterns, channel):
    return any(covers(each, channel) for each in patterns)


def whole(data):
    """(whole frames at the front of `data`, as bytes; what is left)."""
    found = []
    while len(data) >= 2:
        length, at = data[1], 2
        if length == 126:
            length, at = int.from_bytes(data[2:4], "big"), 4
        if len(data) < at + length:
            break
        found.append(data[: at + length])
        data = data[at + length :]
    return found, data


class LateReplays:
    """Finds replays at once, or when the test says so; or in steps, as a real one does."""

    def __init__(self, server):
        self._history = server.bridge.history
        self._real = server.context.replays
        self.snapshot = self._history.snapshot
        self.late = self.in_steps = False
        self.waiting = []  # (Deferred, patterns, offset)

    def replay(self, patterns, epoch, offset, gone):
        if self.in_steps:
            return self._real.replay(patterns, epoch, offset, gone)
        if not self.late:
            return self.find(patterns, offset)
        self.waiting.append((Deferred(), patterns, offset))
        return self.waiting[-1][0]

    def find(self, patterns, offset):
        return self._history.replay(patterns, offset, 1000)

    def answer(self, number, outcome="found"):
        """The broker answers one of those that wait."""
        deferred, patterns, offset = self.waiting.pop(number)
        if outcome == "failed":
            deferred.errback(Unavailable("away"))
        else:
            deferred.callback(self.find(patterns, offset) if outcome == "found" else None)

    def watch(self, reader):
        """Nobody is let go for not reading."""


class World:
    """A server with late replays, and what it has published and told so far."""

    def __init__(self):
        self.server = Server()
        self.server.context.max_channels = MOST_CHANNELS
        self.server.context.replays = self.replays = LateReplays(self.server)
        self.log = []  # channels; the offset of the first message is 1
        self.heads = {}  # session -> the offsets at which it was told something, by reply
        tell = Outflow.tell

        def noting(outflow, data):
            kind = json.loads(frames(data)[0][1]).get("type")
            if kind in IN_TURN:
                self.heads.setdefault(outflow, deque()).append(len(self.log))
            tell(outflow, data)

        self.patches = [
            mock.patch.object(backlog_module, "CONFLATE_AFTER", 400),
            mock.patch.object(backlog_module, "TAKE_BYTES", 300),
            mock.patch.object(playback_module, "CHUNK_BYTES", 300),
            mock.patch.object(search_module, "QUICK", 0),
            mock.patch.object(search_module, "LOOKS", 3),
            mock.patch.object(search_module, "MATCHES", 1),
            mock.patch.object(connections, "sweep", sweep),
            mock.patch.object(Outflow, "tell", noting),
        ]

    def publish(self, channel):
        self.log.append(channel)
        self.server.bridge.received(channel, b'{"pad":"%060d"}' % len(self.log))

    def missed(self, start, end, patterns):
        """Offsets behind `start`, up to `end`, on `patterns`."""
        return [n for n in range(start + 1, end + 1) if wanted(patterns, self.log[n - 1])]


class Client:
    """One client: what it asked, and what it may get next."""

    def __init__(self, world, *, full=False):
        self.world = world
        self.protocol = world.server.factory.buildProtocol(None)
        self.transport = FullTransport(self.protocol)
        self.protocol.makeConnection(self.transport)
        self.protocol.dataReceived(head("/ws"))
        self.session = self.protocol.session
        self.transport.written, self.rest = b"", b""
        self.transport.full = full
        self.asked = deque()  # requests, the oldest first
        self.answered = 0
        self.acks = []
        self.permit, self.patterns, self.explicit = None, {">"}, False
        self.position = self.checked = len(world.log)  # nothing before that; all up to that is here
        self.recovered_to = 0
        self.snapshots = deque()  # that come next
        self.told = []  # ranges of offsets that were conflated
        self.owed = {}  # channel -> an offset, of which something newer must come
        self.got = []

    # -- what it does

    def ask(self, *requests):
        """Send all of them in one go."""
        data = b""
        for request in requests:
            self.answered += 1
            self.asked.append(request | {"id": self.answered})
            data += frame(json.dumps(self.asked[-1]))
        self.protocol.dataReceived(data)

    def subscribe(self, *channels, snapshot=False, recover=None):
        """Ask, and let the turn end."""
        self.ask(self.subscription(*channels, snapshot=snapshot, recover=recover))
        self.world.server.turn()

    def subscription(self, *channels, snapshot=False, recover=None):
        data = {"channels": channels, "snapshot": snapshot}
        if recover is not None:
            data["recover"] = {"epoch": self.world.server.bridge.epoch, "offset": recover}
        return {"type": "subscribe", "data": data}

    def drain(self, *, full=False):
        self.transport.full = full
        self.transport.drain()
        self.read()

    def lose(self):
        self.read()
        self.transport.held = b""
        self.protocol.connectionLost(Failure(ConnectionLost()))

    # -- what it gets

    def read(self):
        found, self.rest = whole(self.rest + self.transport.written)
        self.transport.written = b""
        for data in found:
            [(opcode, payload)] = frames(data)
            assert opcode == 1, "closed"
            self.take(json.loads(payload))

    def take(self, message):
        if self.snapshots:
            assert message.get("snapshot"), (message, "before the snapshot was whole")
        if message.get("snapshot"):
            assert self.snapshots, (message, "nobody asked for it")
            assert (message["channel"], message["offset"]) == self.snapshots.popleft()
            self.permitted(message["channel"])
        elif "channel" in message:
            self.feed(message["channel"], message["offset"])
        elif message["type"] == "conflated":
            self.told.append((message["from"], message["to"]))
        elif message["type"] in IN_TURN:
            self.acknowledged(message)

    def permitted(self, channel):
        assert self.permit is None or wanted(self.permit, channel), (channel, "is forbidden")

    def feed(self, channel, offset):
        assert self.world.log[offset - 1] == channel
        assert offset > self.position, (offset, self.position, "is older than what came before")
        assert wanted(self.patterns, channel), (channel, "is not subscribed to")
        self.permitted(channel)
        self.complete(offset - 1)
        self.position = self.checked = offset
        self.got.append(offset)
        self.owed.pop(channel, None)

    def complete(self, end):
        """Everything up to `end` has come, but for what was conflated."""
        for offset in self.world.missed(self.checked, end, self.patterns):
            channel = self.world.log[offset - 1]
            assert channel.startswith("price."), (offset, "is lost")
            assert offset > self.recovered_to, (offset, "is lost in a replay")
            assert any(start <= offset <= to for start, to in self.told), (offset, "was not told")
            self.owed[channel] = offset
        self.checked = max(self.checked, end)

    def acknowledged(self, message):
        """An answer, given when the feed was at `at`."""
        at = self.world.heads[self.session].popleft()
        if message.get("message", "").startswith("too many requests"):
            self.asked = deque(each for each in self.asked if each["id"] != message["id"])
            return
        self.acks.append(message)
        request = self.asked.popleft()
        assert message["id"] == request["id"], "not in the order of the requests"
        if message["type"] != "error":
            getattr(self, message["type"])(request, message, at)

    def settled(self, at):
        """All before it must be there, and nothing of before it may follow."""
        self.complete(at)
        self.position = at

    def subscription_ack(self, request, ack, at):
        self.settled(at)
        own = self.patterns if self.explicit else set()
        subscribed = {}
        for channel in request["data"]["channels"]:
            allowed = self.permit is None or wanted(self.permit, channel)
            many = own | {*subscribed}
            room = channel in many or len(many) < MOST_CHANNELS
            if is_pattern(channel) and allowed and room:
                subscribed[channel] = None
        assert ack["subscribed"] == list(subscribed), (ack, own, self.permit)
        if subscribed:
            self.patterns, self.explicit = own | {*subscribed}, True
            own = self.patterns
        assert ack["count"] == len(own) <= MOST_CHANNELS
        recover = request["data"].get("recover")
        assert ("recovered" in ack) == (recover is not None)
        if ack.get("recovered") and self.world.missed(recover["offset"], at, self.patterns):
            self.position = self.checked = recover["offset"]
            self.recovered_to = at
        elif request["data"]["snapshot"] and not ack.get("recovered"):
            log = self.world.log[:at]
            last = {channel: n for n, channel in enumerate(log, 1) if wanted(subscribed, channel)}
            self.snapshots.extend(sorted(last.items(), key=lambda each: each[1]))
        assert ack["offset"] == self.position

    def unsubscription_ack(self, request, ack, at):
        gone = [
            each for each in dict.fromkeys(request["data"]["channels"]) if each in self.patterns
        ]
        assert ack["unsubscribed"] == gone
        if gone:
            self.settled(at)
        self.patterns = self.patterns - {*gone}
        self.explicit = self.explicit or bool(gone)
        assert ack["count"] == len(self.patterns)

    def subscriptions(self, request, answer, at):
        assert answer["channels"] == sorted(self.patterns)

    def auth_ack(self, request, ack, at):
        self.settled(at)
        self.permit = request["permit"]
        if self.explicit:
            kept = (each for each in self.patterns if wanted(self.permit or (">",), each))
            self.patterns = set(kept)
        else:
            self.patterns = set(self.permit or (">",))

    def check(self):
        """At the end nothing is outstanding, and everything was there."""
        assert not self.asked, "not answered"
        assert not self.snapshots
        assert not self.session.awaiting
        self.complete(len(self.world.log))
        assert not self.owed, "conflated, and nothing newer came"


def auth(channels):
    return {"type": "auth", "token": token(channels), "permit": channels}
