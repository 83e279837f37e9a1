"""Publishing that knows, and a feed that is called live only while messages can arrive."""

import signal
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

from tests.integration.brokers import jetstream
from tests.integration.harness import Odin, eventually, sign
from tests.integration.test_nats import NatsTestCase

TRADE = "odin.trades.BTC"


class StreamTests(NatsTestCase):
    """A stream acknowledges each message."""

    def setUp(self) -> None:
        self.nats = self.broker("-js", "-sd", tempfile.mkdtemp())

    def stream(self, **settings: object) -> None:
        whole = {"name": "FEED", "subjects": ["odin.>"], "num_replicas": 1} | settings
        jetstream(self.nats.url, "STREAM.CREATE.FEED", whole)

    def node(self) -> Odin:
        return self.joined(self.nats.url, NATS_JETSTREAM_STREAM="FEED")

    def publisher(self, odin: Odin) -> Any:
        return self.client("/ws?channels=none", odin=odin, token=sign(publish=[">"]))

    def test_position(self) -> None:
        """Acknowledgement and receipt say where the message is in the feed."""
        self.stream()
        odin = self.node()
        client, publisher = self.client(odin=odin), self.publisher(odin)
        receipt = odin.publish(TRADE, {"n": 0}).json()
        ack = publisher.ask({"type": "publish", "channel": TRADE, "data": {"n": 1}})
        for told in (receipt, ack):
            self.assertEqual(told["epoch"], client.welcome["epoch"])
            self.assertEqual(told["offset"], client.receive()["offset"])

    def test_full(self) -> None:
        """A stream that is full refuses: so do we, and the feed is not live until there is room."""
        self.stream(max_msgs=2, discard="new")
        odin = self.node()
        client, publisher = self.client(odin=odin), self.publisher(odin)
        self.assertEqual(
            [odin.publish(TRADE, {"n": n}).status for n in range(4)], [202] * 2 + [503] * 2
        )
        answer = publisher.ask({"type": "publish", "channel": TRADE, "data": {}})
        while answer.get("type") != "error":
            answer = publisher.receive()
        self.assertEqual(answer["code"], "unavailable")
        found = client.until(lambda message: message.get("type") == "feedStatus")
        self.assertEqual([each["n"] for each in found[:-1]], [0, 1])
        self.assertEqual(found[-1]["status"], "stale")
        self.assertIn("full", odin.get("/readyz").json()["reason"])
        health = odin.get("/health").json()
        self.assertEqual(health["status"], "degraded")
        self.assertIn("full", health["services"]["nats"]["trouble"])
        jetstream(self.nats.url, "STREAM.PURGE.FEED")
        self.assertEqual(client.receive()["status"], "live")
        self.assertEqual(odin.publish(TRADE, {"n": 5}).status, 202)

    def test_no_stream_takes_it(self) -> None:
        """A subject that the stream does not have is not acknowledged."""
        self.stream(subjects=["odin.token.>"])
        odin = self.node()
        self.assertEqual(odin.publish(TRADE, {}).status, 503)
        self.assertEqual(odin.publish("odin.token.BTC.price", {}).status, 202)

    def test_somebody_else_answers(self) -> None:
        """A service that replies to what is published is no acknowledgement of the stream."""
        self.stream(subjects=["odin.token.>"])
        odin = self.node()
        with socket.create_connection(("127.0.0.1", self.nats.port), 20) as service:
            stream = service.makefile("rwb")
            stream.write(b"SUB odin.trades.* 1\r\nPING\r\n")
            stream.flush()
            while stream.readline() != b"PONG\r\n":
                pass
            answers = []
            for reply in (b"thanks", b'{"stream":"OTHER","seq":7}'):
                thread = threading.Thread(
                    target=lambda: answers.append(odin.publish(TRADE, {}).status)
                )
                thread.start()
                while not (line := stream.readline()).startswith((b"MSG", b"HMSG")):
                    pass
                inbox = line.split()[3]
                stream.write(b"PUB %b %d\r\n%b\r\n" % (inbox, len(reply), reply))
                stream.flush()
                thread.join()
            self.assertEqual(answers, [503, 503])
        self.assertEqual(odin.publish("odin.token.BTC.price", {}).status, 202)

    def test_consumer_deleted(self) -> None:
        """Whoever deletes the consumer costs nobody a message."""
        self.stream()
        odin = self.node()
        client = self.client(odin=odin)
        self.nats.publish(TRADE, b'{"n":0}')
        names = jetstream(self.nats.url, "CONSUMER.NAMES.FEED")["consumers"]
        for name in names:
            jetstream(self.nats.url, f"CONSUMER.DELETE.FEED.{name}")
        self.nats.publish(TRADE, *(b'{"n":%d}' % n for n in range(1, 10)))
        found = client.until(lambda message: message.get("n") == 9)
        self.assertEqual([each["n"] for each in found if "n" in each], list(range(10)))
        self.assertEqual(
            {each.get("epoch", client.welcome["epoch"]) for each in found},
            {client.welcome["epoch"]},
        )


