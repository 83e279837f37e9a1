"""Every message of the protocol, asked for by a client."""

import time

from tests.integration.harness import OdinTestCase, sign


def now_ms() -> int:
    return int(time.time() * 1000)


class ConversationTests(OdinTestCase):
    """Requests and replies."""

    def test_welcome(self) -> None:
        """The first message has every member of the protocol, with true values."""
        first, second = self.client().welcome, self.client().welcome
        self.assertEqual(
            set(first),
            {
                "type", "timestamp", "nonce", "clientId", "serverTime", "capabilities",
                "heartbeatInterval", "maxMessageSize", "epoch", "offset", "node", "version",
            },
        )  # fmt: skip
        self.assertEqual(first["type"], "connectionEstablished")
        self.assertEqual(
            first["capabilities"], ["price-updates", "trade-notifications", "market-stats"]
        )
        self.assertEqual((first["heartbeatInterval"], first["maxMessageSize"]), (25_000, 65_536))
        self.assertTrue(abs(first["serverTime"] - now_ms()) < 10_000)
        self.assertNotEqual(first["clientId"], second["clientId"])
        self.assertNotEqual(first["nonce"], second["nonce"])
        self.assertEqual(first["epoch"], second["epoch"])
        self.assertEqual(first["version"], self.odin.get("/stats").json()["versions"]["odin"])

    def test_ping(self) -> None:
        """A pong has the ping's nonce, timestamp and id, and our own time."""
        client = self.client()
        pong = client.ask({"type": "ping", "timestamp": 123, "nonce": "n-1", "id": 7})
        self.assertTrue(abs(pong.pop("timestamp") - now_ms()) < 10_000)
        self.assertEqual(
            pong,
            {
                "type": "pong", "id": 7, "nonce": "n-1", "originalTimestamp": 123,
                "clientId": client.welcome["clientId"],
            },
        )  # fmt: skip

    def test_ping_without_anything(self) -> None:
        """A ping without nonce gets a fresh one, and no id where none was sent."""
        client = self.client()
        pongs = [client.ask({"type": "ping"}), client.ask({"type": "ping", "nonce": ""})]
        self.assertTrue(all(each["nonce"] for each in pongs))
        self.assertNotEqual(pongs[0]["nonce"], pongs[1]["nonce"])
        self.assertNotIn("id", pongs[0])

    def test_ids(self) -> None:
        """An id of any allowed kind comes back as it was, on replies and on errors."""
        client = self.client()
        for each in (0, -1, 2**53, "x", "", "i" * 36, "ü\n"):
            for kind in ("heartbeat", "nonsense"):
                self.assertEqual(client.ask({"type": kind, "id": each}).get("id"), each, each)

    def test_heartbeat(self) -> None:
        """A heartbeat is answered with the server's time and its uptime in milliseconds."""
        reply = self.client().ask({"type": "heartbeat", "id": "h"})
        self.assertEqual((reply["type"], reply["id"]), ("heartbeat", "h"))
        self.assertTrue(reply["nonce"])
        self.assertTrue(abs(reply["serverTime"] - now_ms()) < 10_000)
        uptime_s = self.odin.get("/health").json()["uptime"]
        self.assertTrue(abs(reply["uptime"] / 1000 - uptime_s) < 5)

    def test_subscribe(self) -> None:
        """An ack lists what was taken, once each, and where the feed stands."""
        client = self.client()
        ack = client.subscribe("odin.token.*.price", "odin.>", "odin.>")
        self.assertEqual(ack["type"], "subscription_ack")
        self.assertEqual(ack["subscribed"], ["odin.token.*.price", "odin.>"])
        self.assertEqual((ack["rejected"], ack["count"]), ([], 2))
        self.assertEqual(ack["epoch"], client.welcome["epoch"])
        self.assertEqual(ack["offset"], self.odin.get("/stats").json()["hub"]["offset"])

    def test_subscribe_adds(self) -> None:
        """A later subscribe adds to the first one; a known channel counts once."""
        client = self.client()
        self.assertEqual([client.subscribe(each)["count"] for each in ("a", "b", "a")], [1, 2, 2])
        listed = client.ask({"type": "subscriptions", "id": 1})
        self.assertEqual(
            listed, {"type": "subscriptions", "id": 1, "channels": ["a", "b"], "count": 2}
        )

    def test_rejected_channels(self) -> None:
        """A channel that is none is rejected with a reason; the others are taken."""
        client = self.client()
        bad = [
            "",
            ".a",
            "a.",
            "a..b",
            "a b",
            "a.>.b",
            "a*",
            ">a",
            "a\n",
            "a\x00b",
            "a\u2028",
            "x" * 256,
        ]
        ack = client.subscribe("good.one", *bad, "good.*")
        self.assertEqual(ack["subscribed"], ["good.one", "good.*"])
        self.assertEqual([each["code"] for each in ack["rejected"]], ["bad_channel"] * len(bad))
        self.assertEqual([each["channel"] for each in ack["rejected"]], [*bad[:-1], "x" * 255])
        self.assertTrue(all(each["message"] for each in ack["rejected"]))

    def test_only_rejected(self) -> None:
        """A subscribe of which nothing is taken changes nothing."""
        client = self.client()
        client.subscribe("a..b")
        self.odin.publish("odin.trades.BTC", {"still": "all"})
        self.assertEqual(client.receive()["still"], "all")

    def test_unsubscribe(self) -> None:
        """An unsubscribe lists what is gone; what was not there is no error."""
        client = self.client()
        client.subscribe("a", "b", "c.*")
        ack = client.ask(
            {"type": "unsubscribe", "id": 3, "data": {"channels": ["a", "c.*", "zzz", "a"]}}
        )
        self.assertEqual(
            ack, {"type": "unsubscription_ack", "id": 3, "unsubscribed": ["a", "c.*"], "count": 1}
        )

    def test_unsubscribed_from_all(self) -> None:
        """Whoever unsubscribes from the last channel gets nothing, not everything."""
        client = self.client()
        client.subscribe("a")
        client.ask({"type": "unsubscribe", "data": {"channels": ["a"]}})
        self.odin.publish("a", {"n": 1})
        self.assertEqual(client.ask({"type": "subscriptions"})["count"], 0)
        client.send({"type": "ping"})
        self.assertEqual(client.receive()["type"], "pong")  # and no message before it

    def test_unknown_and_bad_requests(self) -> None:
        """What cannot be done is an error with a code, and the connection stays."""
        client = self.client()
        cases = {
            "unknown type": ({"type": "dance"}, "unknown_type"),
            "no type": ({"id": 1}, "bad_request"),
            "type is a number": ({"type": 1}, "bad_request"),
            "type is null": ({"type": None}, "bad_request"),
            "no data": ({"type": "subscribe"}, "bad_request"),
            "data is a list": ({"type": "subscribe", "data": ["a"]}, "bad_request"),
            "no channels": ({"type": "subscribe", "data": {}}, "bad_request"),
            "channels is a text": ({"type": "subscribe", "data": {"channels": "a"}}, "bad_request"),
            "a channel is a number": (
                {"type": "unsubscribe", "data": {"channels": [1]}}, "bad_request"
            ),
            "publish without data": ({"type": "publish", "channel": "a"}, "bad_request"),
            "publish without channel": ({"type": "publish", "data": 1}, "bad_request"),
            "publish to a pattern": (
                {"type": "publish", "channel": "a.*", "data": 1}, "bad_channel"
            ),
            "publish without permission": (
                {"type": "publish", "channel": "a", "data": 1}, "forbidden"
            ),
            "auth without a token": ({"type": "auth"}, "bad_request"),
            "auth with a bad token": ({"type": "auth", "token": "x"}, "unauthorized"),
            "timestamp is a text": ({"type": "ping", "timestamp": "now"}, "bad_request"),
            "nonce is a list": ({"type": "ping", "nonce": []}, "bad_request"),
            "nonce is too long": ({"type": "ping", "nonce": "x" * 257}, "bad_request"),
            "id is too long": ({"type": "ping", "id": "x" * 37}, "bad_request"),
            "id is a float": ({"type": "ping", "id": 1.5}, "bad_request"),
            "id is a list": ({"type": "ping", "id": [1]}, "bad_request"),
            "id is true": ({"type": "ping", "id": True}, "bad_request"),
        }  # fmt: skip
        for name, (request, code) in cases.items():
            reply = client.ask(request)
            self.assertEqual((reply["type"], reply["code"]), ("error", code), name)
            self.assertTrue(reply["message"], name)
        self.assertEqual(client.ask({"type": "ping"})["type"], "pong")


