"""The connection to the broker is held whatever the library does; here without a broker."""

import asyncio

from twisted.trial.unittest import SynchronousTestCase

from odin.bus import nats as module
from odin.config import Nats


class _Receiver:
    """Hears of nothing here."""

    def status_changed(self, connected, epoch=None, offset=0, *, gap=False):
        pass


class _Client:
    """A client of the library that fails in another way at each attempt."""

    failures = (TypeError("seed"), KeyError("key"), RuntimeError("run"), ValueError("value"))
    attempts = 0
    enough: asyncio.Event
    is_connected = False
    is_closed = True

    async def connect(self, **_options):
        kind = type(self)
        kind.attempts += 1
        if kind.attempts > len(kind.failures):
            kind.enough.set()
            await asyncio.sleep(3600)
        raise kind.failures[kind.attempts - 1]


class NatsBusTests(SynchronousTestCase):
    def test_any_exception(self):
        """Whatever class of exception a connection ends with: it is tried again."""
        self.patch(module, "FeedClient", _Client)

        async def run():
            _Client.enough = asyncio.Event()
            config = Nats(reconnect_wait_ms=1, reconnect_jitter_ms=0)
            bus = module.NatsBus(config, asyncio.get_running_loop(), "node")
            bus.attach(_Receiver())
            bus.startService()
            await asyncio.wait_for(_Client.enough.wait(), 10)
            self.assertIn("ValueError: value", bus.trouble)
            await asyncio.wait_for(bus._stop(), 10)
            self.assertEqual(asyncio.all_tasks() - {asyncio.current_task()}, set())

        asyncio.run(run())
        self.assertEqual(_Client.attempts, 5)
