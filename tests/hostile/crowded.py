"""A server with a full history: 10,000 channels with a last value, and messages to recover."""

from typing import ClassVar

from tests.hostile.field import Field, Hostile, ground
from tests.integration.harness import Nats, Odin, eventually

CHANNELS = 10_000  # delivery.snapshotChannels
_BATCH = 2000


class Crowded(Field):
    """A server at a broker, filled once for all tests of a class."""

    messages = CHANNELS
    payload = 40  # bytes of each, besides its number
    broker_options: tuple[str, ...] = ()
    _brokers: ClassVar[dict[type, Nats]] = {}
    _filled: ClassVar[set[int]] = set()

    @property
    def odin(self) -> Odin:
        owner = type(self)
        nats = self._brokers.get(owner)
        if nats is None or not nats.running:
            nats = self._brokers[owner] = Nats(*self.broker_options)
            owner.options = (*self.options_of(), "--nats-url", nats.url)
        odin = super().odin
        if odin.pid not in self._filled:
            self._filled.add(odin.pid)
            eventually(lambda: odin.get("/readyz").status == 200, "ready")
            self.fill(odin)
        return odin

    @property
    def nats(self) -> Nats:
        self.odin  # noqa: B018 - it starts the broker
        return self._brokers[type(self)]

    def options_of(self) -> tuple[str, ...]:
        return ()

    def fill(self, odin: Odin) -> None:
        """Bring the history to its size; the server has seen all of it afterwards."""
        nats, pad = self._brokers[type(self)], b"x" * self.payload
        names = [name(number % CHANNELS) for number in range(self.messages)]
        for first in range(0, len(names), _BATCH):
            payloads = ((each, b'{"v":"%b"}' % pad) for each in names[first : first + _BATCH])
            nats.publish_each(*payloads)
        eventually(lambda: odin.metric("nats_messages_total") >= self.messages, "the history")
        ground(odin)

    def position(self, odin: Odin | None = None) -> tuple[str, int]:
        """(epoch, offset) of the feed now."""
        client = Hostile((odin or self.odin).host)
        welcome = client.open("?channels=none")
        client.close()
        return welcome["epoch"], welcome["offset"]


def name(number: int) -> str:
    return f"odin.token.c{number}.price"
