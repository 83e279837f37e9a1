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


class _Unclosable(_Client):
    """A client that cannot be closed either."""

    is_closed = False

    async def close(self):
        raise AttributeError("close")


class _Broken(_Receiver):
    """A receiver with a defect."""

    def status_changed(self, connected, epoch=None, offset=0, *, gap=False):
        raise ZeroDivisionError


class NatsBusTests(SynchronousTestCase):
    def trouble(self, client, receiver, connected=False):
        """What a bus says of its last failure but one; it goes on after each."""
        client.attempts = 0
        self.patch(module, "FeedClient", client)
        trouble = []

        async def run():
            client.enough = asyncio.Event()
            config = Nats(reconnect_wait_ms=1, reconnect_jitter_ms=0)
            bus = module.NatsBus(config, asyncio.get_running_loop(), "node")
            bus.attach(receiver)
            bus.connected = connected
            bus.startService()
            await asyncio.wait_for(client.enough.wait(), 10)
            trouble.append(bus.trouble)
            await asyncio.wait_for(bus._stop(), 10)
            self.assertEqual(asyncio.all_tasks() - {asyncio.current_task()}, set())

        asyncio.run(run())
        self.assertEqual(client.attempts, 5)
        return trouble[0]

    def test_any_exception(self):
        """Whatever class of exception a connection ends with: it is tried again."""
        self.assertIn("ValueError: value", self.trouble(_Client, _Receiver()))

    def test_close_fails(self):
        """A connection that cannot even be closed is given up for the next one."""
        self.assertIn("AttributeError: close", self.trouble(_Unclosable, _Receiver()))

    def test_defect(self):
        """A defect in what hears of the connection is logged; the connection is still held."""
        self.trouble(_Client, _Broken(), connected=True)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
