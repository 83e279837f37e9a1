"""What publishers put on the broker that no client could read."""

import tempfile

from tests.integration.harness import Nats, Odin
from tests.integration.test_nats import NatsTestCase

TRADE, NO_UTF8 = "odin.trades.BTC", "odin.trades.\udcff\udcfe"
STREAM = {"NATS_JETSTREAM_STREAM": "FEED", "NATS_JETSTREAM_CREATE": "true"}


class SubjectTests(NatsTestCase):
    """Subjects that are not UTF-8."""

    def dropped(self, nats: Nats, odin: Odin) -> None:
        """Many of them are counted, with one line in the log; the others go their way."""
        client = self.client(odin=odin)
        nats.publish(NO_UTF8, *(b'{"n":%d}' % n for n in range(50)))
        nats.publish_each((TRADE, b'{"n":50}'), (NO_UTF8, b"{}"), (TRADE, b'{"n":51}'))
        self.assertEqual([client.receive()["n"] for _ in "12"], [50, 51])
        self.assertEqual(odin.get("/stats").json()["messages"]["malformed"], 51)
        self.assertEqual(odin.output().count("the subject is not UTF-8"), 1)
        self.assertNotIn("Traceback", odin.output())

    def test_nats(self) -> None:
        """With plain NATS they are dropped and counted."""
        nats = self.broker()
        self.dropped(nats, self.joined(nats.url))

    def test_jetstream(self) -> None:
        """A stream that holds some is read past them, live, after a restart and in a recovery."""
        nats = self.broker("-js", "-sd", tempfile.mkdtemp())
        odin = self.joined(nats.url, **STREAM)
        epoch = self.client(odin=odin).welcome["epoch"]
        self.dropped(nats, odin)
        for preload in ("0", "1000"):
            again = self.joined(nats.url, NATS_JETSTREAM_PRELOAD=preload, **STREAM)
            client = self.client("/ws?channels=none", odin=again)
            recover = {"channels": [">"], "recover": {"epoch": epoch, "offset": 0}}
            self.assertIs(client.ask({"type": "subscribe", "data": recover})["recovered"], True)
            self.assertEqual([client.receive()["n"] for _ in "12"], [50, 51])
            self.assertNotIn("Traceback", again.output())
