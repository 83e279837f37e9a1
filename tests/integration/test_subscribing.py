"""Several subscriptions in one go, through a real server: each of them is whole."""

import json
from collections.abc import Callable
from typing import Any

from tests.integration.clients import TEXT, Wire, frame
from tests.integration.harness import Odin, OdinTestCase, eventually, sign
from tests.integration.test_jetstream import STREAM
from tests.integration.test_nats import NatsTestCase

PRICE, TRADE = "odin.token.BTC.price", "odin.trades.BTC"


def asking(*requests: dict[str, Any]) -> bytes:
    """The frames of several requests, numbered from 1."""
    texts = [json.dumps(each | {"id": n}) for n, each in enumerate(requests, 1)]
    return b"".join(frame(TEXT, each.encode()) for each in texts)


def subscription(*channels: str, **more: Any) -> dict[str, Any]:
    return {"type": "subscribe", "data": {"channels": channels} | more}


def until(wire: Wire, last: Callable[[Any], object]) -> list[Any]:
    """All messages up to the first that `last` accepts, with it."""
    messages = [json.loads(wire.receive()[1])]
    while not last(messages[-1]):
        messages.append(json.loads(wire.receive()[1]))
    return messages


class InOneGoTests(OdinTestCase):
    """Without a broker: everything is answered at once, but not everything is read at once."""

    environment = {"LIMITS_MESSAGES_PER_SECOND": "0", "DELIVERY_HISTORY_MESSAGES": "1000"}

    def test_recoveries(self) -> None:
        """Two recoveries in one go are both whole, to a client that cannot read them at once."""
        welcome = self.client().welcome
        epoch, start = welcome["epoch"], welcome["offset"]
        for n in range(100):
            self.odin.publish((PRICE, TRADE)[n % 2], {"n": n, "x": "y" * 50_000})
        wire = self.wire(receive_buffer=4096)
        wire.upgrade()
        wire.send(
            asking(
                subscription(PRICE, recover={"epoch": epoch, "offset": start}),
                subscription(TRADE, recover={"epoch": epoch, "offset": start + 90}),
            )
        )
        self.odin.publish(TRADE, {"n": 100})
        got = until(wire, lambda each: each.get("id") == 2)
        self.assertIs(got[-1]["recovered"], True)
        prices = [each["n"] for each in got if each.get("channel") == PRICE]
        self.assertEqual(prices, list(range(0, 100, 2)))
        got = until(wire, lambda each: each.get("n") == 100)
        self.assertEqual([each["n"] for each in got], list(range(90, 101)))

    def test_the_same_patterns_again(self) -> None:
        """What is on its way already comes before the acknowledgement and the snapshot."""
        wire = self.websocket(f"Authorization: Bearer {sign(publish=['odin.>'])}\r\n")
        wire.send(asking(subscription(TRADE)))
        until(wire, lambda each: each.get("id") == 1)
        one, two, three = (
            {"type": "publish", "channel": TRADE, "data": {"n": n}} for n in (1, 2, 3)
        )
        wire.send(asking(one, two, subscription(TRADE, snapshot=True)))
        got = until(wire, lambda each: "snapshot" in each)
        wire.send(asking(three))
        got += until(wire, lambda each: each.get("n") == 3)
        kinds = [each.get("n", each.get("type")) for each in got]
        expected = [1, 2, "subscription_ack", 2, 3]
        self.assertEqual([each for each in kinds if each != "publish_ack"], expected)


class WaitingTests(NatsTestCase):
    """With JetStream: a recovery after an offset that this node has not seen yet has to wait."""

    def ready(self) -> tuple[Odin, Wire, dict[str, Any], int]:
        """(server, client, a position that is 5 messages ahead, its offset)."""
        self.nats = self.broker("-js")
        odin = self.joined(self.nats.url, **STREAM)
        wire = self.wire(odin)
        wire.upgrade(f"Authorization: Bearer {sign()}\r\n")
        welcome = json.loads(wire.receive()[1])
        ahead = welcome["offset"] + 5
        return odin, wire, {"epoch": welcome["epoch"], "offset": ahead}, ahead

    def test_in_turn(self) -> None:
        """What is asked behind it waits as well, and loses nothing."""
        odin, wire, ahead, offset = self.ready()
        wire.send(asking(subscription(PRICE, recover=ahead), subscription(TRADE)))
        eventually(lambda: odin.get("/stats").json()["messages"]["received"] >= 2, "both requests")
        self.nats.publish(TRADE, *(b'{"n":%d}' % n for n in range(5)))
        self.nats.publish(PRICE, b'{"n":5}')
        got = until(wire, lambda each: each.get("id") == 2)
        acks = [each for each in got if each.get("type") == "subscription_ack"]
        self.assertEqual([(each["id"], each.get("recovered")) for each in acks],
                         [(1, True), (2, None)])  # fmt: skip
        self.nats.publish(TRADE, *(b'{"n":%d}' % n for n in range(6, 20)))
        rest = until(wire, lambda each: each.get("n") == 19)
        start = acks[-1]["offset"]
        self.assertEqual([each["offset"] for each in rest if each.get("channel") == TRADE],
                         [n for n in range(start + 1, offset + 16) if n != offset + 1])  # fmt: skip

    def test_a_token_meanwhile(self) -> None:
        """A token that permits less ends what was asked before it, also if it was not answered."""
        odin, wire, ahead, _ = self.ready()
        narrow = {"type": "auth", "token": sign(channels=["odin.token.>"])}
        wire.send(
            asking(
                subscription(TRADE, recover=ahead), narrow, subscription(TRADE, PRICE),
                {"type": "subscriptions"},
            )
        )  # fmt: skip
        eventually(lambda: odin.get("/stats").json()["messages"]["received"] >= 4, "all requests")
        self.nats.publish(PRICE, *(b'{"n":%d}' % n for n in range(5)))
        got = until(wire, lambda each: each.get("id") == 4)
        answers = [each for each in got if "id" in each]
        self.assertEqual([each["id"] for each in answers], [1, 2, 3, 4])
        self.assertEqual(answers[2]["rejected"][0]["code"], "forbidden")
        self.assertEqual(answers[3]["channels"], [PRICE])
