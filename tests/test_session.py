"""A client's conversation."""

from twisted.internet.defer import fail
from twisted.trial.unittest import SynchronousTestCase

from odin.access.tokens import Identity, issue
from odin.errors import Unavailable
from tests.connections import SECRET, Server, frame


class ConversationTests(SynchronousTestCase):
    def setUp(self):
        self.server = Server(rate=0)
        self.peer = self.server.open()

    def ask(self, **message):
        """The answer to one message."""
        self.peer.say(**message)
        answers = self.peer.messages()
        self.assertEqual(len(answers), 1, answers)
        return answers[0]

    def become(self, **permissions):
        """The client is somebody with these permissions."""
        identity = Identity(user_id="u", expires_at=4_000_000_000, **permissions)
        token, _ = issue(identity, SECRET, 10**7)
        return self.ask(type="auth", token=token)

    def publish(self, subject, payload=b'{"a":1}'):
        self.server.bus.publish(subject, payload)
        self.server.turn()

    def channels(self):
        return [each["channel"] for each in self.peer.messages()]

    def test_ping(self):
        """A pong echoes id, nonce and timestamp."""
        pong = self.ask(type="ping", id="i", timestamp=5, nonce="n")
        self.assertEqual(
            (pong["type"], pong["id"], pong["originalTimestamp"], pong["nonce"]),
            ("pong", "i", 5, "n"),
        )
        self.assertEqual(pong["clientId"], self.peer.protocol.session.client_id)
        self.assertTrue(self.ask(type="ping")["nonce"])

    def test_heartbeat(self):
        """A heartbeat tells time and uptime in ms."""
        self.server.clock.advance(2)
        answer = self.ask(type="heartbeat", id=0)
        self.assertEqual((answer["id"], answer["uptime"]), (0, 2000))

    def test_default_is_everything(self):
        """Who never subscribes gets everything; the first subscribe replaces that."""
        self.publish("x.y")
        self.assertEqual(self.channels(), ["x.y"])
        ack = self.ask(type="subscribe", data={"channels": ["odin.trades.*", "odin.>"]})
        self.assertEqual((ack["subscribed"], ack["count"]), (["odin.trades.*", "odin.>"], 2))
        self.assertEqual(
            (ack["epoch"], ack["offset"], ack["rejected"]), (self.server.bridge.epoch, 1, [])
        )
        self.publish("x.y")
        self.publish("odin.trades.BTC")
        self.assertEqual(self.channels(), ["odin.trades.BTC"])

    def test_unsubscribe(self):
        """Unsubscribing ends a channel, and the last one ends all."""
        self.ask(type="subscribe", data={"channels": ["a", "b"]})
        ack = self.ask(type="unsubscribe", data={"channels": ["a", "nope"]})
        self.assertEqual((ack["unsubscribed"], ack["count"]), (["a"], 1))
        self.assertEqual(self.ask(type="subscriptions")["channels"], ["b"])
        self.ask(type="unsubscribe", data={"channels": ["b"]})
        self.publish("b")
        self.assertEqual(self.channels(), [])

    def test_rejected_channels(self):
        """Each bad channel is named with its reason; the good ones count."""
        self.become(channels=("ok.>",))
        names = ["ok.a", "a..b", "secret.x", "ok.>", ">", "x" * 300]
        ack = self.ask(type="subscribe", data={"channels": names})
        self.assertEqual(ack["subscribed"], ["ok.a", "ok.>"])
        self.assertEqual(
            [each["code"] for each in ack["rejected"]],
            ["bad_channel", "forbidden", "forbidden", "bad_channel"],
        )

    def test_channel_limits(self):
        """No more channels than allowed, and not too many names in one request."""
        names = [f"c.{n}" for n in range(120)]
        ack = self.ask(type="subscribe", data={"channels": names})
        self.assertEqual((ack["count"], len(ack["rejected"])), (100, 20))
        self.assertEqual({each["code"] for each in ack["rejected"]}, {"limit_exceeded"})
        many = [f"c.{n}" for n in range(2000)]
        error = self.ask(type="subscribe", id=3, data={"channels": many})
        self.assertEqual((error["code"], error["id"]), ("limit_exceeded", 3))

    def test_auth_changes_what_is_seen(self):
        """A new token replaces the old: permissions, subscriptions and expiry."""
        self.ask(type="subscribe", data={"channels": ["a.x", "b.x"]})
        ack = self.become(channels=("a.*",))
        self.assertEqual((ack["type"], ack["userId"]), ("auth_ack", "u"))
        self.assertEqual(self.ask(type="subscriptions")["channels"], ["a.x"])
        error = self.ask(type="auth", id=1, token="nonsense")
        self.assertEqual((error["code"], error["id"]), ("unauthorized", 1))

    def test_token_that_has_ended(self):
        """In its grace a client keeps what it has, and may do nothing for which it needs a token."""
        self.ask(type="subscribe", data={"channels": ["p.a"]})
        ends = self.become(channels=("p.*",), publish=("p.*",))["expiresAt"]
        subscribe = {"type": "subscribe", "data": {"channels": ["p.a"]}}
        publish = {"type": "publish", "channel": "p.a", "data": {}}
        for now, codes in ((ends + 4.9, ()), (ends + 5, ("unauthorized", "unauthorized"))):
            self.server.context.wall = lambda now=now: now
            answers = []
            for each in (subscribe, publish):
                self.peer.say(**each)
                answers += self.peer.messages()
            got = tuple(each["code"] for each in answers if each.get("type") == "error")
            self.assertEqual(got, codes)
        self.publish("p.a")
        self.assertEqual(self.channels(), ["p.a"])
        self.assertEqual(self.ask(type="subscriptions")["channels"], ["p.a"])
        unsubscribe = {"type": "unsubscribe", "data": {"channels": ["p.a"]}}
        self.assertEqual(self.ask(**unsubscribe)["unsubscribed"], ["p.a"])
        self.server.context.wall = lambda: 0.0
        self.become(publish=("p.*",))
        self.assertEqual(self.ask(**subscribe)["subscribed"], ["p.a"])

    def test_default_follows_the_token(self):
        """Without a subscription the client sees what its token permits."""
        self.become(channels=("a.*",))
        self.publish("a.x")
        self.publish("b.x")
        self.assertEqual(self.channels(), ["a.x"])

    def test_publish(self):
        """With the permission a message goes out, and comes back by the one path."""
        self.become(publish=("p.*",))
        self.peer.say(type="publish", id=1, channel="p.a", data={"nonce": "n", "x": 1})
        by_type = {each.get("type", "feed"): each for each in self.peer.messages()}
        self.assertEqual(by_type["publish_ack"], {"type": "publish_ack", "id": 1})
        self.assertEqual((by_type["feed"]["channel"], by_type["feed"]["x"]), ("p.a", 1))

    def test_publish_refused(self):
        """Each reason has its code."""
        self.assertEqual(self.ask(type="publish", channel="p.a", data={})["code"], "forbidden")
        self.become(publish=("p.*",))
        self.publish("p.a", b'{"nonce":"seen"}')
        self.peer.read()
        for channel, data, code in (
            ("p.*", {}, "bad_channel"), ("p.a b", {}, "bad_channel"), ("q.a", {}, "forbidden"),
            ("p.a", {"nonce": "seen"}, "duplicate"),
        ):  # fmt: skip
            answer = self.ask(type="publish", id=4, channel=channel, data=data)
            self.assertEqual((answer["code"], answer["id"]), (code, 4))
        self.server.bus.publish = lambda subject, payload: fail(Unavailable("away"))
        self.assertEqual(self.ask(type="publish", channel="p.a", data={})["code"], "unavailable")

    def test_malformed(self):
        """Bad JSON gets an error; the fifth within ten seconds ends the connection."""
        for _ in range(4):
            self.peer.send(frame("{"))
            self.assertEqual(self.peer.messages()[0]["code"], "bad_request")
        self.server.clock.advance(11)
        for _ in range(4):
            self.peer.send(frame("[1]"))
        self.assertEqual(len(self.peer.messages()), 4)
        self.peer.send(frame("nonsense"))
        self.assertEqual(self.peer.close_code()[0], 1008)

    def test_unknown_types_do_not_end_it(self):
        """A request that is JSON but means nothing gets an error each time."""
        for n in range(30):
            self.assertEqual(self.ask(type="nope", id=n)["code"], "unknown_type")

    def test_our_failure(self):
        """A defect of ours closes with 1011, tells nothing, and is logged."""
        self.server.hub.resubscribe = lambda *_, **__: 1 / 0
        self.peer.say(type="subscribe", data={"channels": ["a"]})
        self.assertEqual(self.peer.close_code(), (1011, "internal"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_feed_status(self):
        """A broker lost and back is told to everybody, also to who subscribed nothing."""
        self.ask(type="subscribe", data={"channels": ["a"]})
        self.server.bridge.status_changed(False)
        self.server.bridge.status_changed(False)
        self.server.bridge.status_changed(True)
        self.server.turn()
        got = [(each["type"], each["status"]) for each in self.peer.messages()]
        self.assertEqual(got, [("feedStatus", "stale"), ("feedStatus", "live")])


class RateTests(SynchronousTestCase):
    def test_rate_limit(self):
        """Over the rate: an error with the time to wait and the id; in the end 4429."""
        server = Server(rate=5)
        peer = server.open()
        for n in range(12):
            peer.say(type="heartbeat", id=n)
        answers = peer.messages()
        self.assertEqual([each["type"] for each in answers], ["heartbeat"] * 10 + ["error"] * 2)
        self.assertEqual(answers[-1]["code"], "rate_limited")
        self.assertEqual((answers[-1]["id"], answers[-1]["retryAfterMs"]), (11, 200))
        server.clock.advance(0.25)
        peer.say(type="heartbeat")
        self.assertEqual(peer.messages()[0]["type"], "heartbeat")
        for _ in range(30):
            peer.say(type="heartbeat")
        self.assertEqual(peer.close_code()[0], 4429)
