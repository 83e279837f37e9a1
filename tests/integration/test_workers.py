"""Several workers that are one server: started, asked, limited, killed, stopped."""

import json
import os
import signal
import socket
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

from tests.integration import harness
from tests.integration.clients import HANDSHAKE
from tests.integration.crowd import Crowd, Ticker
from tests.integration.harness import Nats, Odin, OdinTestCase, eventually, free_port, program


def worker_pids(odin: Odin) -> dict[int, int]:
    """The process of each worker, as the server tells it."""
    workers = odin.get("/stats").json().get("workers", [])
    return {each["worker"]: each["pid"] for each in workers}


class FleetTestCase(OdinTestCase):
    """A broker and a server with two workers for each test."""

    more: ClassVar[dict[str, str]] = {}

    def setUp(self) -> None:
        self.nats = Nats()
        self.addCleanup(self.nats.stop)
        self.inner = free_port()
        self.fleet = self.start_fleet()

    def start_fleet(self, *options: str, **environment: str) -> Odin:
        odin = self.start(
            "--nats-url", self.nats.url, "--workers", "2", *options, **self.more, **environment
        )
        odin.says(r"process\.supervisor.*Odin listens on")
        # of all workers, and not only of the one that answers
        eventually(lambda: odin.get("/health").json()["status"] == "healthy", "readiness")
        return odin

    def assertWhole(self, crowd: Crowd, last: int) -> None:
        """Everybody is there and has everything, once and in order."""
        eventually(lambda: crowd.have(last), "the last message")
        self.assertEqual((crowd.faults, crowd.ended), ([], []))


