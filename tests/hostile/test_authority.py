"""Whose word holds: tokens, names, proxies, and what a publisher may say."""

import http.server
import json
import signal
import socket
import threading
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from tests.hostile.field import TURN, Field, Hostile, ground
from tests.integration.clients import HANDSHAKE, PATIENCE_S, TEXT, frame
from tests.integration.harness import MEMORY, SECRET, Odin, sign
from tests.integration.test_tokens import pem

_EVIL, _GOOD = "odin.token.EVIL.price", "odin.token.BTC.price"


class Document(http.server.ThreadingHTTPServer):
    """A server of one JWKS document, as fast as it wants."""

    daemon_threads = True

    def __init__(self, body: bytes = b"", pause_s: float = 0.0, times: int = 1) -> None:
        """`times`: how often the body is sent, `pause_s` after each byte of it."""
        outer = self
        self.body = body
        self.asked = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.set()
                self.send_response(200)
                self.send_header("Content-Length", str(len(outer.body) * times))
                self.end_headers()
                try:
                    for _ in range(times):
                        for part in [outer.body] if not pause_s else map(_byte, outer.body):
                            self.wfile.write(part)
                            time.sleep(pause_s)
                except OSError:
                    pass

            def log_message(self, *_arguments: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/jwks.json"


def _byte(number: int) -> bytes:
    return bytes([number])


class PublisherAttacks(Field):
    """A token that permits one channel is not a word on others."""

    def publisher(self, *channels: str, odin: Odin | None = None) -> Hostile:
        client = self.hostile(odin)
        token = sign(publish=channels or [_EVIL])
        client.open("?channels=none", f"Authorization: Bearer {token}\r\n")
        return client

    def test_members(self) -> None:
        """The `channel` and `offset` that a client reads are the server's (A10)."""
        with self.attack("A10 members twice"):
            reader = self.opened(f"?channels={_EVIL}")
            writer = self.publisher()
            writer.ask({
                "type": "publish", "channel": _EVIL,
                "data": {"type": "priceUpdate", "channel": _GOOD, "offset": 2**53 - 1, "price": 1},
            })  # fmt: skip
            answer = writer.ask({"type": "publish", "channel": _EVIL, "data": {"type": "end"}})
            self.assertEqual(answer["type"], "publish_ack")
            while (message := reader.message())["type"] != "end":
                self.assertEqual(message["channel"], _EVIL)
                self.assertLess(message["offset"], 2**53 - 1)

    def test_snapshot_member(self) -> None:
        """Nor can a publisher mark its message as a snapshot (A10)."""
        with self.attack("A10 `snapshot` by a publisher"):
            reader = self.opened(f"?channels={_EVIL}")
            writer = self.publisher()
            writer.ask(
                {"type": "publish", "channel": _EVIL, "data": {"type": "x", "snapshot": True}}
            )
            writer.ask({"type": "publish", "channel": _EVIL, "data": {"type": "end"}})
            while (message := reader.message())["type"] != "end":
                self.assertNotIn("snapshot", message)

    def test_nonces(self) -> None:
        """A nonce counts in its own channel (A11)."""
        with self.attack("A11 nonces of another's messages"):
            reader = self.opened(f"?channels={_GOOD}")
            evil, good = self.publisher(), self.publisher(_GOOD)
            for number in range(20):
                nonce = f"run-{number}"
                evil.ask({"type": "publish", "channel": _EVIL, "data": {"nonce": nonce}})
                answer = good.ask({"type": "publish", "channel": _GOOD, "data": {"nonce": nonce}})
                self.assertEqual(answer["type"], "publish_ack", answer)
                self.assertEqual(reader.message()["nonce"], nonce)

    def test_inboxes(self) -> None:
        """Without a stream, too, what a client may publish to are the feed's subjects (A9)."""
        with self.attack("A9 subjects that are not the feed's"):
            client = self.publisher(">")
            for subject in ("$SYS.REQ.SERVER.PING", "_INBOX.x.y", "$KV.a.b", "odin.control.x"):
                answer = client.ask({"type": "publish", "channel": subject, "data": {}})
                self.assertEqual(answer["type"], "error", subject)

    def test_large_publish(self) -> None:
        """64 KB of deep nesting cost what 64 KB cost."""
        with self.attack("64 KB of deep nesting, 20 times", cost=4000, turn=TURN, peak_mb=4):
            client = self.publisher()
            deep = "[" * 32_000 + "]" * 32_000
            text = f'{{"type":"publish","channel":"{_EVIL}","data":{deep}}}'
            for _ in range(20):
                client.send(_text(text))
                if client.message() is None:  # too many that are no JSON
                    break

    def test_empty_channels(self) -> None:
        """An empty list is no wish for everything (A33)."""
        with self.attack("A33 `channels` that fails open"):
            token = _with_null()
            client = self.hostile()
            client.send(HANDSHAKE.replace("{path}", f"/ws?token={token}") + "\r\n")
            answer = client.response()
            if answer.status == 101:
                client.message()
                self.assertNotEqual(client.ask({"type": "subscriptions"})["channels"], [">"])
            client = self.hostile()
            client.send(HANDSHAKE.replace("{path}", "/ws?channels=") + "\r\n")
            if client.response().status == 101:
                client.message()
                self.assertNotEqual(client.ask({"type": "subscriptions"})["channels"], [">"])

    def test_cut_token(self) -> None:
        """/auth/token gives what was asked for, or nothing (A37)."""
        names = ",".join(f"odin.c{number:03}" for number in range(120))  # cut at 1,024: odin.c
        with self.attack("A37 a token with names cut off"):
            answer = self.odin.get(f"/auth/token?channels={names}")
            if answer.status == 200:
                client = self.hostile()
                client.open(f"?token={answer.json()['token']}")
                got = client.ask({"type": "subscriptions"})["channels"]
                self.assertEqual(sorted(got), sorted(names.split(",")))


class ProxyAttacks(Field):
    """Who the client behind a proxy is."""

    def statuses(self, odin: Odin, *headers: str) -> list[int]:
        """Of a connection with each of these headers, one behind the other."""
        found = []
        for each in headers:
            client = self.hostile(odin)
            client.send(HANDSHAKE + each + "\r\n")
            found.append(client.response().status)
            client.close()
        return found

    def test_forwarded(self) -> None:
        """A `Forwarded` of the client's own is not believed (A12)."""
        odin = self.start(
            LIMITS_CONNECTIONS_PER_SECOND_PER_ADDRESS="0.01", SERVER_TRUSTED_PROXIES="127.0.0.1"
        )
        with self.unwatched("A12 Forwarded beside X-Forwarded-For"):
            headers = [
                f"X-Forwarded-For: 203.0.113.7\r\nForwarded: for=1.2.3.{number}\r\n"
                for number in range(6)
            ]
            self.assertEqual(self.statuses(odin, *headers).count(101), 1)

    def test_dual_stack(self) -> None:
        """A proxy that comes by IPv4 to an IPv6 socket is the same proxy (A23)."""
        if not socket.has_ipv6:
            return
        odin = self.start(
            *MEMORY, "--host", "::",
            LIMITS_CONNECTIONS_PER_SECOND_PER_ADDRESS="0.01", SERVER_TRUSTED_PROXIES="127.0.0.1",
        )  # fmt: skip
        odin._port = int(odin.says(r"Odin listens on .*:(\d+)")[1])
        with self.unwatched("A23 a proxy by IPv4 to ::"):
            headers = [f"X-Forwarded-For: 203.0.113.{number}\r\n" for number in range(6)]
            self.assertEqual(self.statuses(odin, *headers).count(101), 6)


class ExpiryAttacks(Field):
    """A token's end is watched, however it came."""

    def test_short_token(self) -> None:
        """A token that ends soon is announced at once, with and without pings (A17)."""
        for interval in ("0", "25"):
            odin = self.start(WEBSOCKET_PING_INTERVAL=interval)
            with self.attack(f"A17 auth with a short token, pings {interval} s", odin=odin):
                client = self.opened(odin=odin)
                token = sign(exp=int(time.time()) + 30)
                self.assertEqual(client.ask({"type": "auth", "token": token})["type"], "auth_ack")
                client.socket.settimeout(20)
                try:
                    self.assertEqual(client.message()["type"], "tokenExpiring")
                except TimeoutError:
                    self.fail("no tokenExpiring")


class DocumentAttacks(Field):
    """A JWKS server that is hostile, or only slow."""

    def test_drip(self) -> None:
        """A document that drips does not keep Odin from its end (A18)."""
        document = Document(b'{"keys":[]}' + b" " * 200, pause_s=0.5)
        odin = self.start(AUTH_JWKS_URL=document.url, SERVER_SHUTDOWN_TIMEOUT="1")
        with self.unwatched("A18 a JWKS document that drips"):
            odin.port  # noqa: B018
            self.assertTrue(document.asked.wait(PATIENCE_S))
            odin.signal(signal.SIGTERM)
            stop_at = time.monotonic() + 20
            while odin.running and time.monotonic() < stop_at:
                time.sleep(0.1)
            self.assertFalse(odin.running, "it lives on")

    def test_large(self) -> None:
        """A document without an end takes no memory (A18)."""
        document = Document(b" " * (1 << 20), times=64)
        odin = self.start(AUTH_JWKS_URL=document.url)
        with self.attack("A18 a JWKS document of 64 MB", odin=odin):
            self.assertTrue(document.asked.wait(PATIENCE_S))
            odin.says("JWKS document")
            self.assertLess(ground(odin)[0].all_time_peak_mb(), 110)

    def test_configured_key(self) -> None:
        """The configured key stays good beside a document (A19)."""
        ours, theirs = (rsa.generate_private_key(65537, 2048) for _ in range(2))
        key = json.loads(RSAAlgorithm.to_jwk(theirs.public_key())) | {"kid": "theirs"}
        with self.unwatched("A19 the configured key beside a JWKS"):
            odin = self._with_keys(key, AUTH_JWT_PUBLIC_KEY=pem(ours))
            self.assertEqual(self._status(odin, theirs, {"kid": "theirs"}), 101)
            self.assertEqual(self._status(odin, ours, {}), 101)

    def test_key_without_kid(self) -> None:
        """The only key of a document needs no `kid` (A19)."""
        theirs = rsa.generate_private_key(65537, 2048)
        key = json.loads(RSAAlgorithm.to_jwk(theirs.public_key()))
        with self.unwatched("A19 a JWKS key without kid"):
            self.assertEqual(self._status(self._with_keys(key), theirs, {}), 101)

    def _with_keys(self, key: object, **environment: str) -> Odin:
        """A server that has read a document with this key."""
        document = Document(json.dumps({"keys": [key]}).encode())
        odin = self.start(AUTH_JWKS_URL=document.url, **environment)
        odin.says("JWKS document")  # that it was read, or could not be
        return odin

    def _status(self, odin: Odin, key: rsa.RSAPrivateKey, head: dict[str, str]) -> int:
        token = jwt.encode({"sub": "a", "exp": int(time.time()) + 600}, key, "RS256", head)
        client = self.hostile(odin)
        client.send(HANDSHAKE + f"Authorization: Bearer {token}\r\n\r\n")
        return client.response().status


def _with_null() -> str:
    claims = {"sub": "a", "exp": int(time.time()) + 600, "channels": None}
    return jwt.encode(claims, SECRET, "HS256")


def _text(text: str) -> bytes:
    return frame(TEXT, text.encode())
