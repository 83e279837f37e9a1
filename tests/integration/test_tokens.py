"""Who is let in: tokens by every way, refused for every reason, and never told to anybody."""

import base64
import hmac
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.integration.clients import HANDSHAKE, Response
from tests.integration.harness import MEMORY, SECRET, Odin, OdinTestCase, eventually, sign

CLAIMS = {"sub": "alice", "exp": 4_000_000_000}


def encoded(part: object) -> str:
    """A part of a token."""
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def by_hand(header: Mapping[str, object], claims: object, key: bytes = SECRET.encode()) -> str:
    """A token that no library would make, signed with HMAC and SHA-256 whatever it says."""
    text = f"{encoded(header)}.{encoded(claims)}"
    return f"{text}.{encoded(hmac.digest(key, text.encode(), 'sha256'))}"


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> str:
    """The public half of a key."""
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()  # fmt: skip


_HS256 = {"alg": "HS256", "typ": "JWT"}
_BAD = {
    "garbage": "garbage",
    "two parts": "a.b",
    "empty parts": "..",
    "expired": sign(exp=int(time.time()) - 60),
    "no exp": sign(exp=None),
    "exp is a text": by_hand(_HS256, CLAIMS | {"exp": "soon"}),
    "exp is null": by_hand(_HS256, CLAIMS | {"exp": None}),
    "exp is a list": by_hand(_HS256, CLAIMS | {"exp": [1]}),
    "exp is infinite": by_hand(_HS256, CLAIMS | {"exp": float("inf")}),
    "exp is no date": by_hand(_HS256, CLAIMS | {"exp": 10**30}),
    "not yet": sign(nbf=int(time.time()) + 600),
    "wrong key": sign("another-secret-0123456789-0123456789-01"),
    "alg none": f"{encoded({'alg': 'none'})}.{encoded(CLAIMS)}.",
    "alg None, signed": by_hand({"alg": "None"}, CLAIMS),
    "no alg": by_hand({"typ": "JWT"}, CLAIMS),
    "alg is a list": by_hand({"alg": ["HS256"]}, CLAIMS),
    "HS512": sign(SECRET + SECRET, "HS512"),
    "RS256 by name only": by_hand({"alg": "RS256"}, CLAIMS),
    "kid is a list": by_hand(_HS256 | {"kid": [1]}, CLAIMS),
    "crit is unknown": by_hand(_HS256 | {"crit": ["x"], "x": 1}, CLAIMS),
    "no sub": sign(sub=None),
    "claims are a list": by_hand(_HS256, [1]),
    "claims are no JSON": by_hand(_HS256, b"{nope"),
    "claims are deep": by_hand(_HS256, b"[" * 3000),
    "channels is a text": sign(channels="a"),
    "channels has no pattern": sign(channels=["a..b"]),
    "long": sign(x="y" * 7000, z="y" * 3000),
}