class WorkersTests(FleetTestCase):
    """Two workers."""

    def test_one_server(self) -> None:
        """Both have clients, both deliver, and whoever is asked answers for both."""
        odin = self.fleet
        with Crowd(odin.host, 40) as crowd, Ticker(self.nats, 100) as ticker:
            eventually(lambda: crowd.have(20), "the feed")
            seen: set[Any] = set()
            for _ in range(12):  # a new connection each: both workers are asked
                health, stats = odin.get("/health").json(), odin.get("/stats").json()
                self.assertEqual(health["status"], "healthy")
                self.assertEqual(health["services"]["websocket"]["clients"], 40)
                self.assertEqual(stats["connections"]["active"], 40)
                each = {line["worker"]: line["connections"] for line in stats["workers"]}
                self.assertEqual(set(each), {0, 1})
                self.assertEqual(sum(each.values()), 40)
                self.assertTrue(all(each.values()), each)
                seen.add(odin.metric("websocket_connections_active"))
            self.assertEqual(seen, {40.0})
            ticker.stop()
            self.assertWhole(crowd, ticker.sent - 1)
            metrics = odin.metrics()
            self.assertEqual(metrics["odin_workers"], 2)
            self.assertEqual(metrics["websocket_connections_total"], 40)
            self.assertEqual(metrics["nats_messages_total"], ticker.sent)  # each got all
            per_client = [each.last - each.first + 1 for each in crowd.members.values()]
            # the welcome of each, and what each got
            self.assertEqual(metrics["websocket_messages_sent_total"], 40 + sum(per_client))
            nodes = {each.notices[0]["node"] for each in crowd.members.values()}
            self.assertEqual(len(nodes), 2)

    def test_logs_carry_the_worker(self) -> None:
        """Each line of a worker says so; those of the supervisor do not."""
        lines = [json.loads(line) for line in self.fleet.output().splitlines()]
        self.assertEqual({line.get("worker") for line in lines}, {None, 0, 1})

    def test_killed_under_load(self) -> None:
        """The clients of a killed worker are cut off, the others notice nothing; it comes back."""
        odin = self.fleet
        with Crowd(odin.host, 30) as crowd, Ticker(self.nats, 200) as ticker:
            eventually(lambda: crowd.have(50), "the feed")
            total = odin.metric("websocket_connections_total")
            pids = worker_pids(odin)
            lost = next(
                line["connections"]
                for line in odin.get("/stats").json()["workers"]
                if line["worker"] == 0
            )
            os.kill(pids[0], signal.SIGKILL)
            eventually(lambda: worker_pids(odin).get(0, pids[0]) != pids[0], "a new worker")
            eventually(lambda: odin.get("/health").json()["status"] == "healthy", "health")
            self.assertEqual(odin.clients(), 30 - lost)
            # what the dead one has counted is still there
            self.assertGreaterEqual(odin.metric("websocket_connections_total"), total)
            self.assertEqual(odin.metric("odin_worker_restarts_total"), 1)
            late = [self.client(odin=odin) for _ in range(8)]
            seen = ticker.sent
            eventually(lambda: crowd.have(seen + 50), "the feed")
            for client in late:
                client.until(lambda message: "seq" in message)
            ticker.stop()
            eventually(lambda: crowd.have(ticker.sent - 1), "the last message")
            self.assertEqual(crowd.faults, [])
            self.assertEqual(len(crowd.ended), lost)
        self.assertRegex(odin.output(), r"worker 0 \(pid \d+\) ended with signal 9")

    def test_stopped_alone(self) -> None:
        """A worker that somebody stops lets its clients go; the next one hears at its socket."""
        odin = self.fleet
        pids = worker_pids(odin)
        os.kill(pids[0], signal.SIGTERM)
        eventually(lambda: worker_pids(odin).get(0, pids[0]) != pids[0], "a new worker")
        eventually(lambda: odin.metric("odin_workers") == 2, "both workers")
        with Crowd(odin.host, 30):
            lines = odin.get("/stats").json()["workers"]
            self.assertTrue(all(line["connections"] for line in lines), lines)

    def test_again_and_again(self) -> None:
        """While a worker that keeps dying is kept waiting, another one accepts for it."""
        odin = self.fleet
        for _ in range(3):
            pid = eventually(lambda: worker_pids(odin).get(1), "the worker")
            os.kill(pid, signal.SIGKILL)
            eventually(lambda pid=pid: worker_pids(odin).get(1) != pid, "its end")
            clients = [self.client(odin=odin) for _ in range(6)]  # some at the sockets of the dead
            for client in clients:
                client.send({"type": "ping", "timestamp": 1})
                client.until(lambda message: message.get("type") == "pong")
                client.close()
        self.assertRegex(odin.output(), r"the next one starts in (0\.5|1\.0) s")
        eventually(lambda: odin.metric("odin_workers") == 2, "both workers")

    def test_stop(self) -> None:
        """SIGTERM: everybody is told when to come back, gets 1012, and all processes end with 0."""
        odin = self.fleet
        pids = [odin.pid, *worker_pids(odin).values()]
        with Crowd(odin.host, 20) as crowd, Ticker(self.nats, 100):
            eventually(lambda: crowd.have(10), "the feed")
            odin.signal(signal.SIGTERM)
            eventually(lambda: len(crowd.ended) == 20, "the end")
            self.assertEqual(set(crowd.ended), {"1012"})
            self.assertEqual(crowd.faults, [])
            for each in crowd.members.values():
                self.assertEqual(each.notices[-1]["type"], "reconnect")
        self.assertEqual(odin.wait(), 0)
        for pid in pids[1:]:
            self.assertRaises(ProcessLookupError, os.kill, pid, 0)

    def test_without_supervisor(self) -> None:
        """When the supervisor is killed the workers let their clients go, and end."""
        odin = self.fleet
        pids = worker_pids(odin)
        with Crowd(odin.host, 10) as crowd:
            odin.signal(signal.SIGKILL)
            eventually(lambda: len(crowd.ended) == 10, "the end")
            self.assertEqual(set(crowd.ended), {"1012"})
        for pid in pids.values():
            eventually(lambda pid=pid: not os.path.exists(f"/proc/{pid}"), "the worker's end")


