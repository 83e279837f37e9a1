"""What a client can do through the broker, or to it: JetStream."""

import tempfile
import time

from tests.hostile.crowded import Crowded
from tests.hostile.field import SECONDS, TURN
from tests.hostile.test_subscriptions import subscribe
from tests.integration.brokers import jetstream
from tests.integration.clients import PATIENCE_S
from tests.integration.harness import Odin, eventually, sign

_EACH = 1000  # messages of a channel


class StreamAttacks(Crowded):
    """A server at a stream, with a memory so short that recoveries go to the broker."""

    broker_options = ("-js", "-sd", tempfile.mkdtemp())
    environment = {
        "NATS_JETSTREAM_STREAM": "FEED", "NATS_JETSTREAM_CREATE": "true",
        "DELIVERY_HISTORY_MESSAGES": "10",
    }  # fmt: skip

    def fill(self, odin: Odin) -> None:
        for channel in ("odin.trades.A", "odin.trades.B"):
            self._brokers[type(self)].publish(channel, *(b'{"n":%d}' % n for n in range(_EACH)))
        eventually(lambda: odin.metric("nats_messages_total") >= 2 * _EACH, "the history")

    def test_two_recoveries(self) -> None:
        """The second of two recoveries loses nothing, waiting for the first or not (A6)."""
        epoch, _ = self.position()
        with self.attack("A6 two recoveries in a row"):
            client = self.opened()
            for channel in "AB":
                where = {"epoch": epoch, "offset": 0}
                client.say(subscribe([f"odin.trades.{channel}"], recover=where))
            client.socket.settimeout(PATIENCE_S)
            seen: dict[str, set[int]] = {"odin.trades.A": set(), "odin.trades.B": set()}
            recovered = 0
            try:
                while recovered < 2 or any(len(each) < _EACH for each in seen.values()):
                    message = client.message()
                    if message.get("type") == "subscription_ack":
                        self.assertIs(message["recovered"], True)
                        recovered += 1
                    elif "channel" in message:
                        seen[message["channel"]].add(message["n"])
            except TimeoutError:
                counts = [len(each) for each in seen.values()]
                self.fail(f"{counts} of {_EACH} each, after {recovered} acknowledgements")

    def test_narrower_token(self) -> None:
        """A channel that a newer token does not permit is not there in the end (A7)."""
        epoch, offset = self.position()
        with self.attack("A7 a narrower token beside a recovery"):
            client = self.opened()
            wide, narrow = sign(channels=["odin.trades.>"]), sign(channels=["odin.other"])
            self.assertEqual(client.ask({"type": "auth", "token": wide})["type"], "auth_ack")
            client.say(subscribe(["odin.trades.x"], recover={"epoch": epoch, "offset": offset + 5}))
            client.say({"type": "auth", "token": narrow})
            kinds = [client.message()["type"] for _ in range(2)]
            self.assertEqual(sorted(kinds), ["auth_ack", "subscription_ack"])
            answer = client.ask({"type": "subscriptions"})
            self.assertNotIn("odin.trades.x", answer["channels"])

    def test_limit(self) -> None:
        """limits.channelsPerClient holds for subscriptions that waited, too (A8)."""
        epoch, offset = self.position()
        where = {"epoch": epoch, "offset": offset - 100}
        with self.attack("A8 5,000 patterns with recover", cost=12_000, turn=TURN, peak_mb=6):
            client = self.opened()
            for number in range(5):
                names = [f"odin.t{number}.x{each}.*" for each in range(1000)]
                client.say(subscribe(names, recover=where))
            counts = []
            while len(counts) < 5 and (message := client.message()) is not None:
                if message["type"] in ("subscription_ack", "error"):
                    counts.append(message.get("count", 0))
            self.assertLessEqual(max(counts), 1024)

    def test_recoveries(self) -> None:
        """Recoveries from the stream, as often as allowed (A8, A13)."""
        epoch, offset = self.position()
        with self.attack("A8 30 recoveries from the stream", cost=20_000, turn=TURN, peak_mb=6):
            client = self.opened()
            for number in range(30):
                where = {"epoch": epoch, "offset": offset - 1000 - number}
                answer = client.ask(subscribe(["odin.trades.A", f"x{number}"], recover=where))
                if number < 3:
                    self.assertIs(answer["recovered"], True)
                elif answer is None or answer["type"] == "error":  # too often
                    break

    def test_ahead(self) -> None:
        """Recoveries of what is not there yet cost nothing while they wait (A30)."""
        epoch, offset = self.position()
        where = {"epoch": epoch, "offset": offset + 1000}
        with self.attack("A30 1,200 recoveries ahead", cost=6000 + 3000 * SECONDS, turn=TURN):
            clients = [self.opened() for _ in range(20)]
            for client in clients:
                for number in range(60):
                    client.say(subscribe([f"odin.x{number}"], recover=where))
            time.sleep(SECONDS)
            for client in clients:
                client.close()

    def test_administration(self) -> None:
        """No token is good for the administration of the broker (A9)."""
        with self.attack("A9 $JS.API by `publish`"):
            client = self.hostile()
            token = sign(publish=[">"])
            client.open("?channels=none", f"Authorization: Bearer {token}\r\n")
            client.ask({
                "type": "publish", "channel": "$JS.API.STREAM.CREATE.EVIL",
                "data": {"name": "EVIL", "subjects": ["evil.>"]},
            })  # fmt: skip
            self.odin.publish(
                "$JS.API.STREAM.CREATE.EVIL2", {"name": "EVIL2", "subjects": ["e2.>"]}
            )
            time.sleep(0.3)
            names = jetstream(self.nats.url, "STREAM.NAMES")["streams"]
            self.assertEqual(names, ["FEED"])

    def test_odd_subjects(self) -> None:
        """A subject that is not UTF-8 is counted, and said once (A39)."""
        with self.attack("A39 subjects that are not UTF-8"):
            reader = self.opened("?channels=odin.trades.end")
            before = len(self.odin.output())
            self.nats.publish_each(*(("odin.trades.\udcff", b"{}") for _ in range(50)))
            self.nats.publish_each(("odin.trades.end", b"{}"))
            self.assertEqual(reader.message()["channel"], "odin.trades.end")
            self.assertLess(len(self.odin.output()) - before, 2000)
            self.check(self.odin)
