"""JetStream: one numbering for all nodes and restarts, nothing missed across an outage."""

import json
import signal
import tempfile
import time
from typing import Any

from tests.integration.clients import Client
from tests.integration.harness import Nats, Odin, eventually, free_port, sign
from tests.integration.test_nats import NatsTestCase

PRICE, TRADE = "odin.token.BTC.price", "odin.trades.BTC"
STREAM = {"NATS_JETSTREAM_STREAM": "FEED", "NATS_JETSTREAM_CREATE": "true"}


class JetStreamTests(NatsTestCase):
    """A broker that keeps its store over restarts."""

    def setUp(self) -> None:
        self.folder = tempfile.mkdtemp()
        self.number = free_port()
        self.nats = self.stored()

    def stored(self) -> Nats:
        return self.broker("-js", "-sd", self.folder, port=self.number)

    def node(self, **environment: str) -> Odin:
        return self.joined(self.nats.url, **(STREAM | environment))

    def recover(self, odin: Odin, epoch: str, offset: int, *channels: str) -> tuple[Client, Any]:
        client = self.client("/ws?channels=none", odin=odin)
        data = {"channels": channels or [">"], "recover": {"epoch": epoch, "offset": offset}}
        ack = client.ask({"type": "subscribe", "data": data})
        while ack["type"] == "feedStatus":  # of a server that has just started
            ack = client.receive()
        return client, ack

    def publish(self, first: int, count: int, subject: str = TRADE) -> None:
        self.nats.publish(subject, *(b'{"n":%d}' % n for n in range(first, first + count)))

    def test_one_numbering(self) -> None:
        """Two nodes agree on epoch and offsets, byte for byte; a client can change between them."""
        one, two = self.node(), self.node()
        clients = [self.client(odin=each) for each in (one, two)]
        self.assertEqual(clients[0].welcome["epoch"], clients[1].welcome["epoch"])
        self.publish(0, 50)
        both = [[each.receive_text() for _ in range(50)] for each in clients]
        self.assertEqual(*both)
        last = json.loads(both[0][-1])["offset"]
        self.publish(50, 10)
        back, ack = self.recover(two, clients[0].welcome["epoch"], last)
        self.assertIs(ack["recovered"], True)
        self.assertEqual([back.receive()["n"] for _ in range(10)], list(range(50, 60)))

    def test_restart_of_odin(self) -> None:
        """A new process knows what was before it: recovery, and snapshots of quiet channels."""
        odin = self.node()
        client = self.client(odin=odin)
        self.publish(0, 1, PRICE)
        last = client.receive()["offset"]
        self.publish(1, 100)
        odin.signal(signal.SIGKILL)
        self.publish(101, 100)
        new = self.node(NATS_JETSTREAM_PRELOAD="20")
        self.publish(201, 10)
        back, ack = self.recover(new, client.welcome["epoch"], last, TRADE)
        self.assertIs(ack["recovered"], True)
        got = [back.receive() for _ in range(210)]
        self.assertEqual([each["n"] for each in got], list(range(1, 211)))
        self.assertEqual(ack["offset"], last)
        name = 'odin_recovery_total{result="recovered",source="jetstream"}'
        self.assertEqual(new.metric(name), 1)
        _, ack = self.recover(new, client.welcome["epoch"], got[-1]["offset"] - 20)
        self.assertIs(ack["recovered"], True)
        self.assertEqual(new.metric(name), 1)
        fresh = self.client("/ws?channels=none", odin=new)
        data = {"channels": ["odin.token.*.price"], "snapshot": True}
        fresh.ask({"type": "subscribe", "data": data})
        got = fresh.receive()
        self.assertEqual((got["channel"], got["n"], got["snapshot"]), (PRICE, 0, True))

    def test_recovers_while_odin_starts(self) -> None:
        """Who comes back before the new process has read its stream waits, and gets it all."""
        odin = self.node()
        client = self.client(odin=odin)
        self.publish(0, 10)
        last = [client.receive()["offset"] for _ in range(10)][4]
        odin.signal(signal.SIGKILL)
        new = self.start("--nats-url", self.nats.url, **STREAM)
        back, ack = self.recover(new, client.welcome["epoch"], last)
        self.assertIs(ack["recovered"], True)
        self.assertEqual([back.receive()["n"] for _ in range(5)], list(range(5, 10)))

    def test_broker_restarted(self) -> None:
        """Clients stay, are told, and miss nothing; published meanwhile by nobody, later by all."""
        odin = self.node()
        client = self.client(odin=odin)
        self.publish(0, 20)
        self.assertEqual([client.receive()["n"] for _ in range(20)], list(range(20)))
        self.nats.stop()
        self.assertEqual(client.receive()["status"], "stale")
        self.assertEqual(odin.get("/readyz").status, 503)
        self.assertEqual(odin.get("/livez").status, 200)
        self.assertEqual(odin.publish(TRADE, {}).status, 503)
        self.assertEqual(odin.metric("odin_feed_status"), 0)
        self.nats = self.stored()
        self.publish(20, 30)
        got = [client.receive() for _ in range(31)]
        self.assertEqual([each["n"] for each in got if "n" in each], list(range(20, 50)))
        status = next(each for each in got if "status" in each)
        self.assertEqual((status["status"], status["epoch"]), ("live", client.welcome["epoch"]))
        back, ack = self.recover(odin, client.welcome["epoch"], got[-1]["offset"] - 40)
        self.assertIs(ack["recovered"], True)
        self.assertEqual([back.receive()["n"] for _ in range(40)], list(range(10, 50)))

    def test_broker_paused(self) -> None:
        """A broker that stands still is told in seconds, and so is its return."""
        odin = self.node()
        client = self.client(odin=odin)
        self.publish(0, 1)
        client.receive()
        self.nats.signal(signal.SIGSTOP)
        paused = time.monotonic()
        try:
            self.assertEqual(client.receive()["status"], "stale")
            # 5 s where nobody else wants the processor; pings alone would take 30 s
            self.assertLess(time.monotonic() - paused, 15)
            self.assertEqual(odin.publish(TRADE, {}).status, 503)
        finally:
            self.nats.signal(signal.SIGCONT)
        self.publish(1, 10)
        got = [client.receive() for _ in range(11)]
        self.assertEqual([each["n"] for each in got if "n" in each], list(range(1, 11)))

    def test_new_stream(self) -> None:
        """A stream that was made anew is a new epoch: nobody can resume across it."""
        odin = self.node()
        client = self.client(odin=odin)
        self.publish(0, 5)
        epoch = client.welcome["epoch"]
        for _ in range(5):
            client.receive()
        self.nats.stop()
        self.folder = tempfile.mkdtemp()
        self.nats = self.stored()
        self.assertEqual(client.receive()["status"], "stale")
        live = client.receive()
        self.assertEqual(live["status"], "live")
        self.assertNotEqual(live["epoch"], epoch)
        _, ack = self.recover(odin, epoch, 2)
        self.assertIs(ack["recovered"], False)
        self.publish(5, 1)
        self.assertEqual(client.receive()["n"], 5)

    def test_stream_deleted(self) -> None:
        """Deleted while everybody is connected: told, made anew, and the feed goes on."""
        odin = self.node()
        client = self.client(odin=odin)
        self.publish(0, 5)
        for _ in range(5):
            client.receive()
        self.nats.publish("$JS.API.STREAM.DELETE.FEED", b"")
        self.assertEqual(client.receive()["status"], "stale")
        live = client.receive()
        self.assertEqual(live["status"], "live")
        self.assertGreater(live["offset"], 5, "offsets never go back on a connection")
        self.assertNotEqual(live["epoch"], client.welcome["epoch"])
        self.publish(5, 1)
        self.assertEqual(client.receive()["n"], 5)

    def test_headers_and_odd_messages(self) -> None:
        """Messages of publishers with headers, of other subjects, and that are no JSON."""
        odin = self.node()
        client = self.client(odin=odin)
        self.nats.publish("odin.other", b"{}")
        self.nats.publish("odin.control.noise", b"{}")
        self.nats.publish(TRADE, b"no json", b'{"n":1,"nonce":"x"}', b'{"n":2,"nonce":"x"}')
        self.publish(3, 1)
        self.assertEqual([client.receive()["n"] for _ in range(2)], [1, 3])
        self.assertEqual(client.ask({"type": "ping"})["type"], "pong")
        self.assertEqual(odin.metric("nats_messages_total"), 4)

    def test_everything_as_subject(self) -> None:
        """Subjects that overlap, and > itself; control messages are no part of the feed."""
        odin = self.node(NATS_SUBJECTS="odin.>,*.token.>,odin.trades.*")
        client = self.client(odin=odin)
        self.nats.publish("odin.control.noise", b"{}")
        self.publish(0, 5)
        self.assertEqual([client.receive()["n"] for _ in range(5)], list(range(5)))

    def test_no_stream(self) -> None:
        """Without the stream, and without `create`, the server is there and says it is not ready."""
        odin = self.start("--nats-url", self.nats.url, NATS_JETSTREAM_STREAM="NONE")
        eventually(lambda: "stream not found" in odin.output(), "the cause in the log")
        self.assertEqual(odin.get("/readyz").status, 503)
        self.assertEqual(self.client(odin=odin).receive()["status"], "stale")