class RequiredTests(OdinTestCase):
    """A server that wants a token."""

    options = (*MEMORY, "--require-auth")

    def open(self, header: str, query: str = "", odin: Odin | None = None) -> Response:
        """The answer to a handshake with this header and query."""
        wire = self.wire(odin)
        wire.send(HANDSHAKE.replace("{path}", f"{{path}}{query}") + header + "\r\n")
        return wire.response()

    def test_ways(self) -> None:
        """A token may come as a header, a subprotocol or in the query."""
        good = sign()
        cases = {
            "header": (f"Authorization: Bearer {good}\r\n", ""),
            "header in another case": (f"authorization: bEARER  {good}\r\n", ""),
            "subprotocol": (f"Sec-WebSocket-Protocol: odin.v1, odin.bearer.{good}\r\n", ""),
            "query": ("", f"?token={good}"),
            "userId for sub": ("", f"?token={sign(sub=None, userId='bob')}"),
        }
        for name, (header, query) in cases.items():
            self.assertEqual(self.open(header, query).status, 101, name)

    def test_subprotocol_is_not_echoed(self) -> None:
        """Beside a token in a subprotocol the server answers odin.v1, never the token."""
        client = self.client(subprotocols=["odin.v1", f"odin.bearer.{sign()}"])
        self.assertEqual(client.socket.subprotocol, "odin.v1")

    def test_subprotocol_alone(self) -> None:
        """A token without odin.v1 beside it serves clients that need no answer (no browser does)."""
        answer = self.wire().upgrade(f"Sec-WebSocket-Protocol: odin.bearer.{sign()}\r\n")
        self.assertEqual(answer.status, 101)
        self.assertNotIn("sec-websocket-protocol", answer.headers)

    def test_refused(self) -> None:
        """Every bad token is 401 with one and the same body, by every way."""
        missing = self.open("")
        self.assertEqual((missing.status, missing.headers["www-authenticate"]), (401, "Bearer"))
        for name, token in _BAD.items():
            for header, query in (
                (f"Authorization: Bearer {token}\r\n", ""),
                (f"Sec-WebSocket-Protocol: odin.v1, odin.bearer.{token}\r\n", ""),
                ("", f"?token={token}"),
            ):
                if len(header) + len(query) > 8000:
                    continue
                response = self.open(header, query)
                self.assertEqual(response.status, 401, name)
                self.assertEqual(response.body, missing.body, name)
                self.assertIn('error="invalid_token"', response.headers["www-authenticate"], name)

    def test_long_token(self) -> None:
        """A token longer than a header may be is not looked at."""
        self.assertEqual(self.open(f"Authorization: Bearer {_BAD['long']}\r\n").status, 431)

    def test_other_schemes(self) -> None:
        """Other credentials are no token."""
        for header in (
            "Authorization: Basic YTpi",
            "Authorization: Bearer",
            "Authorization: ",
            "Sec-WebSocket-Protocol: odin.bearer.",
        ):
            self.assertEqual(self.open(header + "\r\n").status, 401, header)

    def test_failures_are_counted(self) -> None:
        """Each failure counts under a reason of a fixed set."""
        self.open("")
        self.open("", f"?token={_BAD['expired']}")
        metrics = self.odin.metrics()
        for reason in ("missing", "expired"):
            self.assertGreaterEqual(metrics[f'odin_auth_failures_total{{reason="{reason}"}}'], 1)
        reasons = [name for name in metrics if name.startswith("odin_auth_failures_total")]
        self.assertLess(len(reasons), 12)

    def test_nothing_is_told(self) -> None:
        """No token, payload or secret is ever in a log, a metric or an error page."""
        token, bad = sign(publish=[">"], mark="m"), sign("wrong" * 10)
        self.client(f"/ws?token={token}").send({"type": "auth", "token": bad})
        self.client(subprotocols=["odin.v1", f"odin.bearer.{token}"])
        self.client(token=token).send(
            {"type": "publish", "channel": "a.b", "data": {"payload": "PAYLOAD-MARK"}}
        )
        paths = ("/nothing", "/ws", "/health", "/stats", "/metrics", "/", "/publish")
        pages = [self.odin.get(f"{path}?token={token}").body.decode() for path in paths]
        pages.append(self.open("", f"?token={bad}").body.decode())
        pages.append(self.open("", f"/nothing?token={token}").body.decode())
        self.odin.request("POST", f"/publish?subject=a.b&token={bad}", b"PAYLOAD-MARK")
        self.odin.publish("a.b", b"PAYLOAD-MARK not JSON")
        for text in (*pages, self.odin.output()):
            for secret in (token, bad, "PAYLOAD-MARK", SECRET, token.split(".")[2]):
                self.assertNotIn(secret, text)


class OptionalTests(OdinTestCase):
    """A server that wants none."""

    def test_bad_token_is_refused_all_the_same(self) -> None:
        """Whoever sends a token is taken at its word."""
        for name in ("expired", "alg none", "wrong key"):
            wire = self.wire()
            wire.send(HANDSHAKE.replace("{path}", f"{{path}}?token={_BAD[name]}") + "\r\n")
            self.assertEqual(wire.response().status, 401)

    def test_expiring(self) -> None:
        """A token about to end is announced, and may be replaced."""
        now = int(time.time())
        client = self.client(token=sign(exp=now + 30))
        self.assertEqual(client.receive(), {"type": "tokenExpiring", "expiresAt": now + 30})
        ended = sign(exp=int(time.time()) - 2)  # within the clocks' leeway
        ack = client.ask({"type": "auth", "token": ended})
        self.assertEqual(ack["type"], "auth_ack")

    def test_expiring_token_by_auth(self) -> None:
        """One that comes later is announced right behind its acknowledgement, with pings or not."""
        for interval in ("25", "0"):
            odin = self.start(*MEMORY, WEBSOCKET_PING_INTERVAL=interval)
            client, ends_at = self.client(odin=odin), int(time.time()) + 30
            client.send({"type": "auth", "token": sign(exp=ends_at, publish=["a"])})
            self.assertEqual(client.receive()["type"], "auth_ack")
            self.assertEqual(client.receive(), {"type": "tokenExpiring", "expiresAt": ends_at})

    def test_ended(self) -> None:
        """With a token that has ended there is nothing new, until there is another one."""
        token = sign(exp=int(time.time()) - 3, channels=["a"], publish=["a"])
        client = self.client(token=token)
        self.assertEqual(client.receive()["type"], "tokenExpiring")
        subscribe = {"type": "subscribe", "data": {"channels": ["a"]}}
        publish = {"type": "publish", "channel": "a", "data": {}}
        eventually(lambda: client.ask(subscribe).get("code") == "unauthorized", "the end")
        self.assertEqual(client.ask(publish)["code"], "unauthorized")
        self.odin.publish("a", {"n": 1})
        self.assertEqual(client.receive()["n"], 1)
        client.ask({"type": "auth", "token": sign(channels=["a"])})
        self.assertEqual(client.ask(subscribe)["subscribed"], ["a"])


