"""Snapshots and recovery, slow clients and conflation, through one real server without a broker."""

import json
import threading
from typing import Any

from tests.integration.clients import TEXT, Client, frame
from tests.integration.harness import OdinTestCase, eventually, sign

PRICE, OTHER, TRADE = "odin.token.BTC.price", "odin.token.ETH.price", "odin.trades.BTC"


class SnapshotTests(OdinTestCase):
    """The last value of each channel, at once."""

    def test_before_live(self) -> None:
        """Ack, then the last message of each matching channel, marked; then live ones."""
        for n in range(3):
            for channel in (PRICE, OTHER, TRADE):
                self.odin.publish(channel, {"n": n})
        client = self.client()
        ask = {"channels": ["odin.token.*.price"], "snapshot": True}
        ack = client.ask({"type": "subscribe", "id": 1, "data": ask})
        self.assertEqual(ack["type"], "subscription_ack")
        self.assertNotIn("recovered", ack)
        self.odin.publish(PRICE, {"n": 3})
        got = [client.receive() for _ in range(3)]
        self.assertEqual([each["channel"] for each in got], [PRICE, OTHER, PRICE])
        self.assertEqual([each.get("snapshot") for each in got], [True, True, None])
        self.assertEqual([each["n"] for each in got], [2, 2, 3])
        offsets = [each["offset"] for each in got]
        self.assertEqual(offsets, sorted(offsets))

    def test_not_asked_for(self) -> None:
        """Without the wish there is none, and none of channels that were not asked for."""
        self.odin.publish(PRICE, {"n": 0})
        client = self.client()
        client.subscribe("odin.trades.*")
        data = {"channels": ["no.such"], "snapshot": True}
        client.ask({"type": "subscribe", "data": data})
        self.odin.publish(TRADE, {"n": 1})
        self.assertEqual(client.receive()["n"], 1)

    def test_forbidden(self) -> None:
        """No last value of a channel that the client may not see."""
        self.odin.publish("secret.a", {"n": 0})
        client = self.client(token=sign(channels=["odin.>"]))
        data = {
            "channels": [">", "secret.a"],
            "snapshot": True,
            "recover": {"epoch": "", "offset": 0},
        }
        ack = client.ask({"type": "subscribe", "data": data})
        self.assertEqual([each["code"] for each in ack["rejected"]], ["forbidden"] * 2)
        self.odin.publish(TRADE, {"n": 1})


