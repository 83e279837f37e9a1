"""A real broker: away, back, unwilling, and shared by two servers."""

import json
import threading
from typing import Any

from tests.integration.clients import Client
from tests.integration.harness import (
    Nats,
    Odin,
    OdinTestCase,
    eventually,
    free_port,
    sign,
)

PRICE = "odin.token.BTC.price"
HURRY = {
    "NATS_RECONNECT_WAIT": "100",
    "NATS_RECONNECT_JITTER": "50",
    "LIMITS_MESSAGES_PER_SECOND": "0",
}


class NatsTestCase(OdinTestCase):
    """Brokers and servers of one test."""

    def broker(self, *options: str, port: int = -1) -> Nats:
        nats = Nats(*options, port=port)
        self.addCleanup(nats.stop)
        return nats

    def joined(self, url: str, **environment: str) -> Odin:
        """A server on this broker, ready."""
        odin = self.start("--nats-url", url, **(HURRY | environment))
        eventually(lambda: odin.get("/readyz").status == 200, "readiness")
        return odin


class BrokerTests(NatsTestCase):
    """One server, one broker."""

    def test_messages(self) -> None:
        """What a publisher puts on the configured subjects reaches every client, in order."""
        nats = self.broker()
        odin = self.joined(nats.url)
        clients = [self.client(odin=odin) for _ in range(3)]
        nats.publish(PRICE, *(b'{"n":%d}' % n for n in range(500)))
        for client in clients:
            self.assertEqual([client.receive()["n"] for _ in range(500)], list(range(500)))
        for subject in ("odin.token.ETH.volume", "odin.token.batch.update", "odin.trades.X",
                        "odin.market.statistics", "odin.heartbeat"):  # fmt: skip
            nats.publish("not.ours", b"{}")
            nats.publish(subject, b"{}")
            self.assertEqual(clients[0].receive()["channel"], subject)
        self.assertEqual(odin.get("/stats").json()["nats"]["messages"], 505)

    def test_overlapping_subjects(self) -> None:
        """Where configured subjects overlap, a message still comes once."""
        nats = self.broker()
        subjects = "odin.token.*.price, odin.*.BTC.*, odin.token.BTC.price, odin.token.BTC.*"
        odin = self.joined(nats.url, NATS_SUBJECTS=subjects)
        client = self.client(odin=odin)
        for n, subject in enumerate((PRICE, "odin.x.BTC.y", "odin.token.ETH.price", PRICE)):
            nats.publish(subject, b'{"n":%d}' % n)
            self.assertEqual(client.receive()["n"], n)

    def test_order_across_subjects(self) -> None:
        """What one publisher sends on several subjects stays in its order, as NATS has it."""
        nats = self.broker()
        client = self.client(odin=self.joined(nats.url))
        subjects = (PRICE, "odin.trades.BTC", "odin.token.BTC.volume", "odin.heartbeat")
        nats.publish_each(*((subjects[n % 4], b'{"n":%d}' % n) for n in range(200)))
        self.assertEqual([client.receive()["n"] for _ in range(200)], list(range(200)))

    def test_payloads_of_all_kinds(self) -> None:
        """What is not JSON is dropped and counted; what is no object is wrapped."""
        nats = self.broker()
        odin = self.joined(nats.url)
        client = self.client(odin=odin)
        nats.publish(PRICE, b"", b"\xff\x00", b"nope", b"[1]", b"x" * 900_000, b'{"nonce":"d"}')
        nats.publish(PRICE, b'{"nonce":"d","again":1}', b'{"big":"%b"}' % (b"y" * 900_000))
        self.assertEqual(client.receive()["data"], [1])
        self.assertEqual(client.receive()["nonce"], "d")
        self.assertEqual(len(client.receive()["big"]), 900_000)
        messages = odin.get("/stats").json()["messages"]
        self.assertEqual((messages["malformed"], messages["duplicates"]), (4, 1))
        self.assertIn("is not JSON", odin.output())

    def test_down_at_start(self) -> None:
        """Without a broker Odin starts, serves, and connects when there is one."""
        port = free_port()
        odin = self.start("--nats-url", f"nats://127.0.0.1:{port}", **HURRY)
        client = self.client(odin=odin, token=sign(publish=[">"]))
        self.assertEqual(client.receive(), {"type": "feedStatus", "status": "stale"})
        self.assertEqual(odin.get("/livez").status, 200)
        self.assertEqual(odin.get("/readyz").status, 503)
        health = odin.get("/health")
        self.assertEqual((health.status, health.json()["status"]), (200, "degraded"))
        self.assertEqual(
            (odin.publish(PRICE, {}).status, odin.metric("nats_connection_status")), (503, 0)
        )
        reply = client.ask({"type": "publish", "channel": PRICE, "data": {}})
        self.assertEqual(reply["code"], "unavailable")
        nats = self.broker(port=port)
        live = client.receive()
        self.assertEqual((live["type"], live["status"], live["offset"]), ("feedStatus", "live", 0))
        nats.publish(PRICE, b'{"n":1}')
        self.assertEqual(client.receive()["n"], 1)
        self.assertEqual(odin.get("/readyz").status, 200)
        self.assertEqual(odin.get("/health").json()["status"], "healthy")
        self.assertEqual(odin.metric("nats_connection_status"), 1)

    def test_restarted_under_load(self) -> None:
        """A restart of the broker is a pause: clients stay, are told, and get nothing twice."""
        nats = self.broker()
        odin = self.joined(nats.url)
        clients = [self.client(odin=odin) for _ in range(3)]
        stop = threading.Event()
        brokers = [nats]
        published = 0

        def load() -> None:
            nonlocal published
            while not stop.is_set():
                try:
                    brokers[-1].publish(PRICE, *(b'{"n":%d}' % (published + n) for n in range(20)))
                except (OSError, AssertionError):
                    continue
                finally:
                    published += 20  # a number is never used again

        publisher = threading.Thread(target=load)
        publisher.start()
        self.addCleanup(publisher.join)
        self.addCleanup(stop.set)
        seen = [clients[0].until(lambda message: message.get("n", 0) > 100)]
        nats.stop()
        seen[0] += clients[0].until(lambda message: message.get("type") == "feedStatus")
        brokers.append(self.broker(port=nats.port))
        seen[0] += clients[0].until(lambda message: message.get("status") == "live")
        eventually(lambda: odin.metric("nats_reconnects_total") == 1, "the count of reconnects")
        stop.set()
        publisher.join()
        brokers[-1].publish(PRICE, b'{"n":-1}')
        seen[0] += clients[0].until(lambda message: message.get("n") == -1)
        seen += [each.until(lambda message: message.get("n") == -1) for each in clients[1:]]
        for messages in seen:
            notices = [each["status"] for each in messages if each.get("type") == "feedStatus"]
            numbers = [each["n"] for each in messages if "n" in each]
            self.assertEqual(notices, ["stale", "live"])
            self.assertEqual(numbers[:-1], sorted(set(numbers) - {-1}))
            self.assertEqual(numbers[-1], -1)
        metrics = odin.metrics()
        self.assertEqual(metrics["nats_reconnects_total"], 1)
        self.assertEqual(metrics["nats_connection_status"], 1)
        self.assertEqual(odin.clients(), 3)

    def test_wrong_credentials(self) -> None:
        """A broker that refuses us is tried again for ever; the password is in no log."""
        nats = self.broker("--user", "odin", "--pass", "right-password")
        url = f"nats://odin:wrong-password@127.0.0.1:{nats.port}"
        odin = self.start("--nats-url", url, **HURRY)
        eventually(lambda: nats.output().count("authentication error") >= 4, "four attempts")
        self.assertEqual((odin.get("/livez").status, odin.get("/readyz").status), (200, 503))
        for text in (odin.output(), odin.get("/stats").body.decode()):
            self.assertNotIn("wrong-password", text)
        self.assertLess(odin.output().count("uthorization"), 10)  # said, not repeated

    def test_credentials(self) -> None:
        """User and password are taken from the URL and from the configuration."""
        nats = self.broker("--user", "odin", "--pass", "p")
        for url, environment in (
            (f"nats://odin:p@127.0.0.1:{nats.port}", {}),
            (nats.url, {"NATS_USER": "odin", "NATS_PASSWORD": "p"}),
        ):
            self.joined(url, **environment)

    def test_token(self) -> None:
        """A broker's token works."""
        nats = self.broker("--auth", "broker-token")
        self.joined(nats.url, NATS_TOKEN="broker-token")

    def test_several_servers(self) -> None:
        """Of several servers in the URL one that is there is found, and its loss is no loss."""
        first, second = self.broker(), self.broker()
        odin = self.joined(f"nats://127.0.0.1:{free_port()},{first.url},{second.url}")
        client = self.client(odin=odin)
        for index, nats in enumerate((first, second)):
            nats.publish(PRICE, b'{"n":%d}' % index)
        found = client.receive()["n"]  # it is connected to one of them
        connected, other = (second, first) if found else (first, second)
        connected.stop()
        self.assertEqual([client.receive()["status"] for _ in "12"], ["stale", "live"])
        other.publish(PRICE, b'{"n":2}')
        self.assertEqual(client.receive()["n"], 2)


