"""FAULTS rows 21, 23 and 24: messages that are no requests, and requests that want too much."""

import json

from tests.integration.harness import OdinTestCase, eventually, sign

# Row 21: text -> the types that its answer may have
_ODD = {
    "": {"bad_request"},
    " ": {"bad_request"},
    "{": {"bad_request"},
    '{"type":"ping"': {"bad_request"},
    "nope": {"bad_request"},
    "[]": {"bad_request"},
    '["ping"]': {"bad_request"},
    "1": {"bad_request"},
    '"ping"': {"bad_request"},
    "null": {"bad_request"},
    "NaN": {"bad_request"},
    '{"type":"ping"}{"type":"ping"}': {"bad_request"},
    '{"type":"ping",}': {"bad_request"},
    "{'type':'ping'}": {"bad_request"},
    '{"type":"ping","timestamp":NaN}': {"bad_request"},
    '{"type":"ping","timestamp":Infinity}': {"bad_request"},
    '{"type":"ping","timestamp":1e999}': {"bad_request"},
    '{"type":"ping","timestamp":' + "9" * 5000 + "}": {"bad_request"},
    '{"type":"ping","id":' + "9" * 5000 + "}": {"bad_request"},
    '{"type":"ping","nonce":"\\ud800"}': {"bad_request"},
    '{"type":"\\udfff"}': {"bad_request"},
    '{"type":"ping","nonce":"\x01"}': {"bad_request"},
    '\ufeff{"type":"ping"}': {"bad_request"},
    "[" * 60_000: {"bad_request"},
    '{"a":' * 12_000: {"bad_request"},
    '{"type":"ping","x":' + "[" * 20_000 + "]" * 20_000 + "}": {"bad_request"},
    '{"type":"ping","nonce":"' + "x" * 65_000 + '"}': {"bad_request"},
    '{"type":"' + "x" * 65_000 + '"}': {"unknown_type"},
    '{"type":"constructor"}': {"unknown_type"},
    '{"type":"PING"}': {"unknown_type"},
    '{"__proto__":{"admin":true},"type":"ping"}': {"pong"},
    '{"type":"nonsense","type":"ping"}': {"pong", "unknown_type", "bad_request"},
    '{"type":"ping","x":"' + "y" * 65_000 + '"}': {"pong"},
}


class OddTextTests(OdinTestCase):
    """Text that is no request."""

    def test_answers(self) -> None:
        """Each gets an answer, a short one, and the connection stays."""
        for text, answers in _ODD.items():
            client = self.client()
            client.send(text)
            answer = client.receive_text()
            reply = json.loads(answer)
            self.assertIn(reply.get("code", reply["type"]), answers, text[:50])
            self.assertLess(len(answer), 1000, text[:50])
            self.assertEqual(client.ask({"type": "ping"})["type"], "pong", text[:50])

    def test_five_are_too_many(self) -> None:
        """The fifth within ten seconds ends the connection with 1008."""
        for text in ("nope", "[]", "[" * 60_000):
            client = self.client()
            for _ in range(4):
                self.assertEqual(client.ask(text)["code"], "bad_request")
            client.send(text)
            code, reason = client.closed()
            self.assertEqual((code, reason.partition(":")[0]), (1008, "bad_messages"))

    def test_mistakes_are_no_offence(self) -> None:
        """A request that is JSON but wrong never ends the connection."""
        client = self.client()
        for n in range(30):
            self.assertEqual(client.ask({"type": "dance", "id": n})["code"], "unknown_type")


