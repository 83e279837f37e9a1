"""The identity of the numbering: offsets that were lost, or cannot be followed, are a new epoch."""

import shutil
import signal
import tempfile
import time
from typing import Any

from tests.integration.brokers import Cluster, Network, jetstream
from tests.integration.clients import Client
from tests.integration.harness import Nats, Odin, eventually, free_port
from tests.integration.test_nats import NatsTestCase

TRADE = "odin.trades.BTC"
STREAM = {"NATS_JETSTREAM_STREAM": "FEED"}


def numbers(first: int, last: int) -> list[bytes]:
    return [b'{"n":%d}' % n for n in range(first, last)]


class Told:
    """What a client got: its messages by the epoch they came in, and the notices."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.epochs = [client.welcome["epoch"]]
        self.offsets: list[int] = []
        self.numbers: list[int] = []

    def read(self, last: int) -> None:
        """Read up to the message with this number."""
        while not self.numbers or self.numbers[-1] != last:
            message = self.client.receive()
            if message.get("epoch", self.epochs[-1]) != self.epochs[-1]:
                self.epochs.append(message["epoch"])
                self.numbers = []
            elif "n" in message:
                self.offsets.append(message["offset"])
                self.numbers.append(message["n"])


class NumberingTestCase(NatsTestCase):
    """One broker, a network that can be cut, and streams that are made by the test."""

    def setUp(self) -> None:
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.number = free_port()
        self.nats = self.stored()
        self.network = Network(self.nats.port)
        self.addCleanup(self.network.close)

    def stored(self) -> Nats:
        return self.broker("-js", "-sd", self.folder, port=self.number)

    def stream(self, **settings: object) -> None:
        jetstream(
            self.nats.url,
            "STREAM.CREATE.FEED",
            {"name": "FEED", "subjects": ["odin.>"], "num_replicas": 1} | settings,
        )

    def node(self, url: str = "", **environment: str) -> Odin:
        return self.joined(url or self.network.url, **(STREAM | environment))

    def recovered(self, odin: Odin, epoch: str, offset: int) -> tuple[Any, list[int]]:
        """The acknowledgement of a recovery, and the numbers that followed at once."""
        client = self.client("/ws?channels=none", odin=odin)
        data = {"channels": [TRADE], "recover": {"epoch": epoch, "offset": offset}}
        client.send({"type": "subscribe", "data": data})
        found = client.until(lambda message: message["type"] == "subscription_ack")
        ack = found[-1]
        client.send({"type": "heartbeat"})
        rest = client.until(lambda message: message.get("type") == "heartbeat")
        return ack, [each["n"] for each in rest if "n" in each]


class RollbackTests(NumberingTestCase):
    """A broker that loses the end of its store."""

    def saved(self) -> str:
        """What is on the disk now."""
        self.nats.signal(signal.SIGTERM)
        self.nats.wait()
        copy = f"{self.folder}.saved"
        self.addCleanup(shutil.rmtree, copy, ignore_errors=True)
        shutil.copytree(self.folder, copy)
        self.nats = self.stored()
        return copy

    def roll_back(self, copy: str) -> None:
        self.nats.stop()
        shutil.rmtree(self.folder)
        shutil.copytree(copy, self.folder)
        self.nats = self.stored()

    def lost(self, *, before_anybody_looks: bool) -> None:
        self.stream()
        odins = [self.node(), self.node()]
        told = [Told(self.client(odin=each)) for each in odins]
        self.nats.publish(TRADE, *numbers(0, 100))
        copy = self.saved()
        for each in odins:
            eventually(lambda odin=each: odin.get("/readyz").status == 200, "the broker")
        self.nats.publish(TRADE, *numbers(100, 150))
        for each in told:
            each.read(149)
        epoch, last = told[0].epochs[0], told[0].offsets[-1]
        self.network.cut()
        self.roll_back(copy)
        if before_anybody_looks:
            self.nats.publish(TRADE, *numbers(200, 260))
        self.network.mend()
        for each in odins:
            eventually(lambda odin=each: odin.get("/readyz").status == 200, "the broker")
        if not before_anybody_looks:
            self.nats.publish(TRADE, *numbers(200, 260))
        for each in told:
            each.read(259)
            self.assertEqual(each.numbers, list(range(200, 260)), "all that is new, once")
            self.assertEqual(each.offsets, sorted(set(each.offsets)))
            self.assertNotIn(epoch, each.epochs[1:])
        epochs = {each.get("/stats").json()["hub"]["epoch"] for each in odins}
        self.assertEqual(len(epochs), 1, "all Odins agree")
        for each in odins:
            ack, found = self.recovered(each, epoch, last)
            self.assertEqual((ack["recovered"], found), (False, []))
        ack, found = self.recovered(odins[1], told[0].epochs[-1], told[0].offsets[-11])
        self.assertEqual((ack["recovered"], found), (True, list(range(250, 260))))
        fresh = self.node()
        self.assertEqual(self.client(odin=fresh).welcome["epoch"], told[0].epochs[-1])

    def test_written_over(self) -> None:
        """The lost numbers were given again before anybody looked: the stored time tells."""
        self.lost(before_anybody_looks=True)

    def test_gone_back(self) -> None:
        """The sequence has gone back."""
        self.lost(before_anybody_looks=False)


class GapTests(NumberingTestCase):
    """Messages that are gone when Odin comes back, or only seem to be."""

    def away(self, first: int, last: int) -> tuple[Told, Odin]:
        """Publish five messages, then others while the network is cut, and mend it."""
        odin = self.node()
        told = Told(self.client(odin=odin))
        self.nats.publish(TRADE, *numbers(0, 5))
        told.read(4)
        self.network.cut()
        eventually(lambda: odin.get("/readyz").status == 503, "the loss")
        self.nats.publish(TRADE, *numbers(first, last))
        return told, odin

    def check_told(self, told: Told, odin: Odin, *expected: int) -> None:
        """The epoch came before the first of the `expected`, and there is no recovery."""
        self.network.mend()
        told.read(expected[-1])
        self.assertEqual(len(told.epochs), 2)
        self.assertEqual(told.numbers, list(expected))
        ack, _ = self.recovered(odin, told.epochs[0], told.offsets[4])
        self.assertIs(ack["recovered"], False)

    def test_limited(self) -> None:
        """The stream holds less than was published meanwhile."""
        self.stream(max_msgs=10)
        told, odin = self.away(5, 50)
        self.check_told(told, odin, *range(40, 50))

    def test_purged(self) -> None:
        """Purged but for three."""
        self.stream()
        told, odin = self.away(5, 50)
        jetstream(self.nats.url, "STREAM.PURGE.FEED", {"keep": 3})
        self.check_told(told, odin, 47, 48, 49)

    def test_deleted(self) -> None:
        """One message was deleted, in the middle."""
        self.stream()
        told, odin = self.away(5, 10)
        jetstream(self.nats.url, "STREAM.MSG.DELETE.FEED", {"seq": 8})
        self.check_told(told, odin, 5, 6, 8, 9)

    def test_nothing_missing(self) -> None:
        """What was published meanwhile follows, in the same epoch."""
        self.stream()
        told, _odin = self.away(5, 50)
        self.network.mend()
        told.read(49)
        self.assertEqual(len(told.epochs), 1)
        self.assertEqual(told.numbers, list(range(50)))

    def test_quiet_in_a_busy_stream(self) -> None:
        """Others push the feed's messages out of the stream: nothing of the feed is missing."""
        self.stream(max_msgs=20)
        odin = self.node()
        told = Told(self.client(odin=odin))
        self.nats.publish(TRADE, *numbers(0, 5))
        told.read(4)
        self.nats.publish("odin.other", *numbers(0, 100))
        time.sleep(1)  # nothing tells from outside that the consumer has sent two heartbeats
        self.network.cut()
        eventually(lambda: odin.get("/readyz").status == 503, "the loss")
        self.network.mend()
        eventually(lambda: odin.get("/readyz").status == 200, "the broker")
        ack, _ = self.recovered(odin, told.epochs[0], told.offsets[-1])
        self.assertIs(ack["recovered"], True)

    def test_limit_per_subject(self) -> None:
        """A stream that keeps three messages of each subject can recover nobody across a hole."""
        self.stream(max_msgs_per_subject=3)
        odin = self.node(DELIVERY_HISTORY_MESSAGES="2")
        told = Told(self.client(odin=odin))
        self.nats.publish("odin.trades.OLD", b'{"n":-1}')
        self.nats.publish(TRADE, *numbers(0, 20))
        told.read(19)
        first = told.offsets[0]
        for each in (odin, self.node()):
            ack, found = self.recovered(each, told.epochs[0], first)
            self.assertEqual((ack["recovered"], found), (False, []))
        ack, found = self.recovered(self.node(), told.epochs[0], told.offsets[-3])
        self.assertEqual((ack["recovered"], found), (True, [18, 19]))

    def test_repeated_nonces(self) -> None:
        """A recovery from the stream leaves out the repetitions that the feed left out."""
        self.stream()
        odin = self.node(DELIVERY_HISTORY_MESSAGES="2")
        client = self.client(odin=odin)
        nonces = ("a", "b", "a", "b", "c", "d", "e", "f")
        self.nats.publish(
            TRADE, *(b'{"n":%d,"nonce":"%b"}' % (n, x.encode()) for n, x in enumerate(nonces))
        )
        live = [each["n"] for each in client.until(lambda message: message.get("n") == 7)]
        self.assertEqual(live, [0, 1, 4, 5, 6, 7])
        ack, found = self.recovered(odin, client.welcome["epoch"], 0)
        self.assertEqual((ack["recovered"], found), (True, live))


