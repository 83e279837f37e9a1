"""Before the upgrade: what is refused, with which status; what is agreed on."""

import json
import os
from collections.abc import Iterator

from tests.integration.clients import HANDSHAKE, KEY, Wire
from tests.integration.harness import MEMORY, OdinTestCase, eventually

# status, what to replace in a good handshake, by what ("" and a header: added)
_REFUSED = {
    "not a key": (400, KEY, "not-a-key"),
    "a short key": (400, KEY, "c2hvcnQ="),
    "a long key": (400, KEY, KEY[:-2] + KEY),
    "no key": (400, f"Sec-WebSocket-Key: {KEY}\r\n", ""),
    "two keys": (400, "", f"Sec-WebSocket-Key: {KEY}\r\n"),
    "no Host": (400, "Host: {host}\r\n", ""),
    "an empty Host": (400, "Host: {host}", "Host:"),
    "two Hosts": (400, "", "Host: evil.example\r\n"),
    "two Origins": (400, "", "Origin: http://{host}\r\nOrigin: https://evil.example\r\n"),
    "an absolute target": (400, "GET {path}", "GET http://{host}{path}"),
    "a target without slash": (400, "GET {path}", "GET ws"),
    "a fragment": (400, "GET {path}", "GET {path}#x"),
    "a folded header": (400, "", "X-Folded: a\r\n b\r\n"),
    "a space before a colon": (400, "Upgrade: ", "Upgrade : "),
    "a header without a colon": (400, "", "nonsense\r\n"),
    "a NUL in a header": (400, "", "X-Null: a\x00b\r\n"),
    "a line feed in a header": (400, "", "X-Line: a\nb: c\r\n"),
    "no Connection": (400, "Connection: Upgrade\r\n", ""),
    "Connection without upgrade": (400, "Connection: Upgrade", "Connection: keep-alive"),
    "a body": (400, "", "Content-Length: 2\r\n"),
    "a chunked body": (400, "", "Transfer-Encoding: chunked\r\n"),
    "a bad channel": (400, "{path}", "{path}?channels=a..b"),
    "too many query fields": (400, "{path}", "{path}?" + "&".join(["a=1"] * 100)),
    "a foreign Origin": (403, "", "Origin: https://evil.example\r\n"),
    "a null Origin": (403, "", "Origin: null\r\n"),
    "an Origin that begins alike": (403, "", "Origin: http://{host}.evil.example\r\n"),
    "an empty Origin": (403, "", "Origin: \r\n"),
    "another path": (404, "{path}", "/nothing"),
    "a path below": (404, "{path}", "{path}/x"),
    "another page": (404, "{path}", "/health"),
    "POST": (405, "GET", "POST"),
    "HEAD": (405, "GET", "HEAD"),
    "a long URL": (414, "{path}", "{path}?x=" + "y" * 8300),
    "version 12": (426, "Version: 13", "Version: 12"),
    "version 8": (426, "Version: 13", "Version: 8"),
    "version 0": (426, "Version: 13", "Version: 0"),
    "no version": (426, "Sec-WebSocket-Version: 13\r\n", ""),
    "a long header": (431, "", "X-Long: " + "y" * 8300 + "\r\n"),
    "a large header block": (431, "", "".join(f"X-{n}: {'y' * 4000}\r\n" for n in range(5))),
    "many headers": (431, "", "".join(f"X-{n}: y\r\n" for n in range(110))),
    "HTTP/1.0": (505, "HTTP/1.1", "HTTP/1.0"),
    "HTTP/2.0": (505, "HTTP/1.1", "HTTP/2.0"),
}
_ACCEPTED = {
    "no Origin": ("", ""),
    "our Origin": ("", "Origin: http://{host}\r\n"),
    "a front end's development server": ("", "Origin: http://localhost:5173\r\n"),
    "names in any case": ("Upgrade: websocket", "uPGRADE: WebSocket"),
    "Connection with more in it": ("Connection: Upgrade", "Connection: keep-alive, upgrade"),
    "an unknown header": ("", "X-Anything: \u00e9\r\n"),
    "an empty body": ("", "Content-Length: 0\r\n"),
    "a query": ("{path}", "{path}?a=b&&c"),
    "an unknown subprotocol": ("", "Sec-WebSocket-Protocol: mqtt, odin.v9\r\n"),
    "an unknown extension": ("", "Sec-WebSocket-Extensions: x-foo; bar=1\r\n"),
}