class CoreTests(NatsTestCase):
    """Without JetStream: the gap is told."""

    def test_gap(self) -> None:
        """After an outage there is a new epoch, and no recovery across it."""
        port = free_port()
        nats = self.broker(port=port)
        odin = self.joined(nats.url)
        client = self.client(odin=odin)
        nats.publish(TRADE, b'{"n":0}')
        offset = client.receive()["offset"]
        nats.stop()
        self.assertEqual(client.receive()["status"], "stale")
        nats = self.broker(port=port)
        live = client.receive()
        self.assertEqual(live["status"], "live")
        self.assertNotEqual(live["epoch"], client.welcome["epoch"])
        data = {"channels": [">"], "recover": {"epoch": client.welcome["epoch"], "offset": offset}}
        self.assertIs(client.ask({"type": "subscribe", "data": data})["recovered"], False)
        data["recover"] = {"epoch": live["epoch"], "offset": live["offset"]}
        self.assertIs(client.ask({"type": "subscribe", "data": data})["recovered"], True)

    def test_paused(self) -> None:
        """A pause alone loses nothing: the epoch stays."""
        nats = self.broker()
        odin = self.joined(nats.url)
        client = self.client(odin=odin)
        nats.publish(TRADE, b'{"n":0}')
        client.receive()
        nats.signal(signal.SIGSTOP)
        try:
            self.assertEqual(client.receive()["status"], "stale")
        finally:
            nats.signal(signal.SIGCONT)
        live = client.receive()
        self.assertEqual((live["status"], live["epoch"]), ("live", client.welcome["epoch"]))
        nats.publish(TRADE, b'{"n":1}')
        self.assertEqual(client.receive()["n"], 1)


