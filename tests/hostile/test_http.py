"""Plain HTTP: what many requests, bodies and odd heads cost the others."""

import os
import tempfile
import time
from pathlib import Path

from tests.hostile.field import SECONDS, TURN, Field, Hostile
from tests.integration import harness
from tests.integration.clients import HANDSHAKE
from tests.integration.harness import Odin, eventually, free_port, program

_FORM = "Content-Type: application/x-www-form-urlencoded\r\n"


def request(method: str, path: str, host: str, extra: str = "", body: bytes = b"") -> bytes:
    length = f"Content-Length: {len(body)}\r\n" if body or method == "POST" else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{extra}{length}\r\n"
    return head.encode("latin-1") + body


class HttpAttacks(Field):
    """Without any token."""

    def test_pipelined(self) -> None:
        """Pipelined requests get one answer a turn (A5)."""
        for page, cost in (
            ("/stats", 15_000), ("/metrics", 15_000), ("/health", 15_000), ("/livez", 15_000),
            ("/nothing", 15_000),
        ):  # fmt: skip
            with self.attack(f"A5 pipelined {page}", cost=cost * SECONDS, turn=TURN, peak_mb=4):
                client = self.hostile()
                client.pour(request("GET", page, client.host) * 50_000, SECONDS / 4)

    def test_pipelined_unread(self) -> None:
        """Nor are answers that nobody reads kept, or made (A5)."""
        with self.attack("A5 pipelined /stats, unread", turn=TURN, peak_mb=6):
            for _ in range(10):
                client = self.hostile(None, 4096)
                client.pour(request("GET", "/stats", client.host) * 50_000, 0.1, read=False)

    def test_forms(self) -> None:
        """A body of a kind that nobody asked for is not taken apart (A22)."""
        body = b"a&" * 32_000
        multipart = b"".join(
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' for _ in range(1200)
        )
        for title, kind, data in (
            ("urlencoded", _FORM, body),
            (
                "multipart",
                "Content-Type: multipart/form-data; boundary=x\r\n",
                multipart + b"--x--\r\n",
            ),
        ):
            with self.attack(f"A22 forms of 64 KB, {title}", cost=4000, turn=TURN, peak_mb=4):
                client = self.hostile()
                for _ in range(20):
                    client.send(request("POST", "/nothing", client.host, kind, data))
                    client.response()

    def test_tracebacks(self) -> None:
        """No head that a stranger can send writes a traceback (A21)."""
        kinds = [b"\x85", b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e"]
        heads = [
            b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"0" * 4999 + b"1\r\n\r\nx",
            *(
                b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Type: a"
                + each
                + b"b\r\nContent-Length: 0\r\n\r\n"
                for each in kinds
            ),
            b"POST /publish?subject=a HTTP/1.1\r\nHost: \xff\r\nContent-Length: 2\r\n\r\n{}",
            *(
                b"POST /publish?subject=a HTTP/1.1\r\nHost: x\r\n" + name + b": \xff\xfe\r\n"
                b"Content-Length: 2\r\n\r\n{}"
                for name in (b"Origin", b"Authorization", b"X-Forwarded-For")
            ),
        ]
        with self.attack("A21 heads that write tracebacks"):
            for head in heads:
                client = self.hostile()
                client.send(head)
                self.assertEqual(status(client) // 100, 4, head[:80])
            self.assertNotRegex(self.odin.output(), 'Traceback|"failure"')

    def test_strict(self) -> None:
        """A plain request that a proxy could read in another way is refused (A26)."""
        end = b"\r\n\r\n"
        heads = {
            "a second Host": b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b" + end,
            "no Host": b"GET /livez HTTP/1.1\r\nX: a" + end,
            "a folded line": b"GET /livez HTTP/1.1\r\nHost: a\r\nX: a\r\n b" + end,
            "an absolute target": b"GET http://a/livez HTTP/1.1\r\nHost: a" + end,
            "two lengths": b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 1"
            + end,
            "length and chunks": b"POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked"
            + end
            + b"0"
            + end,
        }
        with self.attack("A26 heads to be read in two ways"):
            for name, head in heads.items():
                client = self.hostile()
                client.send(head)
                self.assertEqual(status(client), 400, name)

    def test_upgrade_behind_request(self) -> None:
        """An upgrade in one segment with the request before it is one (A36)."""
        with self.attack("A36 GET and upgrade in one segment"):
            client = self.hostile()
            upgrade = client.filled(HANDSHAKE + "\r\n").encode()
            client.send(request("GET", "/livez", client.host) + upgrade)
            self.assertEqual(client.response().status, 200)
            self.assertEqual(client.response().status, 101)

    def test_half_closed(self) -> None:
        """Whoever ends its side behind a request still gets the answer (A27)."""
        with self.attack("A27 half-closed behind a request"):
            client = self.hostile()
            client.send(request("GET", "/livez", client.host))
            client.socket.shutdown(1)
            self.assertEqual(status(client), 200)


class DemoAttacks(Field):
    """A server in the demo, which believes whoever is on this machine."""

    options = ("--demo",)

    def test_json_is_no_form(self) -> None:
        """A JSON body is not looked at for tokens, whatever its content type says (A22)."""
        with self.attack("A22 a body with &token= in it"):
            answer = self.odin.request(
                "POST", "/publish?subject=odin.token.X.price", b'{"u":"http://x/?a=1&token=abc"}',
                Content_Type="application/x-www-form-urlencoded",
            )  # fmt: skip
            self.assertEqual(answer.status, 202, answer.body)

    def test_rebinding(self) -> None:
        """A page of another name that leads here is refused (A35)."""
        evil = "Host: evil.example\r\nOrigin: http://evil.example\r\n"
        with self.attack("A35 DNS rebinding in the demo"):
            client = self.hostile()
            client.send(
                (HANDSHAKE.replace("Host: {host}\r\n", evil) + "\r\n").replace("{path}", "/ws")
            )
            self.assertEqual(client.response().status, 403)
            client = self.hostile()
            body = b'{"type":"x"}'
            client.send(
                f"POST /publish?subject=odin.token.X.price HTTP/1.1\r\n{evil}"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            self.assertEqual(client.response().status, 403)


class InternalAttacks(Field):
    """The listener of metrics.port, which is on 0.0.0.0 by default."""

    inner = free_port()
    environment = {
        "METRICS_PORT": str(inner), "METRICS_HOST": "127.0.0.1", "SERVER_READ_TIMEOUT": "1",
    }  # fmt: skip

    def internal(self) -> Hostile:
        self.odin.port  # noqa: B018 - it waits for it
        client = Hostile(f"127.0.0.1:{self.inner}")
        self.addCleanup(client.close)
        return client

    def test_form(self) -> None:
        """It has the limits of the public one (A22)."""
        with self.attack("A22 5 MB of form, internal", cost=5000, turn=TURN, peak_mb=4):
            client = self.internal()
            client.pour(request("POST", "/nothing", client.host, _FORM, b"a&" * 2_500_000))

    def test_drip(self) -> None:
        """A body that does not come has a deadline there, too (A22)."""
        with self.attack("A22 a body that drips, internal"):
            client = self.internal()
            client.send(request("POST", "/drain", client.host, "", b"x" * 100)[:-90])
            client.socket.settimeout(30)
            self.assertTrue(client.ended())


class DescriptorAttacks(Field):
    """A server with 100 descriptors."""

    def test_bodies(self) -> None:
        """Unfinished bodies take one descriptor each, and newcomers are told 503 (A16)."""
        odin = limited(self, 100)
        with self.attack("A16 60 unfinished chunked bodies", odin=odin):
            before = _descriptors(odin)
            for _ in range(20):
                client = self.hostile(odin)
                client.send(
                    f"POST /nothing HTTP/1.1\r\nHost: {client.host}\r\n"
                    "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
                )
            eventually(lambda: _descriptors(odin) >= before + 20, "the connections")
            time.sleep(0.2)
            self.assertLessEqual(_descriptors(odin), before + 21)
            for _ in range(100):
                client = self.hostile(odin)
                client.send(
                    f"POST /nothing HTTP/1.1\r\nHost: {client.host}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n"
                )
            client = self.hostile(odin)
            client.send(HANDSHAKE + "\r\n")
            self.assertEqual(status(client), 503)
            self.assertNotRegex(odin.output(), 'Traceback|"failure"')


def status(client: Hostile) -> int:
    """The status of the answer; 0 if the connection ends without one."""
    try:
        return client.response().status
    except (OSError, IndexError):
        return 0


def limited(test: Field, descriptors: int) -> Odin:
    """A server for this test, which may have so many descriptors."""
    path = Path(tempfile.mkdtemp(), "twistd")
    path.write_text(f'#!/bin/sh\nulimit -n {descriptors}\nexec {program("twistd")} "$@"\n')
    path.chmod(0o755)
    test.patch(harness, "program", lambda _name: str(path))
    return test.start()


def _descriptors(odin: Odin) -> int:
    return len(os.listdir(f"/proc/{odin.pid}/fd"))