class RecoveryTests(OdinTestCase):
    """What was missed, all of it or nothing."""

    environment = {"DELIVERY_HISTORY_MESSAGES": "200", "DELIVERY_RECOVER_MESSAGES": "150",
                   "LIMITS_MESSAGES_PER_SECOND": "0"}  # fmt: skip

    def recover(self, epoch: str, offset: int, *channels: str) -> tuple[Client, Any]:
        client = self.client("/ws?channels=none")
        data = {"channels": channels or [">"], "recover": {"epoch": epoch, "offset": offset}}
        return client, client.ask({"type": "subscribe", "data": data})

    def test_in_order_then_live(self) -> None:
        """Exactly what the channels had since then, then live ones: no gap, no repeat."""
        client = self.client()
        first = client.ask({"type": "subscribe", "data": {"channels": [">"]}})
        self.odin.publish(PRICE, {"n": 0})
        last = client.receive()["offset"]
        client.close()
        for n in range(1, 60):
            self.odin.publish((PRICE, TRADE, OTHER)[n % 3], {"n": n})
        back, ack = self.recover(first["epoch"], last)
        self.assertIs(ack["recovered"], True)
        self.odin.publish(TRADE, {"n": 60})
        self.assertEqual([back.receive()["n"] for _ in range(60)], list(range(1, 61)))
        back, ack = self.recover(first["epoch"], last, TRADE)
        got = [back.receive()["n"] for _ in range(21)]
        self.assertEqual(got, [*range(1, 60, 3), 60])
        self.assertGreaterEqual(
            self.odin.metric('odin_recovery_total{result="recovered",source="memory"}'), 2
        )

    def test_while_live_messages_arrive(self) -> None:
        """Many recoveries under load: each stream is whole."""
        client = self.client()
        epoch = client.welcome["epoch"]
        first = start = client.subscribe(PRICE)["offset"]
        stop = threading.Event()
        published = []

        def publish() -> None:
            while not stop.is_set():
                self.odin.publish(PRICE, {"n": len(published)})
                published.append(1)

        publisher = threading.Thread(target=publish)
        publisher.start()
        try:
            for _ in range(10):
                back, ack = self.recover(epoch, start, PRICE)
                if not ack["recovered"]:
                    break
                self.assertEqual(ack["offset"], start)
                until = first + len(published) + 5
                offsets = [back.receive()["offset"] for _ in range(start, until)]
                self.assertEqual(offsets, list(range(start + 1, until + 1)))
                start = offsets[-1]
        finally:
            stop.set()
            publisher.join()

    def test_never_a_part(self) -> None:
        """Another epoch, an offset from the future, too long ago, too many: an honest no."""
        client = self.client()
        epoch, offset = client.welcome["epoch"], client.welcome["offset"]
        for n in range(160):
            self.odin.publish(TRADE, {"n": n})
        head = offset + 160
        for epoch_, offset_ in (("other", head), (epoch, head + 100), (epoch, head - 155)):
            _, ack = self.recover(epoch_, offset_)
            self.assertIs(ack["recovered"], False, (epoch_, offset_))
        for n in range(100):
            self.odin.publish(TRADE, {"n": n})
        back, ack = self.recover(epoch, offset)
        self.assertIs(ack["recovered"], False)
        self.odin.publish(TRADE, {"n": "live"})
        self.assertEqual(back.receive()["n"], "live")
        self.assertGreater(self.odin.metric("odin_history_bytes"), 1000)

    def test_bad_positions(self) -> None:
        """What is no position is a bad request; the connection stays."""
        client = self.client()
        for position in (5, {}, {"epoch": "e"}, {"epoch": "e", "offset": -1},
                         {"epoch": 7, "offset": 1}, {"epoch": "e", "offset": "1"}):  # fmt: skip
            data = {"channels": ["a"], "recover": position}
            reply = client.ask({"type": "subscribe", "data": data})
            self.assertEqual(reply["code"], "bad_request", position)

    def test_big_replay(self) -> None:
        """More than a socket holds, to a client that reads slowly: all of it, once."""
        client = self.client()
        epoch, start = client.welcome["epoch"], client.welcome["offset"]
        for n in range(120):
            self.odin.publish(TRADE, {"n": n, "x": "y" * 50_000})
        wire = self.wire(receive_buffer=4096)
        wire.upgrade()
        request = {"type": "subscribe", "data": {
            "channels": [TRADE], "recover": {"epoch": epoch, "offset": start}}}  # fmt: skip
        wire.send(frame(TEXT, json.dumps(request).encode()))
        self.odin.publish(TRADE, {"n": 120})
        numbers: list[int] = []
        while len(numbers) < 121:
            message = json.loads(wire.receive()[1])
            if "n" in message:
                numbers.append(message["n"])
            elif message["type"] == "subscription_ack":
                numbers.clear()  # the last one may have come live before, too
        self.assertEqual(numbers, list(range(121)))