class PublicKeyTests(OdinTestCase):
    """Servers that check signatures with a public key."""

    def verdicts(self, public: str, *tokens: str, **environment: str) -> list[int]:
        """The status for each token, of a server with this public key."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "key.pem")
            path.write_text(public, encoding="ascii")
            environment = {"JWT_SECRET": "", "AUTH_JWT_PUBLIC_KEY": str(path)} | environment
            odin = self.start(*MEMORY, "--require-auth", **environment)
            eventually(lambda: odin.port)
        statuses = []
        for token in tokens:
            wire = self.wire(odin)
            statuses.append(wire.upgrade(f"Authorization: Bearer {token}\r\n").status)
        return statuses

    def test_confusion(self) -> None:
        """A public key is never taken for an HMAC secret, even where HS256 is allowed, too."""
        key = rsa.generate_private_key(65537, 2048)
        public = pem(key)
        tokens = [
            jwt.encode(CLAIMS, key, "RS256"),
            by_hand(_HS256, CLAIMS, public.encode()),
            by_hand(_HS256, CLAIMS, public.strip().encode()),
            by_hand({"alg": "RS256"}, CLAIMS, public.encode()),
            by_hand(_HS256, CLAIMS, b""),
            jwt.encode(CLAIMS, rsa.generate_private_key(65537, 2048), "RS256"),
            jwt.encode(CLAIMS, ec.generate_private_key(ec.SECP256R1()), "ES256"),
            f"{encoded({'alg': 'none'})}.{encoded(CLAIMS)}.",
        ]
        expected = [101] + [401] * 7
        self.assertEqual(self.verdicts(public, *tokens), expected)
        both = {"AUTH_ALGORITHMS": "HS256,RS256"}
        self.assertEqual(self.verdicts(public, *tokens, **both), expected)
        with_secret = self.verdicts(public, sign(), *tokens, JWT_SECRET=SECRET, **both)
        self.assertEqual(with_secret, [101, *expected])

    def test_kinds(self) -> None:
        """ES256 and EdDSA work as well as RS256."""
        elliptic, edwards = (
            ec.generate_private_key(ec.SECP256R1()),
            ed25519.Ed25519PrivateKey.generate(),
        )
        for key, algorithm in ((elliptic, "ES256"), (edwards, "EdDSA")):
            token = jwt.encode(CLAIMS, key, algorithm)
            self.assertEqual(self.verdicts(pem(key), token, sign()), [101, 401], algorithm)

    def test_audience_and_issuer(self) -> None:
        """Where an audience and an issuer are configured, a token must have both."""
        odin = self.start(*MEMORY, "--require-auth", AUTH_AUDIENCE="odin", AUTH_ISSUER="us")
        for claims, status in (
            ({"aud": "odin", "iss": "us"}, 101),
            ({"aud": ["x", "odin"], "iss": "us"}, 101),
            ({"aud": "odin"}, 401),
            ({"iss": "us"}, 401),
            ({"aud": "odin", "iss": "them"}, 401),
            ({"aud": "other", "iss": "us"}, 401),
        ):
            wire = self.wire(odin)
            header = f"Authorization: Bearer {sign(**claims)}\r\n"
            self.assertEqual(wire.upgrade(header).status, status, claims)
