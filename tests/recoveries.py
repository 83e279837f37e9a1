"""A recovery without a gateway, and clients that compare its answers with what was published."""

from collections import deque

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from odin.bus.bridge import Bridge
from odin.bus.interfaces import Stored
from odin.bus.memory import MemoryBus
from odin.bus.recovery import Recovery
from odin.delivery.history import Bounds, History
from odin.delivery.nonces import NonceWindow
from odin.delivery.playback import Playback
from odin.errors import Unavailable
from odin.wire.subjects import covers

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