class ConflationTests(OdinTestCase):
    """One that stalls gets the newest prices and all trades, and is told."""

    environment = {"SERVER_WRITE_TIMEOUT": "300", "LIMITS_MESSAGES_PER_SECOND": "0"}

    def test_prices_merged_trades_kept(self) -> None:
        """The order is the feed's; the newest of each channel; every trade; the rest is told."""
        wire = self.wire(receive_buffer=4096)
        self.assertEqual(wire.upgrade().status, 101)
        published: dict[str, list[int]] = {PRICE: [], OTHER: [], TRADE: []}
        n = 0
        while n < 900:
            channel = (PRICE, OTHER, PRICE, TRADE)[n % 4] if n % 40 < 4 else (PRICE, OTHER)[n % 2]
            self.odin.publish(channel, {"n": n, "pad": "x" * 1500})
            published[channel].append(n)
            n += 1
        self.assertEqual(self.odin.metric("odin_slow_clients"), 1)
        self.assertGreater(self.odin.metric("odin_conflated_messages_total"), 100)
        self.odin.publish(TRADE, {"n": n, "last": True})
        published[TRADE].append(n)
        got: list[Any] = []
        while not got or not got[-1].get("last"):
            got.append(json.loads(wire.receive()[1]))
        told = [each for each in got if each.get("type") == "conflated"]
        feed = [each for each in got if "channel" in each]
        offsets = [each["offset"] for each in feed]
        self.assertEqual(offsets, sorted(set(offsets)))
        by_channel = {c: [e["n"] for e in feed if e["channel"] == c] for c in published}
        self.assertEqual(by_channel[TRADE], published[TRADE])
        for channel in (PRICE, OTHER):
            self.assertEqual(by_channel[channel][-1], published[channel][-1])
        missing = n + 1 - len(feed)
        self.assertEqual(sum(each["skipped"] for each in told), missing)
        self.assertLessEqual(max(each["channels"] for each in told), 2)
        self.odin.publish(PRICE, {"n": "live"})
        self.assertEqual(json.loads(wire.receive()[1])["n"], "live")
        eventually(lambda: self.odin.metric("odin_slow_clients") == 0, "catching up")

    def test_requests_are_answered_in_order(self) -> None:
        """What a slow client asks is answered behind what it has to read."""
        wire = self.wire(receive_buffer=4096)
        wire.upgrade()
        for n in range(300):
            self.odin.publish(TRADE, {"n": n, "pad": "x" * 1500})
        wire.send(frame(TEXT, b'{"type":"unsubscribe","id":9,"data":{"channels":[">"]}}'))
        eventually(lambda: self.odin.get("/stats").json()["messages"]["received"], "the request")
        self.odin.publish(TRADE, {"n": "too late"})
        seen = []
        while True:
            message = json.loads(wire.receive()[1])
            if message.get("id") == 9:
                break
            seen.append(message.get("n"))
        self.assertEqual(seen[1:], list(range(300)))


class MemoryTests(OdinTestCase):
    """A slow client costs what its channels need, not what the rate brings."""

    environment = {"SERVER_WRITE_TIMEOUT": "300", "LIMITS_MESSAGES_PER_SECOND": "0"}

    def test_never_reading(self) -> None:
        """100 clients that never read, 4 MB of prices: the server keeps a few frames."""
        wires = [self.wire(receive_buffer=4096) for _ in range(100)]
        for wire in wires:
            wire.upgrade()
        before = self.odin.get("/stats").json()["memory"]["resident"]
        publisher = self.client("/ws?channels=none", token=sign(publish=[">"]))
        for n in range(4000):
            data = {"n": n, "pad": "x" * 1000}
            publisher.send(
                {"type": "publish", "channel": f"odin.token.T{n % 5}.price", "data": data}
            )
        for _ in range(4000):
            self.assertEqual(publisher.receive()["type"], "publish_ack")
        after = self.odin.get("/stats").json()
        self.assertEqual(after["connections"]["behind"], 100)
        self.assertEqual(self.odin.clients(), 101)
        # the ring holds the 4 MB once; without conflation the clients would hold 400 MB
        self.assertLess(after["memory"]["resident"] - before, 40_000_000)
        self.assertGreater(self.odin.metric("odin_conflated_messages_total"), 100_000)
        self.assertEqual(self.odin.metric('odin_dropped_messages_total{reason="slow_consumer"}'), 0)