class LimitsTests(FleetTestCase):
    """What holds for all workers together."""

    more: ClassVar[dict[str, str]] = {
        "WEBSOCKET_MAX_CONNECTIONS": "12",
        "LIMITS_CONNECTIONS_PER_SECOND_PER_ADDRESS": "4",
    }

    def statuses(self, address: str, count: int) -> list[int]:
        """What so many handshakes in a row are answered, from one address."""
        found = []
        for _ in range(count):
            sock = socket.create_connection(
                ("127.0.0.1", self.fleet.port), 10, source_address=(address, 0)
            )
            self.addCleanup(sock.close)
            request = HANDSHAKE.replace("{path}", "/ws").replace("{host}", self.fleet.host)
            sock.sendall(request.encode() + b"\r\n")
            found.append(int(sock.recv(12).split()[1]))
        return found

    def test_per_address(self) -> None:
        """An address has one bucket, whichever worker it meets; others are not concerned."""
        found = self.statuses("127.0.0.9", 8)
        self.assertIn(found.count(101), (4, 5))  # one more may be due again by now
        self.assertEqual(set(found), {101, 429})
        self.assertEqual(self.statuses("127.0.0.10", 1), [101])

    def test_in_all(self) -> None:
        """Of all connections there are never more than maxConnections."""
        found = [
            status for number in range(20, 26) for status in self.statuses(f"127.0.0.{number}", 3)
        ]
        self.assertEqual((found.count(101), found.count(503)), (12, 6))
        self.assertEqual(self.fleet.clients(), 12)


class DescriptorTests(FleetTestCase):
    """More clients than there are descriptors."""

    more: ClassVar[dict[str, str]] = {"WEBSOCKET_MAX_CONNECTIONS": "1000"}

    def setUp(self) -> None:
        self.patch(harness, "program", self.limited)
        self.folder = Path(tempfile.mkdtemp())
        super().setUp()

    def limited(self, name: str) -> str:
        """A program that may have 160 descriptors in each of its processes."""
        path = self.folder / name
        path.write_text(f'#!/bin/sh\nulimit -n 160\nexec {program(name)} "$@"\n')
        path.chmod(0o755)
        return str(path)

    def test_full(self) -> None:
        """The start says so; whoever comes too late gets 503; those who are there are served."""
        odin = self.fleet
        self.assertRegex(
            odin.output(), r"maxConnections is 1000, but with 160 open files .* room for 192"
        )
        answers = []
        for _ in range(330):
            wire = self.wire(odin)
            wire.send(HANDSHAKE + "\r\n")
            answers.append(wire)
        statuses = [each.response().status for each in answers]
        self.assertEqual(set(statuses), {101, 503})
        self.assertLessEqual(statuses.count(101), 192)
        self.assertGreater(statuses.count(101), 100)
        self.nats.publish("odin.trades.X", b'{"n":1}')
        for wire, status in zip(answers, statuses, strict=True):
            if status == 101:
                self.assertIn(b"connectionEstablished", wire.receive()[1])
                self.assertIn(b'"n":1', wire.receive()[1])


class InnerTests(FleetTestCase):
    """The internal listener, at the supervisor."""

    def start_fleet(self, *options: str, **environment: str) -> Odin:
        return super().start_fleet(*options, METRICS_PORT=str(self.inner), **environment)

    def ask(self, method: str, path: str, **headers: str) -> tuple[int, Any]:
        inner = Odin.__new__(Odin)
        inner._port = self.inner
        response = inner.request(method, path, None, **headers)
        return response.status, response.body

    def test_pages(self) -> None:
        """It has the figures of all; the public port does not."""
        with Crowd(self.fleet.host, 6):
            status, body = self.ask("GET", "/health")
            self.assertEqual(
                (status, json.loads(body)["services"]["websocket"]["clients"]), (200, 6)
            )
            status, body = self.ask("GET", "/metrics")
            self.assertIn(b'odin_worker_connections{worker="1"}', body)
            self.assertIn(b"websocket_connections_active 6.0", body)
            for path in ("/readyz", "/livez", "/stats"):
                self.assertEqual(self.ask("GET", path)[0], 200, path)
        self.assertEqual(self.fleet.get("/metrics").status, 404)
        self.assertEqual(self.fleet.request("POST", "/drain").status, 404)

    def test_drain(self) -> None:
        """POST /drain, by nobody but a tool on this machine, stops in order."""
        self.assertEqual(self.ask("GET", "/drain")[0], 405)
        self.assertEqual(self.ask("POST", "/drain", Origin="http://evil.example")[0], 403)
        self.assertEqual(self.ask("POST", "/drain", X_Forwarded_For="127.0.0.1")[0], 403)
        with Crowd(self.fleet.host, 6) as crowd:
            self.assertEqual(self.ask("POST", "/drain")[0], 202)
            eventually(lambda: crowd.ended == ["1012"] * 6, "the end")
        self.assertEqual(self.fleet.wait(), 0)


