"""A burst for very many different subscriptions: memory stays bounded, and the feed goes on."""

import json

from tests.integration.clients import HANDSHAKE, Wire
from tests.integration.harness import eventually
from tests.integration.test_nats import NatsTestCase

_CLIENTS = 300
_MESSAGES = 20_000
_PADDING = b"x" * 1000
_TRADE = "odin.trades.X"


class BurstTests(NatsTestCase):
    def test_twenty_megabytes(self) -> None:
        """300 clients with channels of their own, deaf to the burst; another one gets its feed."""
        nats = self.broker()
        odin = self.joined(nats.url, WEBSOCKET_PING_INTERVAL="0")
        other = self.client(odin=odin)
        other.subscribe("odin.trades.OTHER")
        deaf = [self.wire(odin, receive_buffer=4096) for _ in range(_CLIENTS)]
        for number, wire in enumerate(deaf):
            self.subscribed(wire, f"{_TRADE},odin.trades.U{number}")

        def resident() -> int:
            return int(odin.get("/stats").json()["memory"]["resident"])

        before = peak = resident()
        for first in range(0, _MESSAGES, 1000):
            burst = (b'{"n":%d,"pad":"%b"}' % (n, _PADDING) for n in range(first, first + 1000))
            nats.publish_each(
                *((_TRADE, payload) for payload in burst),
                ("odin.trades.OTHER", b'{"n":%d}' % first),
            )
            peak = max(peak, resident())
        got = [other.receive()["n"] for _ in range(0, _MESSAGES, 1000)]
        self.assertEqual(got, list(range(0, _MESSAGES, 1000)))
        eventually(lambda: odin.clients() == 1, "the end of all that do not read")
        peak = max(peak, resident())
        self.assertLess(peak - before, 64 << 20)
        self.assertEqual(odin.get("/stats").json()["nats"]["messages"], _MESSAGES + 20)

    def subscribed(self, wire: Wire, channels: str) -> None:
        """Connect with `channels`, and read the welcome."""
        wire.send(f"{HANDSHAKE}\r\n".replace("{path}", f"/ws?channels={channels}"))
        self.assertEqual(wire.response().status, 101)
        self.assertEqual(json.loads(wire.receive()[1])["type"], "connectionEstablished")