class NonceTests(OdinTestCase):
    """Row 23, with a small window."""

    environment = {"DELIVERY_NONCE_LIMIT": "1000", "LIMITS_MESSAGES_PER_SECOND": "0"}

    def test_bounded(self) -> None:
        """The window holds what was configured; older nonces are forgotten, newer ones not."""
        client = self.client("/ws?channels=none", token=sign(publish=["a"]))

        def publish(nonce: int) -> str:
            reply = client.ask({"type": "publish", "channel": "a", "data": {"nonce": nonce}})
            return str(reply.get("code", reply["type"]))

        self.assertEqual({publish(n) for n in range(1, 2001)}, {"publish_ack"})
        self.assertEqual({publish(n) for n in range(1600, 2001)}, {"duplicate"})
        self.assertEqual(publish(1), "publish_ack")

    def test_nonce_of_a_replayed_message(self) -> None:
        """A replay is counted, and a client is told when it sent it."""
        client = self.client(token=sign(publish=["b"]))
        request = {"type": "publish", "channel": "b", "data": {"nonce": "N" * 60_000}}
        client.send(request)
        client.until(lambda message: message.get("type") == "publish_ack")
        self.assertEqual(client.ask(request)["code"], "duplicate")


class SubscriptionLimitTests(OdinTestCase):
    """Row 24."""

    environment = {
        "LIMITS_MESSAGES_PER_SECOND": "0",
        "LIMITS_CHANNELS_PER_CLIENT": "100",
        "LIMITS_KEPT_PER_CLIENT": "20000",
        "SERVER_MAX_MESSAGE_SIZE": "4000000",
    }

    def test_too_many_channels(self) -> None:
        """Above channelsPerClient each channel is rejected, however they come."""
        client = self.client()
        names = [f"x.{n}" for n in range(130)]
        ack = client.subscribe(*names)
        self.assertEqual((ack["subscribed"], ack["count"]), (names[:100], 100))
        self.assertEqual({each["code"] for each in ack["rejected"]}, {"limit_exceeded"})
        self.assertEqual(client.subscribe("one.more")["rejected"][0]["code"], "limit_exceeded")
        self.assertEqual(client.subscribe("x.1")["subscribed"], ["x.1"])
        client.ask({"type": "unsubscribe", "data": {"channels": ["x.1"]}})
        self.assertEqual(client.subscribe("one.more")["count"], 100)

    def test_names_that_take_too_much(self) -> None:
        """Above keptPerClient, too: 80 bytes for each name, and its characters."""
        client = self.client()
        names = [f"{n:02}" + "x" * 248 for n in range(90)]
        ack = client.subscribe(*names)
        self.assertEqual((ack["subscribed"], ack["count"]), (names[:60], 60))
        self.assertEqual({each["code"] for each in ack["rejected"]}, {"limit_exceeded"})
        client.ask({"type": "unsubscribe", "data": {"channels": names[:30]}})
        self.assertEqual(client.subscribe(*names[60:])["count"], 60)

    def test_too_many_at_connect(self) -> None:
        """The limit holds for ?channels=, too."""
        names = ",".join(f"x{n}" for n in range(101))
        wire = self.wire()
        wire.send(f"GET /ws?channels={names} HTTP/1.1\r\nHost: {{host}}\r\nUpgrade: websocket\r\n"
                  "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")  # fmt: skip
        self.assertEqual(wire.response().status, 400)

    def test_too_many_in_one_request(self) -> None:
        """100,000 names, or 10,000 wildcards, in one request are refused as a whole."""
        client = self.client()
        for names in ([f"x.{n}" for n in range(100_000)], [f"*.{n}.>" for n in range(10_000)]):
            for kind in ("subscribe", "unsubscribe"):
                reply = client.ask({"type": kind, "id": 1, "data": {"channels": names}})
                self.assertEqual((reply.get("code"), reply["id"]), ("limit_exceeded", 1))
        self.assertEqual(client.ask({"type": "subscriptions"})["channels"], [">"])

    def test_loop(self) -> None:
        """Subscribing and unsubscribing in a loop leaves nothing behind."""
        eventually(lambda: self.odin.clients() == 0, "an empty server")
        client = self.client()
        for n in range(500):
            client.subscribe(f"a.{n}", f"*.{n}.>", ">")
            client.ask({"type": "unsubscribe", "data": {"channels": [f"a.{n}", f"*.{n}.>"]}})
        hub = self.odin.get("/stats").json()["hub"]
        self.assertEqual((hub["groups"], hub["sessions"]), (1, 1))
        client.close()
        eventually(lambda: self.odin.get("/stats").json()["hub"]["groups"] == 0, "an empty index")