class ControlTests(NatsTestCase):
    """Revocation by the broker, on all nodes."""

    def test_disconnect(self) -> None:
        """By user and by token: 4403 at once on every node, and no way back in."""
        nats = self.broker()
        nodes = [self.joined(nats.url, AUTH_REQUIRE_AUTH="true") for _ in range(2)]
        now = int(time.time())
        alice, bob = sign(sub="alice", iat=now - 5), sign(sub="bob", jti="t1", iat=now - 5)
        other = sign(sub="bob", jti="t2", iat=now - 5)
        clients = {
            token: [self.client(odin=each, token=token) for each in nodes]
            for token in (alice, bob, other)
        }
        nats.publish("odin.control.disconnect", b"no json", b"{}", b'{"userId":"alice"}')
        began = time.monotonic()
        for client in clients[alice]:
            code, reason = client.closed()
            self.assertEqual((code, reason.partition(":")[0]), (4403, "revoked"))
        self.assertLess(time.monotonic() - began, 10)  # not at the next look at something
        nats.publish("odin.control.disconnect", b'{"tokenId":"t1"}')
        for client in clients[bob]:
            self.assertEqual(client.closed()[0], 4403)
        for client in clients[other]:
            self.assertEqual(client.ask({"type": "ping"})["type"], "pong")
        for token, status in ((alice, 401), (bob, 401), (sign(sub="alice", iat=now + 2), 101)):
            wire = self.wire(nodes[0])
            self.assertEqual(wire.upgrade(f"Authorization: Bearer {token}\r\n").status, status)

    def test_not_for_clients(self) -> None:
        """Through Odin nobody publishes to anything but the feed: not to the broker itself."""
        folder = tempfile.mkdtemp()
        odin = self.joined(self.broker("-js", "-sd", folder).url, **STREAM)
        client = self.client(odin=odin, token=sign(publish=[">"]))
        for subject in (
            "odin.control.disconnect", "$JS.API.STREAM.PURGE.FEED", "$JS.API.STREAM.DELETE.FEED",
            "_INBOX.x", "odin.other", "not.ours",
        ):  # fmt: skip
            self.assertEqual(odin.publish(subject, {}).status, 403, subject)
            request = {"type": "publish", "channel": subject, "data": {}}
            self.assertEqual(client.ask(request)["code"], "forbidden", subject)
        epoch = client.welcome["epoch"]
        for offset in (1, 2):
            reply = client.ask({"type": "publish", "channel": TRADE, "data": {"n": offset}})
            self.assertEqual((reply["offset"], reply["epoch"]), (offset, epoch))
