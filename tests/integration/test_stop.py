"""The end of the process: SIGTERM when idle, under load, twice; clients are told."""

import contextlib
import json
import signal
import time
from http.client import HTTPConnection
from itertools import pairwise

from tests.integration.clients import CLOSE, HANDSHAKE, PATIENCE_S, TEXT, frame
from tests.integration.crowd import Crowd, Ticker
from tests.integration.harness import MEMORY, Nats, Odin, OdinTestCase, eventually, free_port


class StopTests(OdinTestCase):
    """Servers that are told to stop."""

    def ends(self, odin: Odin) -> None:
        """It ends by itself with status 0 and says so."""
        self.assertEqual(odin.wait(), 0)
        self.assertIn("Server Shut Down", odin.output())
        self.check(odin)

    def test_idle(self) -> None:
        """SIGTERM and SIGINT end an idle server with status 0."""
        for number in (signal.SIGTERM, signal.SIGINT):
            odin = self.start()
            self.assertEqual(odin.get("/livez").status, 200)
            odin.signal(number)
            self.ends(odin)

    def test_while_starting(self) -> None:
        """A signal right after the port is open is obeyed, though the reactor may not run yet."""
        for _ in range(3):
            odin = self.start()
            self.assertTrue(odin.port)
            odin.signal(signal.SIGTERM)
            self.assertEqual(odin.wait(), 0)

    def test_clients_are_told(self) -> None:
        """Every client gets what waits, then 1012 with a machine word."""
        odin = self.start(SERVER_SHUTDOWN_TIMEOUT="6")
        clients = [self.client(odin=odin) for _ in range(20)]
        for n in range(10):
            odin.publish("a.b", {"n": n})
        odin.signal(signal.SIGTERM)
        hints = []
        for client in clients:
            self.assertEqual([client.receive()["n"] for _ in range(10)], list(range(10)))
            hint = client.receive()
            self.assertEqual((hint["type"], hint["resume"]["offset"]), ("reconnect", 10))
            self.assertEqual(hint["resume"]["epoch"], client.welcome["epoch"])
            hints.append(hint["afterMs"])
            code, reason = client.closed()
            self.assertEqual((code, reason.partition(":")[0]), (1012, "restart"))
        hints.sort()
        steps = [later - sooner for sooner, later in pairwise(hints)]
        self.assertEqual(hints[0], 0)
        self.assertLessEqual(max(steps) - min(steps), 1)  # evenly, to the millisecond
        self.ends(odin)

    def test_under_load(self) -> None:
        """Under load each client gets an unbroken run of messages, then 1012; the exit is 0."""
        nats = Nats()
        self.addCleanup(nats.stop)
        odin = self.start("--nats-url", nats.url, SERVER_SHUTDOWN_TIMEOUT="6")
        eventually(lambda: odin.get("/readyz").status == 200, "readiness")
        deaf = self.wire(odin, receive_buffer=4096)
        deaf.upgrade()
        with Crowd(odin.host, 10) as crowd, Ticker(nats, 2000):
            eventually(lambda: crowd.have(100), "the feed")
            odin.signal(signal.SIGTERM)
            eventually(lambda: len(crowd.ended) == 10, "the end")
            self.assertEqual(set(crowd.ended), {"1012"})
            self.assertEqual(crowd.faults, [])
            hints = {each.notices[-1]["afterMs"] for each in crowd.members.values()}
            self.assertEqual(len(hints), 10)
        self.ends(odin)

    def test_internal_listener(self) -> None:
        """With workers or without, it answers until the end of the drain; a second request to
        drain, or one after SIGTERM, changes nothing."""
        for options in (MEMORY, (*MEMORY, "--workers", "1")):
            inner = free_port()
            odin = self.start(*options, METRICS_PORT=str(inner), SERVER_SHUTDOWN_TIMEOUT="6")
            stubborn = self.websocket(odin=odin)  # does not answer the close frame

            def ask(method: str, path: str, port: int = inner) -> tuple[int, str]:
                connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
                with contextlib.closing(connection):
                    connection.request(method, path)
                    response = connection.getresponse()
                    return response.status, response.read().decode()

            eventually(lambda ask=ask: ask("GET", "/readyz")[0] == 200, "readiness")
            for path in ("/livez", "/health"):
                self.assertEqual(ask("GET", path)[0], 200, (options, path))
            self.assertEqual([ask("POST", "/drain")[0] for _ in range(2)], [202, 202])
            self.assertEqual(stubborn.closed()[0], 1012)
            self.assertEqual(ask("POST", "/drain")[0], 202)
            status, said = ask("GET", "/readyz")
            self.assertEqual((status, "draining" in said), (503, True))
            self.assertEqual((ask("GET", "/health")[0], ask("GET", "/livez")[0]), (503, 200))
            self.ends(odin)

    def test_not_ready_while_stopping(self) -> None:
        """While it stops it is alive but not ready, and lets nobody in."""
        odin = self.start()
        stubborn = self.websocket(odin=odin)  # does not answer the close frame
        probe = HTTPConnection("127.0.0.1", odin.port, timeout=PATIENCE_S)
        self.addCleanup(probe.close)
        probe.request("GET", "/readyz")
        self.assertEqual(probe.getresponse().read(), b'{"status":"ready"}\n')
        late = self.wire(odin)
        late.send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(late.response().status, 200)
        odin.signal(signal.SIGTERM)
        self.assertEqual(stubborn.closed()[0], 1012)
        for path, status in (("/readyz", 503), ("/health", 503), ("/livez", 200)):
            probe.request("GET", path)
            response = probe.getresponse()
            response.read()
            self.assertEqual(response.status, status, path)
        late.send(HANDSHAKE + "\r\n")
        refusal = late.response()
        self.assertEqual(refusal.status, 503)
        self.assertGreaterEqual(int(refusal.headers["retry-after"]), 1)
        with self.assertRaises(ConnectionRefusedError):
            self.wire(odin)
        stubborn.send(frame(CLOSE, b"\x03\xe9"))
        self.ends(odin)

    def test_stubborn_clients(self) -> None:
        """Clients that never answer do not keep the process beyond shutdownTimeout."""
        odin = self.start(SERVER_SHUTDOWN_TIMEOUT="3")
        wires = [self.websocket(odin=odin) for _ in range(3)]
        half_open = self.wire(odin)
        half_open.send("GET /ws HTTP/1.1\r\n")
        odin.signal(signal.SIGTERM)
        self.ends(odin)
        self.assertEqual([wire.closed()[0] for wire in wires], [1012] * 3)

    def test_second_signal(self) -> None:
        """A second signal ends the process at once."""
        odin = self.start(*MEMORY, SERVER_SHUTDOWN_TIMEOUT="600")
        stubborn = self.websocket(odin=odin)
        odin.signal(signal.SIGTERM)
        self.assertEqual(stubborn.closed()[0], 1012)  # it is stopping, and waits for us
        self.assertTrue(odin.running)
        odin.signal(signal.SIGTERM)
        self.assertEqual(odin.wait(), 128 + signal.SIGTERM)

    def test_without_broker(self) -> None:
        """A server that still looks for its broker stops as well."""
        odin = self.start("--nats-url", "nats://127.0.0.1:9")
        client = self.client(odin=odin)
        odin.signal(signal.SIGTERM)
        self.assertEqual(client.closed()[0], 1012)
        self.ends(odin)

    def test_with_the_broker(self) -> None:
        """The broker ends in the same moment, as when a whole machine goes down: no traceback."""
        for pause_s in (0.0, 0.002, 0.02):
            nats = Nats()
            self.addCleanup(nats.stop)
            odin = self.start("--nats-url", nats.url)
            odin.says("NATS connected")
            nats.signal(signal.SIGTERM)
            time.sleep(pause_s)
            odin.signal(signal.SIGTERM)
            self.ends(odin)

    def test_killed(self) -> None:
        """After SIGKILL a new process on the same port serves at once, with a new epoch."""
        first = self.start()
        port = first.port
        client = self.client(odin=first)
        first.signal(signal.SIGKILL)
        self.assertEqual(client.closed()[0], 1006)
        first.wait()
        second = self.start(*MEMORY, "--port", str(port))
        self.assertEqual(second.port, port)
        self.assertNotEqual(self.client(odin=second).welcome["epoch"], client.welcome["epoch"])


