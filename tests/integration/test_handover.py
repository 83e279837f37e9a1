"""Hand-overs: all workers are replaced, and the clients stay on their first connection."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.integration.clients import PONG, TEXT, Client, frame, trusting
from tests.integration.crowd import Crowd, Ticker
from tests.integration.harness import (
    SECRET,
    Nats,
    Odin,
    Process,
    eventually,
    free_port,
    program,
    sign,
)
from tests.integration.test_endpoints import certificate
from tests.integration.test_workers import FleetTestCase, worker_pids

PATIENCE_S = 60
_BEARER = "Authorization: Bearer {}\r\n"
REVOKE = "odin.control.disconnect"


class HandoverTestCase(FleetTestCase):
    """What all of them need."""

    def hand_over(self, odin: Odin | None = None) -> str:
        """SIGHUP; what the server says of it in the end."""
        odin = odin or self.fleet
        said = len(ends(odin))
        odin.signal(signal.SIGHUP)
        eventually(lambda: len(ends(odin)) > said, "the end of the hand-over", PATIENCE_S)
        return ends(odin)[-1]

    def assertMoved(self, crowd: Crowd, *, odin: Odin | None = None) -> None:
        """A hand-over that nobody has noticed."""
        self.assertRegex(self.hand_over(odin), "handed over [1-9]")
        self.assertEqual((crowd.faults, crowd.ended), ([], []))


def ends(odin: Odin) -> list[str]:
    """What was said of each hand-over so far."""
    return re.findall(r'"message": ?"(handed over [^"]*|no hand-over: [^"]*)"', odin.output())


class LoadTests(HandoverTestCase):
    """While messages flow."""

    def test_in_a_row(self) -> None:
        """Nobody loses, repeats or reorders anything; all on their first connection."""
        odin = self.fleet
        pids = worker_pids(odin)
        with Crowd(odin.host, 60) as crowd, Ticker(self.nats, 200) as ticker:
            eventually(lambda: crowd.have(50), "the feed")
            for turn in range(1, 4):
                self.assertMoved(crowd)
                now = worker_pids(odin)
                self.assertFalse(set(pids.values()) & set(now.values()))
                pids = now
                self.assertEqual(odin.clients(), 60)
                metrics = odin.metrics()
                self.assertEqual(metrics['odin_handovers_total{result="done"}'], turn)
                # counted once each, though two processes had them
                self.assertEqual(metrics["websocket_connections_total"], 60)
                self.assertNotIn('odin_disconnects_total{code="1012",initiator="server"}', metrics)
            sent = metrics["websocket_messages_sent_total"]
            self.assertWhole(crowd, ticker.stop())
            self.assertGreaterEqual(odin.metrics()["websocket_messages_sent_total"], sent)
            names = {each.notices[0]["clientId"] for each in crowd.members.values()}
            self.assertEqual(len(names), 60)
            late = self.client(odin=odin)
            self.assertNotIn(late.welcome["clientId"], names)
        self.assertEqual(odin.metric("odin_worker_restarts_total"), 0)

    def test_duplicates(self) -> None:
        """What the old workers have seen, the new ones drop; the numbering goes on."""
        odin, subject = self.fleet, "odin.trades.X"
        clients = [self.client(odin=odin) for _ in range(6)]
        body = b'{"nonce":"n-%d","n":%d}'
        self.nats.publish(subject, *(body % (n, n) for n in range(20)))
        before = [[each.receive() for _ in range(20)] for each in clients]
        self.hand_over()
        self.nats.publish(subject, *(body % (n, n) for n in range(30)))
        for client, had in zip(clients, before, strict=True):
            got = [client.receive() for _ in range(10)]
            self.assertEqual([each["n"] for each in got], list(range(20, 30)))
            offsets = [each["offset"] for each in had + got]
            self.assertEqual(offsets, list(range(offsets[0], offsets[0] + 30)))

    def test_the_same_again(self) -> None:
        """Messages that say the same, without a nonce, are so many messages."""
        odin = self.fleet
        with Crowd(odin.host, 10) as crowd:
            self.assertEqual(odin.clients(), 10)
            with Ticker(self.nats, 300, same=True) as ticker:
                for _ in range(2):
                    self.assertMoved(crowd)
                ticker.stop()
            eventually(
                lambda: all(len(each.notices) > ticker.sent for each in crowd.members.values()),
                "the last message",
            )
            counts = {len(each.notices) - 1 for each in crowd.members.values()}  # but the welcome
            self.assertEqual(counts, {ticker.sent})

    def test_history(self) -> None:
        """Snapshots and recovery after it know what was before it."""
        odin = self.fleet
        client = self.client(odin=odin)
        self.nats.publish("odin.token.A.price", *(b'{"n":%d}' % n for n in range(10)))
        got = [client.receive() for _ in range(10)]
        self.hand_over()
        data: dict[str, Any] = {"channels": ["odin.>"], "snapshot": True}
        client.ask({"type": "subscribe", "data": data})
        snapshot = client.receive()
        self.assertEqual((snapshot["n"], snapshot["snapshot"]), (9, True))
        data = {"channels": [">"]}
        data["recover"] = {"epoch": client.welcome["epoch"], "offset": got[3]["offset"]}
        ack = client.ask({"type": "subscribe", "data": data})
        self.assertIs(ack["recovered"], True)
        self.assertEqual([client.receive()["n"] for _ in range(6)], list(range(4, 10)))


class JetStreamTests(HandoverTestCase):
    """With a stream, all numbers come from there."""

    def setUp(self) -> None:
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.nats = Nats("-js", "-sd", self.folder)
        self.addCleanup(self.nats.stop)
        self.fleet = self.start_fleet(NATS_JETSTREAM_STREAM="FEED", NATS_JETSTREAM_CREATE="true")

    def test_under_load(self) -> None:
        """Nothing lost, nothing twice; and the epoch stays."""
        odin = self.fleet
        with Crowd(odin.host, 40) as crowd, Ticker(self.nats, 200) as ticker:
            eventually(lambda: crowd.have(50), "the feed")
            for _ in range(2):
                self.assertMoved(crowd)
            self.assertWhole(crowd, ticker.stop())
            epochs = {each.notices[0]["epoch"] for each in crowd.members.values()}
            self.assertEqual(epochs, {self.client(odin=odin).welcome["epoch"]})

    def test_told_stale(self) -> None:
        """Clients whose worker has lost the broker hear `live` from the one that has it."""
        file = Path(self.folder, "odin.json")

        def configure() -> None:
            file.write_text(json.dumps({"nats": {"url": self.nats.url}}), encoding="utf-8")

        configure()
        odin = self.start("--workers", "1", "--config", str(file), NATS_JETSTREAM_STREAM="FEED")
        odin.says(r"process\.supervisor.*Odin listens on")
        eventually(lambda: odin.get("/readyz").status == 200, "readiness")
        client = self.client(odin=odin)
        self.nats.publish("odin.trades.A", b'{"n":1}')
        self.assertEqual(client.receive()["n"], 1)
        self.nats.signal(signal.SIGTERM)
        self.nats.wait()
        self.assertEqual(client.receive()["status"], "stale")
        self.nats = Nats("-js", "-sd", self.folder)  # at another address
        self.addCleanup(self.nats.stop)
        self.nats.publish("odin.trades.A", b'{"n":2}')
        configure()
        self.assertRegex(self.hand_over(odin), "handed over 1 clients")
        live, message = client.receive(), client.receive()
        self.assertEqual((live["status"], live["epoch"]), ("live", client.welcome["epoch"]))
        self.assertEqual((live["offset"], message["offset"], message["n"]), (1, 2, 2))


class ClientTests(HandoverTestCase):
    """What of a client travels."""

    def test_subscriptions_and_identity(self) -> None:
        """Patterns, number, permissions; and an operator still reaches the user."""
        odin = self.fleet
        token = sign(sub="carol", channels=["odin.trades.>"], publish=["odin.trades.A"])
        carol, dave = self.client(odin=odin, token=token), self.client(odin=odin)
        carol.subscribe("odin.trades.A", "odin.trades.B.>")
        dave.subscribe("odin.token.*.price")
        dave.ask({"type": "unsubscribe", "data": {"channels": ["odin.token.*.price"]}})
        self.hand_over()
        mine = carol.ask({"type": "subscriptions"})
        self.assertEqual(mine["channels"], ["odin.trades.A", "odin.trades.B.>"])
        self.assertEqual(dave.ask({"type": "subscriptions"})["channels"], [])
        pong = carol.ask({"type": "ping", "timestamp": 1})
        self.assertEqual(pong["clientId"], carol.welcome["clientId"])
        refused = carol.subscribe("odin.token.BTC.price")
        self.assertEqual(refused["rejected"][0]["code"], "forbidden")
        self.assertEqual(
            carol.ask({"type": "publish", "channel": "odin.trades.C", "data": {}})["code"],
            "forbidden",
        )
        carol.send({"type": "publish", "channel": "odin.trades.A", "data": {"n": 7}})
        self.assertEqual(carol.until(lambda message: "n" in message)[-1]["n"], 7)
        self.nats.publish(REVOKE, b'{"userId":"carol"}')
        self.assertEqual(carol.closed()[0], 4403)
        self.hand_over()  # and a third process knows that her token is no good any more
        wire = self.wire(odin)
        self.assertEqual(wire.upgrade(f"Authorization: Bearer {token}\r\n").status, 401)

    def test_expiry(self) -> None:
        """A token ends when it ends."""
        client = self.client(odin=self.fleet, token=sign(exp=int(time.time()) + 50))
        self.assertEqual(client.receive()["type"], "tokenExpiring")
        self.hand_over()
        pong = client.ask({"type": "ping", "timestamp": 1})  # and is not told so again
        self.assertEqual(pong["type"], "pong")
        self.assertEqual(client.ask({"type": "auth", "token": sign()})["type"], "auth_ack")


class RestTests(HandoverTestCase):
    """Clients that are in the middle of something."""

    more = {"SERVER_WRITE_TIMEOUT": "60"}  # one does not read while it is handed over

    def test_half_a_frame(self) -> None:
        """Who is in the middle of a frame moves when it is complete."""
        odin = self.fleet
        wires = [self.websocket(odin=odin) for _ in range(4)]
        whole = frame(TEXT, json.dumps({"type": "ping", "timestamp": 3}).encode())
        for number, wire in enumerate(wires):
            wire.send(whole[: 1 + 5 * number])
        fragments = self.websocket(odin=odin)
        fragments.send(frame(TEXT, b'{"type":"ping",', fin=False))
        said = len(ends(odin))
        odin.signal(signal.SIGHUP)
        eventually(lambda: "handover" in odin.output() or _successors(odin) == 2, "new workers")
        time.sleep(1.5)  # they would be gone by now, if they could go
        self.assertEqual(len(ends(odin)), said)
        for number, wire in enumerate(wires):
            wire.send(whole[1 + 5 * number :])
        fragments.send(frame(0, b'"timestamp":4}'))
        eventually(lambda: len(ends(odin)) > said, "the end of the hand-over", PATIENCE_S)
        self.assertRegex(ends(odin)[-1], "handed over 5 clients")
        for wire in [*wires, fragments]:
            opcode, payload = wire.receive()
            self.assertEqual((opcode, json.loads(payload)["type"]), (TEXT, "pong"))
            wire.send(frame(9, b"still here"))
            self.assertEqual(wire.receive(), (PONG, b"still here"))

    def test_never_at_rest(self) -> None:
        """Who stays in the middle of a message for too long is told to come back."""
        odin = self.fleet
        wire, well = self.websocket(odin=odin), self.client(odin=odin)
        wire.send(frame(TEXT, b"{", fin=False))
        self.assertRegex(self.hand_over(), "handed over 1 clients")
        self.assertEqual(json.loads(wire.receive()[1])["type"], "reconnect")
        self.assertEqual(wire.closed()[0], 1012)
        self.assertEqual(well.ask({"type": "ping", "timestamp": 1})["type"], "pong")

    def test_behind(self) -> None:
        """Who does not read takes along what waits, half a frame of it too."""
        odin = self.fleet
        slow = self.wire(odin, receive_buffer=4096)
        self.assertEqual(slow.upgrade().status, 101)
        epoch = json.loads(slow.receive()[1])["epoch"]
        body = b'{"n":%d,"pad":"' + b"x" * 3000 + b'"}'
        self.nats.publish("odin.trades.X", *(body % n for n in range(250)))
        eventually(lambda: odin.metric("odin_slow_clients") == 1, "a slow client")
        self.assertRegex(self.hand_over(), "handed over 1 clients")
        self.nats.publish("odin.trades.X", *(body % n for n in range(250, 270)))
        got = [json.loads(slow.receive()[1]) for _ in range(270)]
        self.assertEqual([each["n"] for each in got], list(range(270)))
        self.assertTrue(epoch)
        eventually(lambda: odin.metric("odin_slow_clients") == 0, "nobody behind")


class ConnectionTests(HandoverTestCase):
    """What a connection has besides: limits, compression, TLS."""

    def test_limits(self) -> None:
        """Who has used up its messages has not more of them afterwards."""
        odin = self.start_fleet(LIMITS_MESSAGES_PER_SECOND="0.01", LIMITS_MESSAGE_BURST="3")
        client = self.client(odin=odin)
        for _ in range(3):
            client.ask({"type": "ping", "timestamp": 1})
        self.hand_over(odin)
        self.assertEqual(client.ask({"type": "ping", "timestamp": 1})["code"], "rate_limited")

    def test_compressed(self) -> None:
        """A client with permessage-deflate whose messages stand for themselves moves."""
        odin = self.start_fleet(WEBSOCKET_ENABLE_COMPRESSION="true")
        client = self.client(odin=odin, compression="deflate")
        client.ask({"type": "ping", "timestamp": 1})
        self.assertRegex(self.hand_over(odin), "handed over 1 ")
        self.nats.publish("odin.trades.X", b'{"n":1,"pad":"%b"}' % (b"x" * 5000))
        self.assertEqual(client.receive()["n"], 1)
        self.assertEqual(client.ask({"type": "ping", "timestamp": 1})["type"], "pong")

    def test_tls(self) -> None:
        """Over TLS nobody can move: they are told to come back, and find a new worker."""
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        key, cert = certificate(folder)
        port = free_port()
        odin = self.start_fleet(
            "--endpoint", f"ssl:{port}:interface=127.0.0.1:privateKey={key}:certKey={cert}"
        )
        context = trusting(cert)
        plain = self.client(odin=odin)
        secure = Client(f"127.0.0.1:{port}", ssl=context)
        self.addCleanup(secure.close)
        self.assertRegex(self.hand_over(odin), "handed over 1 clients")
        self.assertEqual(
            secure.until(lambda each: each["type"] == "reconnect")[-1]["afterMs"] // 6000, 0
        )
        self.assertEqual(secure.closed()[0], 1012)
        plain.send({"type": "ping", "timestamp": 1})
        plain.until(lambda each: each["type"] == "pong")
        again = Client(f"127.0.0.1:{port}", ssl=context)
        self.addCleanup(again.close)
        self.assertNotEqual(again.welcome["clientId"], secure.welcome["clientId"])


def _successors(odin: Odin) -> int:
    """How many processes of workers there are beyond those that serve."""
    children = Path(f"/proc/{odin.pid}/task/{odin.pid}/children").read_text(encoding="ascii")
    return len(children.split()) - 2


class BrokenTestCase(HandoverTestCase):
    """New versions that are broken, in a copy of the sources."""

    def check(self, odin: Process) -> None:
        """Only the exception that was put there on purpose reaches the log."""
        self.assertNotIn('"failure"', odin.output())
        expected = odin.output().count("ImportError: broken")
        self.assertLessEqual(odin.output().count("Traceback"), expected)

    def start_fleet(self, *options: str, **environment: str) -> Odin:
        self.tree = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.tree, ignore_errors=True)
        root = Path(__file__).parents[2]
        for name in ("odin", "twisted"):
            shutil.copytree(root / name, self.tree / name)
        self.prepare()
        return super().start_fleet(*options, PYTHONPATH=str(self.tree), **environment)

    def prepare(self) -> None:
        """Change the copy before the server starts."""

    def change(self, file: str, old: str, new: str) -> str:
        """Exchange a text in the copy; what was in the file before."""
        path = self.tree / "odin" / file
        text = path.read_text(encoding="utf-8")
        self.assertIn(old, text)
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        return text

    def broken(self, file: str, old: str, new: str) -> str:
        """Hand over to a version with this change; what the server says."""
        before = self.change(file, old, new)
        try:
            return self.hand_over()
        finally:
            (self.tree / "odin" / file).write_text(before, encoding="utf-8")


class CrashTests(BrokenTestCase):
    """They end, at this moment or that."""

    def test_crashes(self) -> None:
        """At import, before it is ready: nobody notices. Then a good one works."""
        odin = self.fleet
        with Crowd(odin.host, 30) as crowd, Ticker(self.nats, 100) as ticker:
            eventually(lambda: crowd.have(20), "the feed")
            pids = worker_pids(odin)
            said = self.broken("worker.py", "import os\n", "raise ImportError('broken')\n")
            self.assertEqual(said, "no hand-over: the new worker 0 ended: ImportError: broken")
            said = self.broken("worker.py", 'self._channel.send("ready")', "os._exit(3)")
            self.assertEqual(said, "no hand-over: the new worker 0 ended: status 3")
            self.assertEqual(worker_pids(odin), pids)
            self.assertEqual((crowd.faults, crowd.ended), ([], []))
            self.assertEqual(odin.metric('odin_handovers_total{result="failed"}'), 2)
            self.assertMoved(crowd)
            self.assertWhole(crowd, ticker.stop())
            self.assertEqual(odin.metric("odin_worker_restarts_total"), 0)

    def test_half_way(self) -> None:
        """What the new worker did not take yet stays with the old one, which goes on."""
        odin = self.fleet
        with Crowd(odin.host, 40) as crowd, Ticker(self.nats, 100) as ticker:
            eventually(lambda: crowd.have(20), "the feed")
            said = self.broken(
                "process/handover.py",
                '            self._channel.send("took", ',
                "            os._exit(4), (",
            )
            self.assertRegex(
                said,
                r"^no hand-over: the new worker 0 failed half-way \(it ended: status 4\); "
                r"\d+ clients stay with the old one$",
            )
            self.assertEqual((crowd.faults, crowd.ended), ([], []))
            self.assertEqual(odin.clients(), 40)
            late = self.client(odin=odin)
            late.until(lambda message: "seq" in message)
            self.assertMoved(crowd)
            self.assertWhole(crowd, ticker.stop())

    def test_market(self) -> None:
        """The market of `--demo` goes on with the worker that has kept its clients."""
        self.fleet = odin = self.start_fleet("--demo")
        for _ in range(10):  # some of them at the worker that has the market
            self.client(odin=odin).receive()
        took = '            self._channel.send("took", '
        said = self.broken("process/handover.py", took, "            os._exit(4), (")
        self.assertIn("the new worker 0 failed half-way", said)
        late = self.client(odin=odin)
        for _ in range(5):
            late.receive()

    def test_another_old_one_dies(self) -> None:
        """While one slot hands over the old worker of another is killed, and replaced by one that
        has not recorded: nothing may be repeated; what has not moved stays where it is."""
        odin = self.fleet
        with Crowd(odin.host, 30) as crowd, Ticker(self.nats, 100) as ticker:
            eventually(lambda: crowd.have(20), "the feed")
            pids = worker_pids(odin)
            held: list[Any] = []

            def at_0() -> Any:
                return odin.get("/stats").json()["workers"][0]["connections"]

            before = at_0()
            while at_0() == before:
                held.append(self.websocket(odin=odin))
            for each in held:  # some of them keep slot 0 from its end
                each.send(frame(TEXT, b"{", fin=False))
            said = len(ends(odin))
            odin.signal(signal.SIGHUP)
            eventually(lambda: _successors(odin) == 2, "new workers", PATIENCE_S)
            eventually(lambda: odin.output().count("Closed") > 0, "the hand-over of slot 0")
            os.kill(pids[1], signal.SIGKILL)
            eventually(lambda: len(ends(odin)) > said, "the end of the hand-over", PATIENCE_S)
            self.assertRegex(ends(odin)[-1], "the old worker 1 ended meanwhile")
            late = self.client(odin=odin)
            late.until(lambda message: "seq" in message)
            ticker.stop()
            self.assertEqual(crowd.faults, [])
        eventually(lambda: odin.metric("odin_workers") == 2, "both workers")
        self.assertRegex(self.hand_over(), "^handed over")

    def test_old_one_dies(self) -> None:
        """The old worker is killed while it hands over: its clients are cut off, no others."""
        odin = self.fleet
        with Crowd(odin.host, 30) as crowd, Ticker(self.nats, 100) as ticker:
            eventually(lambda: crowd.have(20), "the feed")
            stuck = self.websocket(odin=odin)  # keeps the hand-over from its end
            stuck.send(frame(TEXT, b"{", fin=False))
            pids = worker_pids(odin)
            odin.signal(signal.SIGHUP)
            eventually(lambda: _successors(odin) == 2, "new workers", PATIENCE_S)
            for pid in pids.values():
                os.kill(pid, signal.SIGKILL)
            eventually(
                lambda: odin.get("/readyz").status == 200 and odin.metric("odin_workers") == 2,
                "new workers", PATIENCE_S,
            )  # fmt: skip
            late = self.client(odin=odin)
            late.until(lambda message: "seq" in message)
            self.assertEqual(crowd.faults, [])
            ticker.stop()


class ReloadTests(HandoverTestCase):
    """A changed configuration."""

    def start_fleet(self, *options: str, **environment: str) -> Odin:
        self.file = Path(tempfile.mkdtemp(), "odin.json")
        self.addCleanup(shutil.rmtree, self.file.parent, ignore_errors=True)
        self.inner = free_port()
        self.secret = self.file.with_name("secret")
        self.secret.write_text(SECRET, encoding="utf-8")
        self.configure(pingInterval=20)
        return super().start_fleet(
            "--config",
            str(self.file),
            METRICS_PORT=str(self.inner),
            JWT_SECRET_FILE=str(self.secret),
            **environment,
        )

    def configure(self, **websocket: object) -> None:
        self.file.write_text(json.dumps({"websocket": websocket}), encoding="utf-8")

    def upgrade(self) -> tuple[int, str]:
        """`odin upgrade`, as an operator does it: exit status, what it says."""
        done = subprocess.run(
            [program("odin"), "upgrade", "--url", f"http://127.0.0.1:{self.inner}"],
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def test_reload(self) -> None:
        """A good one is there for whoever comes, a broken one changes nothing."""
        odin = self.fleet
        client = self.client(odin=odin)
        self.assertEqual(client.welcome["heartbeatInterval"], 20_000)
        self.configure(pingInterval=7)
        status, said = self.upgrade()
        self.assertEqual(status, 0, said)
        self.assertRegex(said, r"^1 clients handed over in [\d.]+ s$")
        self.assertEqual(self.client(odin=odin).welcome["heartbeatInterval"], 7_000)
        self.assertEqual(client.ask({"type": "ping", "timestamp": 1})["type"], "pong")
        pids = worker_pids(odin)
        self.configure(pingInterval="soon")
        status, said = self.upgrade()
        self.assertEqual(status, 1)
        self.assertRegex(said, r"^odin: .*odin\.json: websocket\.pingInterval: ")
        self.file.write_text("{", encoding="utf-8")
        self.assertEqual(self.upgrade()[0], 1)
        self.assertEqual(worker_pids(odin), pids)
        self.assertEqual(client.ask({"type": "ping", "timestamp": 1})["type"], "pong")
        self.assertEqual(self.wire(odin).upgrade(_BEARER.format(sign())).status, 101)
        self.configure(pingInterval=7)
        self.secret.write_text("another-0123456789-abcdefghijklmnopqrst", encoding="utf-8")
        self.assertEqual(self.upgrade()[0], 0)
        self.assertEqual(self.wire(odin).upgrade(_BEARER.format(sign())).status, 401)
        self.file.write_text('{"server":{"port":1}}', encoding="utf-8")
        self.assertEqual(self.upgrade()[0], 0)
        self.assertNotIn("server.port has changed", odin.output())  # the option goes before it


class OtherTests(HandoverTestCase):
    """One worker without a broker; and the end in the middle."""

    def test_without_broker(self) -> None:
        """The in-process bus: what is published goes on as well."""
        odin = self.start("--workers", "1", "--nats-url", "memory://")
        client = self.client(odin=odin)
        odin.publish("a.b", {"n": 1, "nonce": "one"})
        first = client.receive()
        self.assertRegex(self.hand_over(odin), "handed over 1 clients")
        again = odin.publish("a.b", {"n": 1, "nonce": "one"})
        self.assertIs(again.json()["duplicate"], True)
        self.assertEqual(odin.publish("a.b", {"n": 2}).status, 202)
        second = client.receive()
        self.assertEqual((second["n"], second["offset"]), (2, first["offset"] + 1))

    def test_newcomers(self) -> None:
        """Who comes while workers are replaced gets in, and a name of its own."""
        odin = self.fleet
        clients: list[Client] = []
        said = len(ends(odin))
        odin.signal(signal.SIGHUP)
        while len(ends(odin)) == said:
            clients.append(self.client(odin=odin))
            time.sleep(0.02)  # the new workers need the processor, too
        names = [each.welcome["clientId"] for each in clients]
        self.assertGreater(len(names), 20)
        self.assertEqual(len(set(names)), len(names))
        for each in clients:
            each.send({"type": "ping", "timestamp": 1})
            each.until(lambda message: message["type"] == "pong")

    def test_newcomers_at_an_endpoint(self) -> None:
        """Its listening socket is passed on: nobody is refused or reset, even with one worker."""
        port = free_port()
        endpoint = f"tcp:{port}:interface=127.0.0.1"
        odin = self.start("--workers", "1", "--nats-url", "memory://", "--endpoint", endpoint)
        odin.says(rf"Odin listens at tcp:127\.0\.0\.1:{port}")
        request = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        done = threading.Event()
        answers: list[bytes] = []
        failures: list[OSError] = []

        def come() -> None:
            while not done.wait(0.005):
                try:
                    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as sock:
                        sock.sendall(request)
                        answers.append(sock.recv(100)[:12])
                except OSError as error:
                    failures.append(error)

        threads = [threading.Thread(target=come) for _ in range(3)]
        for each in threads:
            each.start()
        try:
            for _ in range(3):
                self.assertRegex(self.hand_over(odin), "^handed over")
        finally:
            done.set()
            for each in threads:
                each.join()
        self.assertEqual((failures, set(answers)), ([], {b"HTTP/1.1 200"}))

    def test_twice(self) -> None:
        """A second one while the first runs comes after it."""
        odin = self.fleet
        odin.signal(signal.SIGHUP)
        eventually(lambda: _successors(odin) > 0, "a new worker")
        odin.signal(signal.SIGHUP)
        eventually(lambda: len(ends(odin)) == 2, "the end of both", PATIENCE_S)
        for each in ends(odin):
            self.assertRegex(each, "^handed over 0 clients")

    def test_stop_meanwhile(self) -> None:
        """SIGTERM during a hand-over: everybody gets 1012, all processes end, status 0."""
        odin = self.fleet
        with Crowd(odin.host, 20) as crowd:
            stuck = self.websocket(odin=odin)
            stuck.send(frame(TEXT, b"{", fin=False))
            odin.signal(signal.SIGHUP)
            eventually(lambda: _successors(odin) == 2, "new workers", PATIENCE_S)
            time.sleep(1)
            odin.signal(signal.SIGTERM)
            eventually(lambda: len(crowd.ended) == 20, "the end")
            self.assertEqual(set(crowd.ended), {"1012"})
        self.assertEqual(stuck.closed()[0], 1012)
        self.assertEqual(odin.wait(), 0)
