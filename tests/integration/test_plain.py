"""Plain HTTP from somebody who means no good, and from tools that close their half first."""

import contextlib
import json
import os
import resource
import signal
import socket
import tempfile
from http.client import HTTPConnection
from pathlib import Path
from unittest.mock import patch

from tests.heads import HEADS, request
from tests.integration import harness
from tests.integration.clients import PATIENCE_S, Response, Wire
from tests.integration.harness import MEMORY, Odin, OdinTestCase, eventually, free_port, sign
from tests.integration.test_endpoints import certificate

_UNFINISHED = (
    b"POST /nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n" + b"x" * 1000
)
_LIMIT = 100  # descriptors, where they are short


def program(name: str) -> str:
    """A program that may have so many descriptors."""
    path = Path(tempfile.mkdtemp()) / name
    path.write_text(f'#!/bin/sh\nulimit -n {_LIMIT}\nexec {_program(name)} "$@"\n')
    path.chmod(0o755)
    return str(path)


_program = harness.program


def descriptors(odin: Odin) -> int:
    """How many it has open."""
    return len(os.listdir(f"/proc/{odin.pid}/fd"))


def resident(odin: Odin) -> int:
    """Bytes of its memory."""
    with open(f"/proc/{odin.pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


class PlainTestCase(OdinTestCase):
    def unfinished(self, odin: Odin, count: int) -> list[Wire]:
        """Connections that have sent most of a request, and the server has read it."""
        wires = [self.wire(odin) for _ in range(count)]
        for wire in wires:
            wire.send(_UNFINISHED)
        for _ in range(3):  # and it has had turns to read
            self.assertEqual(odin.get("/livez").status, 200)
        return wires


class HostileTests(PlainTestCase):
    """One server with both ports."""

    def test_heads(self) -> None:
        """Each is answered with its status on both ports, and the connection ends if it must."""
        inner = free_port()
        odin = self.start(METRICS_PORT=str(inner))
        for host in (odin.host, f"127.0.0.1:{inner}"):
            for status, data in HEADS:
                with contextlib.closing(Wire(host)) as wire:
                    wire.send(data)
                    self.assertEqual(wire.response().status, status, data[:100])
                    if status not in (200, 405):
                        self.assertTrue(wire.ended())
        self.assertLess(descriptors(odin), 40)

    def test_unfinished_bodies(self) -> None:
        """What has not come whole takes one descriptor and little memory a connection."""
        odin = self.odin
        self.unfinished(odin, 10)
        before, memory = descriptors(odin), resident(odin)
        self.unfinished(odin, 300)
        self.assertLess(descriptors(odin) - before, 310)
        self.assertLess(resident(odin) - memory, 300 * 16_384)

    def test_unread_answers(self) -> None:
        """Who asks without end and reads nothing is not read from any more."""
        odin = self.start(SERVER_WRITE_TIMEOUT="60")
        wire = self.wire(odin, receive_buffer=4096)
        memory = resident(odin)
        wire.socket.settimeout(1)
        sent = 0
        with contextlib.suppress(TimeoutError):
            for _ in range(400):
                sent += wire.socket.send(request(b"/") * 1000)
        self.assertLess(sent, 400 * 1000 * 20)
        self.assertLess(resident(odin) - memory, 1 << 20)
        self.assertEqual(odin.get("/livez").status, 200)

    def test_form(self) -> None:
        """A body is no form, whatever curl says it is: its arguments are not the request's."""
        odin = self.start("--demo")
        response = odin.request(
            "POST", "/publish?subject=odin.x.y", b'{"url":"/x?a=1&token=abc&subject=z"}',
            Content_Type="application/x-www-form-urlencoded",
        )  # fmt: skip
        self.assertEqual((response.status, response.json()["subject"]), (202, "odin.x.y"))


class RecentPagesTests(OdinTestCase):
    """Pages that cost something, with an interval of an hour."""

    def test_once(self) -> None:
        """They are made once for all who ask, on both ports, but anew once it is not ready."""
        for options in (MEMORY, (*MEMORY, "--workers", "1")):
            inner = free_port()
            odin = self.start(*options, METRICS_PORT=str(inner), METRICS_UPDATE_INTERVAL="3600")
            odin.says(r"Odin listens on")
            for host, page in (
                (odin.host, "health"), (f"127.0.0.1:{inner}", "stats"),
                (f"127.0.0.1:{inner}", "metrics"),
            ):  # fmt: skip
                wire = self.wire_to(host)
                bodies = set()
                for _ in range(3):
                    wire.send(f"GET /{page} HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
                    bodies |= {wire.response().body for _ in range(3)}
                    self.websocket(odin=odin)
                self.assertEqual(len(bodies), 1, (options, page))
            probe = self.wire_to(odin.host)
            probe.send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertEqual(probe.response().status, 200)
            stubborn = self.websocket(odin=odin)
            odin.signal(signal.SIGTERM)
            self.assertEqual(stubborn.closed()[0], 1012)
            probe.send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertEqual(probe.response().status, 503)

    def wire_to(self, host: str) -> Wire:
        wire = Wire(host)
        self.addCleanup(wire.close)
        return wire


class HalfCloseTests(OdinTestCase):
    """The client closes its half behind the request (nc -N)."""

    def ask(self, host: str, data: str) -> Response:
        with contextlib.closing(Wire(host)) as wire:
            wire.send(data)
            wire.socket.shutdown(socket.SHUT_WR)
            response = wire.response()
            self.assertTrue(wire.ended())
            return response

    def test_answers(self) -> None:
        """The answer comes all the same, then the end: at once, or from elsewhere."""
        publish = f"POST /publish?subject=a.b&token={sign(publish=['>'])} HTTP/1.1\r\n"
        for options in (MEMORY, (*MEMORY, "--workers", "1")):
            inner = free_port()
            odin = self.start(*options, METRICS_PORT=str(inner))
            for host in (odin.host, f"127.0.0.1:{inner}"):
                for page in ("livez", "health"):
                    got = self.ask(host, f"GET /{page} HTTP/1.1\r\nHost: x\r\n\r\n")
                    self.assertEqual(got.status, 200, (options, page))
            body = json.dumps({"x": "y" * 50_000})
            request = f"{publish}Host: x\r\nContent-Length: {len(body)}\r\n\r\n{body}"
            self.assertEqual(self.ask(odin.host, request).status, 202)

    def test_endpoint(self) -> None:
        """The same at an endpoint of another kind; a WebSocket there just ends."""
        odin = self.start(*MEMORY, "--endpoint", "tcp:0:interface=127.0.0.1")
        host = f"127.0.0.1:{odin.says(r'Odin listens at tcp:[0-9.]+:([0-9]+)')[1]}"
        got = self.ask(host, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        self.assertEqual(got.status, 200)
        with contextlib.closing(Wire(host)) as wire:
            self.assertEqual(wire.upgrade().status, 101)
            wire.socket.shutdown(socket.SHUT_WR)
            self.assertTrue(wire.ended())

    def test_both_requests(self) -> None:
        """Each request that came before it is answered."""
        with contextlib.closing(self.wire()) as wire:
            wire.send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
            wire.socket.shutdown(socket.SHUT_WR)
            self.assertEqual([wire.response().status for _ in range(20)], [200] * 20)
            self.assertTrue(wire.ended())


class FewDescriptorsTests(PlainTestCase):
    """With 100 descriptors."""

    def start(self, *options: str, **environment: str) -> Odin:
        with patch.object(harness, "program", program):
            return super().start(*options, **environment)

    def test_unfinished_bodies(self) -> None:
        """They do not use up the reserve: whoever comes too late gets 503."""
        odin = self.start()
        wires = [self.wire(odin) for _ in range(_LIMIT)]
        for wire in wires:
            wire.send(_UNFINISHED)
        late = self.wire(odin)
        self.assertEqual(late.response().status, 503)
        self.assertLess(descriptors(odin), _LIMIT - 10)
        for wire in wires:
            wire.close()
        eventually(lambda: self.wire(odin).upgrade().status == 101, "room again")

    def test_endpoint(self) -> None:
        """At an endpoint of another kind it is the same."""
        odin = self.start(*MEMORY, "--endpoint", "tcp:0:interface=127.0.0.1", "--port", "0")
        port = odin.says(r"Odin listens at tcp:[\d.]+:(\d+)")[1]
        wires = [Wire(f"127.0.0.1:{port}") for _ in range(_LIMIT + 20)]
        for wire in wires:
            self.addCleanup(wire.close)
        for host in (f"127.0.0.1:{port}", odin.host):
            with contextlib.closing(Wire(host)) as late:
                self.assertEqual(late.response().status, 503, host)
        self.assertLess(descriptors(odin), _LIMIT - 10)

    def test_tls(self) -> None:
        """Silent ones at a TLS endpoint count, too; who comes too late is cut off at once."""
        _program("openssl")
        key, cert = certificate(Path(tempfile.mkdtemp()))
        endpoint = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={cert}"
        odin = self.start(*MEMORY, "--endpoint", endpoint, "--port", "0")
        port = odin.says(r"Odin listens at ssl:[\d.]+:(\d+)")[1]
        for _ in range(_LIMIT + 20):
            self.addCleanup(Wire(f"127.0.0.1:{port}").close)
        late = Wire(f"127.0.0.1:{port}")
        self.addCleanup(late.close)
        self.assertTrue(late.ended())
        plain = self.wire(odin)
        self.assertEqual(plain.response().status, 503)
        self.assertLess(descriptors(odin), _LIMIT - 10)

    def test_internal_listener(self) -> None:
        """It has a number of its own, which the public port cannot take, and no more."""
        inner = free_port()
        odin = self.start(METRICS_PORT=str(inner))
        for _ in range(_LIMIT):
            self.wire(odin)
        connection = HTTPConnection("127.0.0.1", inner, timeout=PATIENCE_S)
        self.addCleanup(connection.close)
        connection.request("GET", "/livez")
        self.assertEqual(connection.getresponse().status, 200)
        for _ in range(_LIMIT):
            self.addCleanup(Wire(f"127.0.0.1:{inner}").close)
        late = Wire(f"127.0.0.1:{inner}")
        self.addCleanup(late.close)
        self.assertEqual(late.response().status, 503)
        self.assertLess(descriptors(odin), _LIMIT)