class PermissionTests(OdinTestCase):
    """What a token permits, on a server that wants one."""

    options = ("--nats-url", "memory://", "--require-auth")

    def test_channels(self) -> None:
        """A client sees what its token permits, and may not ask for more."""
        client = self.client(token=sign(channels=["odin.token.*.price", "odin.trades.BTC"]))
        ack = client.subscribe(
            "odin.token.BTC.price", "odin.token.*.price", "odin.trades.BTC",
            "odin.token.>", "odin.trades.*", "odin.heartbeat", ">",
        )  # fmt: skip
        self.assertEqual(len(ack["subscribed"]), 3)
        self.assertEqual([each["code"] for each in ack["rejected"]], ["forbidden"] * 4)

    def test_default_broadcast_is_what_is_permitted(self) -> None:
        """Without a subscribe a client gets all that it may see, and nothing else."""
        client = self.client(token=sign(channels=["odin.trades.*"]))
        for subject in (
            "odin.heartbeat",
            "odin.trades.BTC",
            "odin.token.BTC.price",
            "odin.trades.ETH",
        ):
            self.odin.publish(subject, {"s": subject})
        self.assertEqual([client.receive()["s"][-3:] for _ in "12"], ["BTC", "ETH"])

    def test_publish(self) -> None:
        """A client publishes where its token permits it, and gets an ack."""
        client = self.client(token=sign(publish=["chat.*"]))
        client.subscribe("chat.>")
        client.send({"type": "publish", "id": 5, "channel": "chat.room", "data": {"text": "hé"}})
        messages = [client.receive(), client.receive()]
        self.assertIn({"type": "publish_ack", "id": 5}, messages)
        (message,) = (each for each in messages if "channel" in each)
        self.assertEqual((message["channel"], message["text"]), ("chat.room", "hé"))
        refused = client.ask({"type": "publish", "channel": "news.room", "data": 1})
        self.assertEqual(refused["code"], "forbidden")

    def test_publish_duplicate(self) -> None:
        """A nonce that was seen is refused as a duplicate."""
        client = self.client(token=sign(publish=[">"], channels=["none"]))
        request = {"type": "publish", "id": 1, "channel": "a.b", "data": {"nonce": "twice"}}
        self.assertEqual(client.ask(request)["type"], "publish_ack")
        reply = client.ask(request)
        self.assertEqual((reply["type"], reply["code"], reply["id"]), ("error", "duplicate", 1))

    def test_auth_exchanges_the_token(self) -> None:
        """`auth` replaces what the client may do."""
        client = self.client(token=sign(channels=["a"]))
        token = sign(sub="bob", channels=["b"], exp=int(time.time()) + 60)
        ack = client.ask({"type": "auth", "token": token, "id": 1})
        self.assertEqual((ack["type"], ack["userId"]), ("auth_ack", "bob"))
        self.assertEqual(client.subscribe("a", "b")["subscribed"], ["b"])

    def test_channels_at_connect(self) -> None:
        """?channels= subscribes at connect, to what the token permits."""
        token = sign(channels=["a", "b.*"])
        client = self.client("/ws?channels=a,b.c", token=token)
        self.assertEqual(client.ask({"type": "subscriptions"})["channels"], ["a", "b.c"])
        wire = self.wire()
        wire.send(f"GET /ws?channels=zzz&token={token} HTTP/1.1\r\nHost: {{host}}\r\n"
                  "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")  # fmt: skip
        self.assertEqual(wire.response().status, 403)