class LogTests(OdinTestCase):
    """What is logged, and how."""

    def test_json(self) -> None:
        """With --log-format=json every line is one object, with the same members."""
        odin = self.start("--demo")
        client = self.client(odin=odin)
        client.receive()
        odin.get("/nothing")
        odin.publish("a.b", b"not JSON \x1b[31m")
        odin.signal(signal.SIGTERM)
        self.assertEqual(odin.wait(), 0)
        lines = [json.loads(line) for line in odin.output().splitlines()]
        self.assertGreater(len(lines), 4)
        for line in lines:
            self.assertEqual(set(line), {"time", "level", "system", "message"})
            self.assertIn(line["level"], ("info", "warn", "error", "critical"))
            self.assertRegex(line["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}")

    def test_text(self) -> None:
        """As text each line has time, level and message."""
        odin = self.start(*MEMORY, "--log-format=text")
        odin.says("Odin listens on")
        for line in odin.output().splitlines():
            self.assertRegex(line, r"^\d{4}-\d\d-\d\dT[\d:.]+\S* \[\S+#(info|warn)\] .+$")

    def test_quiet(self) -> None:
        """Connections and messages write no line each."""
        self.client().close()
        before = len(self.odin.output().splitlines())
        for n in range(50):
            wire = self.websocket()
            wire.send(frame(TEXT, b"nope"))
            wire.receive()
            self.odin.publish("a.b", {"n": n})
        self.assertLess(len(self.odin.output().splitlines()) - before, 5)
