"""What requests cost."""

from twisted.trial.unittest import SynchronousTestCase

from odin.access.limits import RateLimit
from odin.errors import RateLimited
from odin.gateway.costs import cost
from odin.wire.messages import Auth, decode_request, encode
from tests.connections import Server

MANY = [f"a.{n}" for n in range(640)]
RECOVER = {"epoch": "e", "offset": 1}


def request(kind, channels=None, **others):
    data = {} if channels is None else {"data": {"channels": channels, **others}}
    return decode_request(encode({"type": kind, "token": "t", **data}))


class CostTests(SynchronousTestCase):
    def test_costs(self):
        """What may take longer than a ping counts for more: by names, and for a search."""
        for asked, own, expected in (
            (request("heartbeat"), MANY, 1),
            (request("subscribe", ["a"]), MANY, 1),
            (request("subscribe", MANY), (), 11),
            (request("subscribe", ["a"], snapshot=True), (), 1),
            (request("subscribe", ["a", "a.*"], snapshot=True), (), 10),
            (request("subscribe", ["a"], recover=RECOVER), (), 10),
            (request("subscribe", MANY, snapshot=True, recover=RECOVER), (), 20),
            (request("unsubscribe", MANY), (), 11),
            (request("subscriptions"), MANY, 11),
            (request("auth"), MANY, 11),
            (Auth(token="t" * 7000), MANY, 17),
        ):
            self.assertEqual(cost(asked, own), expected, asked)

    def test_debt(self):
        """What is charged later than it was taken makes the next one wait, a burst at most."""
        limit, now = RateLimit(10, 5), 100.0
        tat = limit.charge(limit.take(0.0, now), 10, now)
        error = self.assertRaises(RateLimited, limit.take, tat, now)
        self.assertAlmostEqual(error.retry_after_s, 0.2)
        tat = limit.charge(0.0, 1000, now)
        self.assertAlmostEqual(
            self.assertRaises(RateLimited, limit.take, tat, now).retry_after_s, 0.1
        )
        self.assertEqual(RateLimit(0, 5).charge(0.0, 1000, now), 0.0)

    def test_paid(self):
        """A search uses up a burst of ten, and a ping has to wait for the next."""
        server = Server(rate=5)
        peer = server.open()
        peer.say(type="subscribe", data={"channels": ["a.*"], "snapshot": True})
        server.turn()
        peer.say(type="ping")
        [*_, answer] = peer.messages()
        self.assertEqual((answer["code"], answer["retryAfterMs"]), ("rate_limited", 200))

    def test_size(self):
        """A long message counts for one more with each 16 KiB."""
        server = Server(rate=5)
        peer = server.open()
        for _ in range(3):
            peer.say(type="heartbeat", pad="x" * 50_000)
        peer.say(type="heartbeat")
        kinds = [each.get("code", each["type"]) for each in peer.messages()]
        self.assertEqual(kinds, ["heartbeat"] * 3 + ["rate_limited"])

    def test_kept(self):
        """Subscriptions and requests that wait take what one client may have kept, and no more."""
        server = Server()
        server.context.max_channels, server.context.max_kept = 0, 1000
        peer = server.open()
        for _ in range(2):
            peer.say(type="subscribe", data={"channels": ["x" * 170 + str(n) for n in range(6)]})
            server.turn()
            answer = peer.messages()[0]
            self.assertEqual((answer["count"], len(answer["rejected"])), (3, 3))
            self.assertEqual(answer["rejected"][0]["code"], "limit_exceeded")
