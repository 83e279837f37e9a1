"""Endpoints of other kinds: TLS and a UNIX socket, by Twisted's own transports."""

import contextlib
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import tempfile
import threading
from pathlib import Path

from websockets.sync.client import unix_connect

from tests.integration.clients import HANDSHAKE, PATIENCE_S, PING, Client, Wire, frame, trusting
from tests.integration.harness import MEMORY, Odin, OdinTestCase, eventually, program
from tests.integration.test_deflate import answers_much_at_once
from tests.integration.test_start import StartTestCase

_SIZE = 100_000
_COUNT = 60


def certificate(folder: Path) -> tuple[Path, Path]:
    """(key, certificate) for localhost, signed by itself."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout", str(key), "-out", str(cert),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, cert


class TlsTests(OdinTestCase):
    """One Odin with a plain port and a TLS endpoint."""

    environment = {"DELIVERY_MAX_PENDING": "300000", "SERVER_MAX_MESSAGE_SIZE": "200000"}

    def setUp(self) -> None:
        program("openssl")
        folder = Path(tempfile.mkdtemp())
        key, cert = certificate(folder)
        self.context = ssl.create_default_context(cafile=str(cert))
        self.threads_context = trusting(cert)
        endpoint = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={cert}"
        self.server = self.start(*MEMORY, "--endpoint", endpoint, **self.environment)
        self.port = int(self.server.says(r"Odin listens at ssl:[\d.]+:(\d+)")[1])

    def secure(self) -> Client:
        client = Client(f"127.0.0.1:{self.port}", ssl=self.threads_context)
        self.addCleanup(client.close)
        return client

    def wire(self, odin: Odin | None = None, receive_buffer: int = 0) -> Wire:
        if odin is not None:
            return super().wire(odin, receive_buffer)
        wire = Wire(f"127.0.0.1:{self.port}", receive_buffer, self.context)
        self.addCleanup(wire.close)
        return wire

    def publish(self, first: int, count: int) -> None:
        for n in range(first, first + count):
            self.server.publish("a.b", {"n": n, "x": "y" * _SIZE})

    def test_feed(self) -> None:
        """The whole conversation, beside a plain client: same messages, same order."""
        plain, client = self.client(odin=self.server), self.secure()
        self.assertEqual(client.welcome["type"], "connectionEstablished")
        self.assertEqual(client.ask({"type": "ping", "id": 1})["type"], "pong")
        self.assertEqual(client.subscribe("a.*")["subscribed"], ["a.*"])
        for n in range(50):
            self.server.publish("a.b", {"n": n})
        both = [[each.receive_text() for _ in range(50)] for each in (plain, client)]
        self.assertEqual(*both)
        client.close()
        eventually(lambda: self.server.clients() == 1, "the end of the TLS client")

    def test_http(self) -> None:
        """Pages, refusals and a kept-alive connection."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self.context)
        self.addCleanup(connection.close)
        for path, status in (("/health", 200), ("/", 200), ("/nothing", 404), ("/ws", 426)):
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            self.assertEqual(response.status, status, path)
        wire = self.wire()
        wire.send(HANDSHAKE.replace("{path}", "/elsewhere") + "\r\n")
        self.assertEqual(wire.response().status, 404)
        self.assertTrue(wire.ended())

    def test_reading_pauses(self) -> None:
        """Frames that are much are served in turns, and those behind the end are not read."""
        wire = self.wire()
        wire.upgrade("Sec-WebSocket-Extensions: permessage-deflate\r\n")
        wire.receive()
        answers_much_at_once(self, wire)
        wire.send(frame(PING, length=1 << 40))
        self.assertEqual(wire.closed()[0], 1002)
        before = self.server.peak()
        with contextlib.suppress(ssl.SSLError):  # the end, at the deadline
            wire.send(bytes(20 << 20))
        self.assertLess(self.server.peak() - before, 5 << 20)

    def test_pipelined(self) -> None:
        """Many requests in a few records are answered one by one; an upgrade behind them, too."""
        wire = self.wire()
        wire.send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 300 + HANDSHAKE + "\r\n")
        self.assertEqual({wire.response().status for _ in range(300)}, {200})
        self.assertEqual(wire.response().status, 101)
        self.assertEqual(json.loads(wire.receive()[1])["type"], "connectionEstablished")

    def test_never_reads(self) -> None:
        """The bounds hold here, too: 4408 for one that never reads, all for the other."""
        name = 'odin_disconnects_total{code="4408",initiator="server"}'
        client, deaf = self.secure(), self.wire(receive_buffer=4096)
        self.assertEqual(deaf.upgrade().status, 101)
        seen: list[int] = []
        reader = threading.Thread(
            target=lambda: seen.extend(client.receive()["n"] for _ in range(_COUNT))
        )
        reader.start()
        self.publish(0, _COUNT)
        reader.join(PATIENCE_S)
        self.assertEqual(seen, list(range(_COUNT)))
        eventually(lambda: self.server.metric(name) == 1, "the end of the slow client")
        self.assertEqual(self.server.clients(), 1)

    def test_slow_but_steady(self) -> None:
        """One that falls behind and catches up loses nothing."""
        wire = self.wire()
        self.assertEqual(wire.upgrade().status, 101)
        wire.receive()
        numbers = []
        for round_ in range(20):
            self.publish(round_ * 3, 3)
            for _ in range(3):
                payload = wire.receive()[1]
                numbers.append(int(payload.split(b'"n":')[1].split(b",")[0]))
        self.assertEqual(numbers, list(range(60)))

    def test_stop(self) -> None:
        """Everybody is told, with 1001; the process ends well."""
        client = self.secure()
        self.server.signal(15)
        self.assertEqual(client.closed()[0], 1012)
        self.assertEqual(self.server.wait(), 0)

    def test_plain_text_on_the_tls_port(self) -> None:
        """Somebody who speaks no TLS is let go; nothing is logged as a failure."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE_S) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            while sock.recv(4096):
                pass
        self.assertEqual(self.secure().ask({"type": "ping"})["type"], "pong")


class EndpointTests(StartTestCase):
    def test_unix(self) -> None:
        """A UNIX socket, alone: the plain port is not opened."""
        path = f"{tempfile.mkdtemp()}/odin"
        process = self.launch(*MEMORY, "--endpoint", f"unix:{path}")
        process.says("Odin listens at unix:")
        with unix_connect(path, "ws://localhost/ws", close_timeout=1) as socket_:
            self.assertEqual(json.loads(socket_.recv())["type"], "connectionEstablished")
        self.assertNotIn("Odin listens on", process.output())
        process.signal(15)
        self.assertEqual(process.wait(), 0)
        self.assertFalse(os.path.exists(path))

    def test_refused(self) -> None:
        """What cannot be an endpoint stops the start with one line."""
        bad = Path(self.mktemp())
        bad.write_text("no key")
        taken = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(taken.close)
        cases = (
            ("nonsense:1", "nonsense"),
            ("ssl:0:privateKey=/none/key.pem:certKey=/none/cert.pem", "/none/key.pem"),
            (f"ssl:0:privateKey={bad.resolve()}:certKey={bad.resolve()}", "--endpoint"),
            ("ssl:x", "--endpoint"),
            (f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1", "cannot listen"),
        )
        for endpoint, word in cases:
            status, output = self.run_odin(*MEMORY, "--endpoint", endpoint)
            self.assertNotEqual(status, 0, endpoint)
            line = output.strip().splitlines()[-1]
            self.assertRegex(line, re.escape(word), endpoint)
            self.assertNotIn("Traceback", output)