class ClusterTests(NatsTestCase):
    """Nodes of a cluster are lost while the connection is not."""

    def setUp(self) -> None:
        self.cluster = Cluster()
        self.addCleanup(self.cluster.stop)

    def stream(self, **settings: object) -> int:
        """Make the stream; the node that leads it."""
        jetstream(
            self.cluster.url,
            "STREAM.CREATE.FEED",
            {"name": "FEED", "subjects": ["odin.>"], "num_replicas": 1} | settings,
        )
        return self.cluster.leader("FEED")

    def test_memory_is_lost(self) -> None:
        """A stream in memory begins at 1 again, though it was created when it was."""
        leader = self.stream(storage="memory")
        odin = self.joined(self.cluster.url_without(leader), **STREAM)
        told = Told(self.client(odin=odin))
        other = self.cluster.nodes[(leader + 1) % 3]
        other.publish(TRADE, *numbers(0, 60))
        told.read(59)
        self.cluster.kill(leader)
        self.assertEqual(told.client.receive()["status"], "stale")
        self.cluster.start(leader)
        eventually(lambda: odin.get("/readyz").status == 200, "the stream", 60)
        other.publish(TRADE, *numbers(100, 170))
        told.read(169)
        self.assertEqual(told.numbers, list(range(100, 170)))
        self.assertEqual(told.offsets, sorted(set(told.offsets)))
        self.assertEqual(len(told.epochs), 2)

    def test_node_of_the_stream(self) -> None:
        """Nothing can arrive: told, not ready, and no message is acknowledged."""
        leader = self.stream()
        odin = self.joined(self.cluster.url_without(leader), **STREAM)
        client = self.client(odin=odin)
        self.cluster.kill(leader)
        answers = [odin.publish(TRADE, {"n": 1}).status]
        self.assertEqual(client.receive()["status"], "stale")
        self.assertEqual(answers, [503])
        self.assertEqual(odin.get("/readyz").status, 503)
        self.assertEqual(odin.get("/health").json()["status"], "degraded")
        self.cluster.start(leader)
        self.assertEqual(client.receive()["status"], "live")
        self.assertEqual(odin.publish(TRADE, {"n": 2}).status, 202)
        self.assertEqual(client.receive()["n"], 2)