class DeniedTests(NatsTestCase):
    """A broker that forbids some of the subjects."""

    def denied(self, *subjects: str) -> Odin:
        folder = Path(tempfile.mkdtemp())
        deny = ", ".join(f'"{each}"' for each in subjects)
        (folder / "nats.conf").write_text(
            "authorization { users: [ { user: odin, password: s3cret, permissions: "
            f"{{ subscribe: {{ deny: [{deny}] }} }} }} ] }}"
        )
        nats = self.broker("-c", str(folder / "nats.conf"))
        return self.start("--nats-url", nats.url, NATS_USER="odin", NATS_PASSWORD="s3cret")

    def test_some(self) -> None:
        """Degraded, with the names of those that never come."""
        odin = self.denied("odin.trades.*", "odin.token.*.price")
        eventually(lambda: odin.get("/readyz").status == 200, "readiness")
        health = eventually(
            lambda: (found := odin.get("/health").json())["status"] == "degraded" and found,
            "the denial",
        )
        self.assertEqual(
            health["services"]["nats"]["trouble"],
            "the broker denies odin.token.*.price, odin.trades.*",
        )
        self.assertTrue(health["services"]["nats"]["connected"])

    def test_all(self) -> None:
        """Never called live while nothing can arrive."""
        odin = self.denied("odin.>")
        self.assertEqual(self.client(odin=odin).receive()["status"], "stale")
        eventually(lambda: "denies" in odin.get("/readyz").json()["reason"], "the reason")


class UnheardTests(NatsTestCase):
    """Gaps that nobody would notice, and brokers that say nothing."""

    def test_outage_before_the_first_message(self) -> None:
        """What was lost while the broker was away is a gap, also if nothing came before."""
        nats = self.broker()
        odin = self.joined(nats.url)
        client = self.client(odin=odin)
        nats.stop()
        self.assertEqual(client.receive()["status"], "stale")
        again = self.broker(port=nats.port)
        live = client.receive()
        self.assertEqual(live["status"], "live")
        self.assertNotEqual(live["epoch"], client.welcome["epoch"])
        again.publish(TRADE, b'{"n":1}')
        self.assertEqual(client.receive()["n"], 1)

    def test_silent_broker(self) -> None:
        """SIGTERM ends a server that is connecting to something that accepts and says nothing."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            silent.settimeout(20)
            url = f"nats://127.0.0.1:{silent.getsockname()[1]}"
            odins = [self.start("--nats-url", url) for _ in range(3)]
            for odin in odins:
                self.assertEqual(self.client(odin=odin).receive()["status"], "stale")
            connections = [silent.accept()[0] for _ in odins]
            for odin in odins:
                odin.signal(signal.SIGTERM)
            self.assertEqual([odin.wait() for odin in odins], [0, 0, 0])
            for each in connections:
                each.close()