class HandshakeTests(OdinTestCase):
    """Handshakes over a plain socket."""

    def handshake(self, old: str, new: str) -> Wire:
        """Send a handshake with `old` replaced by `new`, or `new` added."""
        wire = self.wire()
        text = HANDSHAKE.replace(old, new, 1) if old else HANDSHAKE + new
        wire.send(text + "\r\n")
        return wire

    def test_refusals(self) -> None:
        """Each is refused with its status and a JSON error, and the connection is closed."""
        for name, (status, old, new) in _REFUSED.items():
            wire = self.handshake(old, new)
            response = wire.response()
            self.assertEqual(response.status, status, name)
            if old == "GET" and new == "HEAD":
                continue
            self.assertTrue(json.loads(response.body)["error"]["code"], name)
            self.assertEqual(response.headers["connection"], "close", name)
            self.assertTrue(wire.ended(), name)

    def test_accepted(self) -> None:
        """Each of these is all right."""
        for name, (old, new) in _ACCEPTED.items():
            response = self.handshake(old, new).response()
            self.assertEqual(response.status, 101, name)
            self.assertEqual(
                response.headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", name
            )
            self.assertNotIn("sec-websocket-protocol", response.headers, name)

    def test_version_is_told(self) -> None:
        """426 says which protocol and version there is (RFC 6455 4.4)."""
        headers = self.handshake("Version: 13", "Version: 8").response().headers
        self.assertEqual(headers["sec-websocket-version"], "13")
        self.assertEqual(headers["upgrade"].lower(), "websocket")

    def test_method_is_told(self) -> None:
        """405 says what is allowed."""
        self.assertEqual(self.handshake("GET", "POST").response().headers["allow"], "GET")

    def test_subprotocol(self) -> None:
        """odin.v1 is answered where it is offered."""
        client = self.client(subprotocols=["other", "odin.v1"])
        self.assertEqual(client.socket.subprotocol, "odin.v1")

    def test_no_body_in_the_way(self) -> None:
        """A head without an end is refused as soon as it is too large."""
        for head, status in (
            ("GET /" + "x" * 20_000, 414),
            ("GET / HTTP/1.1\r\n" + "a: b\r\n" * 4000, 431),
        ):
            wire = self.wire()
            wire.send(head)
            self.assertEqual(wire.response().status, status)

    def test_refusals_are_counted(self) -> None:
        """Each refusal counts under its reason."""
        name = 'odin_connections_rejected_total{reason="origin"}'
        before = self.odin.metric(name)
        self.handshake("", "Origin: null\r\n").response()
        self.assertEqual(self.odin.metric(name), before + 1)

    def test_nothing_stays(self) -> None:
        """Connections that were refused leave no descriptor open."""

        def descriptors() -> int:
            return len(os.listdir(f"/proc/{self.odin.pid}/fd"))

        self.odin.get("/livez")
        before = descriptors()
        wires = [self.handshake("", "Origin: null\r\n") for _ in range(30)]
        for wire in wires:
            wire.response()
            wire.close()
        eventually(lambda: descriptors() <= before, "the end of all descriptors")


class OriginTests(OdinTestCase):
    """Which pages may connect, by configuration."""

    def statuses(self, environment: dict[str, str], *origins: str) -> Iterator[int]:
        odin = self.start(*MEMORY, **environment)
        for origin in origins:
            wire = self.wire(odin)
            yield wire.upgrade(f"Origin: {origin}\r\n".replace("{host}", odin.host)).status

    def test_listed(self) -> None:
        """Listed origins are allowed, exactly as they are."""
        environment = {"WEBSOCKET_ALLOWED_ORIGINS": "https://app.example, http://b.example:8080"}
        origins = ("https://app.example", "http://app.example", "https://x.app.example",
                   "http://b.example:8080", "http://b.example")  # fmt: skip
        self.assertEqual(list(self.statuses(environment, *origins)), [101, 403, 403, 101, 403])

    def test_unchecked(self) -> None:
        """checkOrigin=false lets every page in, outside production."""
        environment = {"WEBSOCKET_CHECK_ORIGIN": "false"}
        self.assertEqual(
            list(self.statuses(environment, "https://evil.example", "null")), [101] * 2
        )

    def test_production(self) -> None:
        """In production only the same origin and listed ones, whatever checkOrigin says."""
        environment = {"ODIN_ENV": "production", "WEBSOCKET_CHECK_ORIGIN": "false",
                       "WEBSOCKET_ALLOWED_ORIGINS": "https://app.example"}  # fmt: skip
        origins = ("http://{host}", "https://app.example", "http://localhost:5173", "null")
        self.assertEqual(list(self.statuses(environment, *origins)), [101, 101, 403, 403])