class TwoServersTests(NatsTestCase):
    """Two Odins on one broker."""

    def setUp(self) -> None:
        self.nats = self.broker()
        self.first, self.second = self.joined(self.nats.url), self.joined(self.nats.url)

    def everybody(self, **options: Any) -> list[Client]:
        return [
            self.client(odin=each, **options) for each in (self.first, self.second) for _ in "12"
        ]

    def test_published_through_either(self) -> None:
        """Whoever publishes, by HTTP, WebSocket or NATS: every client gets each message once."""
        clients = self.everybody()
        publishers = [self.client("/ws?channels=none", odin, token=sign(publish=[">"]))
                      for odin in (self.first, self.second)]  # fmt: skip
        for n in range(20):
            self.assertEqual(self.first.publish(PRICE, {"n": f"http-1-{n}"}).status, 202)
            self.assertEqual(self.second.publish(PRICE, {"n": f"http-2-{n}"}).status, 202)
            for index, publisher in enumerate(publishers):
                message = {"type": "publish", "channel": PRICE, "data": {"n": f"ws-{index}-{n}"}}
                self.assertEqual(publisher.ask(message)["type"], "publish_ack")
            self.nats.publish(PRICE, json.dumps({"n": f"nats-{n}"}).encode())
        self.nats.publish(PRICE, b'{"n":"end"}')
        for client in clients:
            seen = [each["n"] for each in client.until(lambda message: message["n"] == "end")]
            self.assertEqual((len(seen), len(set(seen))), (101, 101))

    def test_duplicates_across_servers(self) -> None:
        """A nonce counts once, through whichever server or publisher it comes."""
        clients = self.everybody()
        self.first.publish(PRICE, {"n": 1, "nonce": "same"})
        eventually(lambda: self.second.get("/stats").json()["messages"]["broadcast"] == 1)
        self.assertTrue(self.second.publish(PRICE, {"n": 2, "nonce": "same"}).json()["duplicate"])
        self.nats.publish(PRICE, b'{"n":3,"nonce":"same"}', b'{"n":4,"nonce":"other"}')
        for client in clients:
            self.assertEqual([client.receive()["n"] for _ in "12"], [1, 4])

    def test_names(self) -> None:
        """Clients of two servers never have the same id."""
        clients = self.everybody()
        self.assertEqual(len({each.welcome["clientId"] for each in clients}), 4)
        self.assertEqual(len({each.welcome["node"] for each in clients}), 2)
