"""Clients that do not read: they are let go with 4408, and the others notice nothing."""

from typing import Any

from tests.integration.clients import TEXT
from tests.integration.harness import OdinTestCase, eventually

_SIZE = 100_000
_COUNT = 120


class SlowTests(OdinTestCase):
    """Little may wait for a client, and messages are big."""

    environment = {
        "DELIVERY_MAX_PENDING": "300000",
        "SERVER_MAX_MESSAGE_SIZE": "200000",
        "SERVER_WRITE_TIMEOUT": "2",
    }

    def publish(self, first: int = 0, count: int = _COUNT) -> None:
        """Publish numbered messages, more than all buffers of a connection hold."""
        for n in range(first, first + count):
            self.odin.publish("a.b", {"n": n, "x": "y" * _SIZE})

    def test_never_reads(self) -> None:
        """A client that never reads is dropped as too slow; another one gets all, in order."""
        name = 'odin_disconnects_total{code="4408",initiator="server"}'
        before = self.odin.metric(name)
        client = self.client()
        deaf = self.wire(receive_buffer=4096)
        deaf.upgrade()
        for n in range(_COUNT):
            self.publish(n, 1)
            self.assertEqual(client.receive()["n"], n)
        eventually(lambda: self.odin.metric(name) == before + 1, "the end of the slow client")
        self.assertEqual(self.odin.clients(), 1)
        self.assertEqual(client.ask({"type": "ping"})["type"], "pong")

    def test_is_told_why(self) -> None:
        """When it reads at last, it finds what was sent before in order, then 4408 and why."""
        deaf = self.websocket()
        self.publish()
        numbers = []
        while True:
            opcode, payload = deaf.receive()
            if opcode != TEXT:
                break
            numbers.append(int(payload.split(b'"n":')[1].split(b",")[0]))
        self.assertEqual(opcode, 8)
        self.assertEqual(int.from_bytes(payload[:2], "big"), 4408)
        self.assertRegex(payload[2:].decode(), r"^slow_consumer: \d+ bytes queued$")
        self.assertTrue(0 < len(numbers) < _COUNT)
        self.assertEqual(numbers, list(range(len(numbers))))

    def test_takes_nothing(self) -> None:
        """One that takes nothing for writeTimeout is let go, even with little waiting."""
        name = 'odin_disconnects_total{code="4408",initiator="server"}'
        before = self.odin.metric(name)
        deaf = self.wire(receive_buffer=4096)
        deaf.upgrade()
        published = 0
        while not self.odin.get("/stats").json()["connections"]["behind"]:
            self.publish(published, 1)
            published += 1
            self.assertLess(published, _COUNT)
        eventually(lambda: self.odin.metric(name) == before + 1, "the end of the stalled client")

    def test_slow_but_steady(self) -> None:
        """A client that falls behind and catches up loses nothing."""
        client = self.websocket()
        received: list[Any] = []
        for round_ in range(30):
            self.publish(round_ * 3, 3)
            received += [client.receive()[1] for _ in range(3)]
        numbers = [int(each.split(b'"n":')[1].split(b",")[0]) for each in received]
        self.assertEqual(numbers, list(range(90)))

    def test_many_deaf_clients(self) -> None:
        """Memory stays within what is configured for each of them."""
        before = self.odin.get("/stats").json()["memory"]["resident"]
        for _ in range(40):
            self.wire(receive_buffer=4096).upgrade()
        peak = 0
        for n in range(60):
            self.publish(n, 1)
            peak = max(peak, self.odin.get("/stats").json()["memory"]["resident"])
        self.assertLess(peak - before, 40 * 600_000)
        eventually(lambda: self.odin.clients() == 0, "the end of all slow clients")