class LimitTests(OdinTestCase):
    """How many may come in, how fast, and how long they may take."""

    def test_full(self) -> None:
        """Above maxConnections a handshake gets 503 with Retry-After; HTTP goes on."""
        odin = self.start(WEBSOCKET_MAX_CONNECTIONS="2")
        first, _second = self.client(odin=odin), self.client(odin=odin)
        response = self.wire(odin).upgrade()
        self.assertEqual(response.status, 503)
        self.assertGreaterEqual(int(response.headers["retry-after"]), 1)
        self.assertEqual(odin.get("/livez").status, 200)
        first.close()
        eventually(lambda: odin.clients() == 1, "room for one")
        self.assertEqual(self.wire(odin).upgrade().status, 101)

    def test_address_rate(self) -> None:
        """Too many connections from one address get 429 with Retry-After; others are served."""
        odin = self.start(
            LIMITS_CONNECTIONS_PER_SECOND_PER_ADDRESS="0.01", SERVER_TRUSTED_PROXIES="127.0.0.1"
        )
        forwarded = "X-Forwarded-For: 192.0.2.1, {}\r\n"
        self.assertEqual(self.wire(odin).upgrade(forwarded.format("198.51.100.1")).status, 101)
        response = self.wire(odin).upgrade(forwarded.format("198.51.100.1"))
        self.assertEqual(response.status, 429)
        self.assertGreaterEqual(int(response.headers["retry-after"]), 1)
        self.assertEqual(self.wire(odin).upgrade(forwarded.format("198.51.100.2")).status, 101)

    def test_one_proxy_header(self) -> None:
        """Of a proxy that writes X-Forwarded-For nobody believes the client's Forwarded."""
        settings = {
            "LIMITS_CONNECTIONS_PER_SECOND_PER_ADDRESS": "0.01",
            "SERVER_TRUSTED_PROXIES": "127.0.0.1",
        }
        both = "X-Forwarded-For: 198.51.100.1\r\nForwarded: for=192.0.2.{}\r\n"
        odin = self.start(**settings)
        statuses = [self.wire(odin).upgrade(both.format(n)).status for n in (1, 2)]
        self.assertEqual(statuses, [101, 429])
        odin = self.start(**settings, SERVER_PROXY_HEADER="Forwarded")
        statuses = [self.wire(odin).upgrade(both.format(n)).status for n in (1, 2, 2)]
        self.assertEqual(statuses, [101, 101, 429])

    def test_proxy_in_dual_stack(self) -> None:
        """A proxy that comes by IPv4 to an IPv6 socket has the address that is trusted."""
        odin = self.start(
            "--host", "::",
            LIMITS_CONNECTIONS_PER_SECOND_PER_ADDRESS="0.01", SERVER_TRUSTED_PROXIES="127.0.0.1",
        )  # fmt: skip
        odin._port = int(odin.says(r"Odin listens on \S+:(\d+)")[1])
        heads = [f"X-Forwarded-For: 198.51.100.{n}\r\n" for n in (1, 2, 2)]
        statuses = [self.wire(odin).upgrade(each).status for each in heads]
        self.assertEqual(statuses, [101, 101, 429])

    def test_spoofed_address(self) -> None:
        """Without trusted proxies nobody can speak for another address."""
        odin = self.start(LIMITS_CONNECTIONS_PER_SECOND_PER_ADDRESS="0.01")
        heads = [
            f"X-Forwarded-For: 198.51.100.{n}\r\nForwarded: for=198.51.100.{n}\r\n" for n in "12"
        ]
        self.assertEqual([self.wire(odin).upgrade(each).status for each in heads], [101, 429])

    def test_slow_handshakes(self) -> None:
        """Whoever is silent, or sends a head byte by byte, is closed at handshakeTimeout."""
        odin = self.start(WEBSOCKET_HANDSHAKE_TIMEOUT="1", SERVER_READ_TIMEOUT="1")
        silent, drop, body = self.wire(odin), self.wire(odin), self.wire(odin)
        body.send("POST /publish?subject=a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        drop.socket.settimeout(0.05)
        head = iter(HANDSHAKE * 20)

        def dripped() -> bool:
            try:
                drop.socket.send(next(head).encode())
                return drop.socket.recv(1) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        eventually(dripped, "the end of a slow handshake")
        self.assertTrue(silent.ended())
        self.assertTrue(body.ended())
        self.assertEqual(odin.metric('odin_connections_rejected_total{reason="timeout"}'), 2)