class EmbeddedTests(OdinTestCase):
    """--embedded-nats, and what is refused."""

    def test_embedded(self) -> None:
        """A broker comes with it, comes back when it dies, and ends with it."""
        program("nats-server")
        port = free_port()
        odin = self.start(
            "--workers", "2", "--embedded-nats", "--nats-url", f"nats://127.0.0.1:{port}", "--demo"
        )
        odin.says(r"process\.supervisor.*Odin listens on")
        client = self.client(odin=odin)
        first = client.until(lambda message: "channel" in message)[-1]
        pid = next(
            int(name)
            for name in os.listdir("/proc")
            if name.isdigit() and f"-p\0{port}\0" in _command(int(name))
        )
        os.kill(pid, signal.SIGKILL)
        client.until(lambda message: message.get("status") == "stale")
        client.until(lambda message: message.get("status") == "live")
        last = client.until(lambda message: "channel" in message)[-1]
        self.assertNotEqual(first["nonce"], last["nonce"])
        odin.signal(signal.SIGTERM)
        self.assertEqual(odin.wait(), 0)
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 1)

    def test_refused(self) -> None:
        """Workers without a broker between them, and what else cannot be."""
        for options, line in (
            (
                ("--workers", "2", "--nats-url", "memory://"),
                r"server.workers: 2: workers need NATS",
            ),
            (("--workers", "2", "--demo"), r"server.workers: 2: workers need NATS"),
            (("--workers", "some"), r"server.workers: "),
            (("--workers", "-1"), r"server.workers: "),
            (("--embedded-nats", "--nats-url", "nats://10.1.1.1:4222"), r"nats.url: .*loopback"),
            (("--embedded-nats", "--nats-url", "memory://"), r"nats.embedded: "),
        ):
            odin = self.start(*options)
            self.assertNotEqual(odin.wait(), 0, options)
            self.assertRegex(odin.output(), f"^odin: .*{line}")
            self.assertEqual(len(odin.output().splitlines()), 1)

    def test_port_taken(self) -> None:
        """An embedded broker that cannot start ends the start."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            url = f"nats://127.0.0.1:{taken.getsockname()[1]}"
            odin = self.start("--workers", "2", "--embedded-nats", "--nats-url", url)
            self.assertEqual(odin.wait(), 1)
            self.assertRegex(odin.output(), "nats.embedded: nats-server ended: .*in use")

    def test_address_taken(self) -> None:
        """The port of another fleet, which would share it, or an endpoint: one clear end."""
        first = self.start("--workers", "1", "--nats-url", "memory://")
        port = first.says(r"process\.supervisor.*Odin listens on [\d.]+:(\d+)")[1]
        with socket.create_server(("127.0.0.1", 0)) as taken:
            other = taken.getsockname()[1]
            for number, options in (
                (port, ("--port", port)),
                (other, ("--endpoint", f"tcp:{other}:interface=127.0.0.1")),
            ):
                second = self.start("--workers", "1", "--nats-url", "memory://", *options)
                self.assertEqual(second.wait(), 1)
                line = f"cannot listen on 127.0.0.1:{number}: Address already in use"
                self.assertIn(line, second.output())
        self.assertEqual(first.get("/readyz").status, 200)

    def test_one_worker(self) -> None:
        """One worker needs no broker."""
        odin = self.start("--workers", "1", "--nats-url", "memory://")
        client = self.client(odin=odin)
        self.assertEqual(odin.publish("a.b", {"n": 1}).status, 202)
        self.assertEqual(client.receive()["n"], 1)
        began = time.monotonic()
        odin.signal(signal.SIGTERM)
        self.assertEqual(client.closed()[0], 1012)
        self.assertEqual(odin.wait(), 0)
        self.assertLess(time.monotonic() - began, 15)


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""
