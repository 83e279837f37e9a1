"""Keys of a JWKS document: how they are fetched, which are taken, and what stays beside them."""

import time

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from odin.access.tokens import TokenVerifier, keys_of
from odin.errors import Unauthorized
from odin.web import jwks as keeping
from odin.web.fetching import Fetch, FetchFailed
from odin.web.jwks import KeyKeeper
from tests.documents import (
    DocumentServer,
    dripping,
    endless,
    good,
    jwk,
    jwks,
    saying,
    silent,
)

ONE, TWO = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in "12")
HEAD = b"HTTP/1.1 200 OK\r\n"
ENDLESS_HEAD = HEAD + b"Content-Length: 314572800\r\n\r\n"
_DRIPS = {
    "the status": b"HTTP/1.1 2",
    "a header": HEAD + b"X: ",
    "headers": HEAD,
    "the body": HEAD + b"Content-Length: 10000\r\n\r\n{",
    "a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5000\r\n",
}


def token(key, kid=None, algorithm="RS256"):
    claims = {"sub": "u", "exp": time.time() + 60}
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims, key, algorithm=algorithm, headers=headers)


class DocumentTests(SynchronousTestCase):
    """Which keys of a document are taken."""

    def test_usable_keys(self):
        """All kinds of public keys, by their kid; one without has the empty one."""
        curve = ec.generate_private_key(ec.SECP256R1())
        edwards = ed25519.Ed25519PrivateKey.generate()
        keys = keys_of(
            jwks(
                jwk(ONE.public_key(), kid="r", use="sig"),
                jwk(curve.public_key(), kid="e"),
                jwk(edwards.public_key()),
            )
        )
        self.assertEqual(set(keys), {"r", "e", ""})
        verifier = TokenVerifier(algorithms=["RS256", "ES256", "EdDSA"])
        verifier.fetched_keys = keys
        for private, kid, algorithm in (
            (ONE, "r", "RS256"), (curve, "e", "ES256"), (edwards, None, "EdDSA"),
            (edwards, "new", "EdDSA"),
        ):  # fmt: skip
            self.assertEqual(verifier.verify(token(private, kid, algorithm)).user_id, "u")

    def test_unusable_keys(self):
        """Those that are of another use or kind, or are none, do not keep the others out."""
        usable = jwk(ONE.public_key(), kid="k")
        secret = {"kty": "oct", "k": "c2VjcmV0", "kid": "o", "alg": "HS256"}
        for odd in (
            secret, secret | {"alg": "RS256"}, {"kty": "RSA", "kid": "x", "n": "%", "e": "AQAB"},
            {"kty": "new", "kid": "x"}, {"kid": "x"}, jwk(TWO.public_key(), kid="x", use="enc"),
            {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "x"},
            {"kty": ["RSA"], "kid": "x"}, {"kty": "RSA", "n": 5, "e": None}, "text", 5, None, [],
        ):  # fmt: skip
            self.assertEqual(list(keys_of(jwks(odd, usable))), ["k"], odd)
            self.assertEqual(list(keys_of(jwks(usable, odd))), ["k"], odd)

    def test_no_keys(self):
        """A document without usable keys is refused."""
        for document in (
            b"", b"no json", b"[]", b"{}", b'{"keys":5}', b'{"keys":null}', b'{"keys":[]}', b"5",
            b'{"keys":{"kty":"RSA"}}', b'{"keys":[5]}', b"[" * 100_000, b"\xff",
        ):  # fmt: skip
            self.assertRaises(ValueError, keys_of, document)

    def test_the_only_key(self):
        """It serves tokens without kid, with its kid or without; not those with another kid."""
        verifier = TokenVerifier(algorithms=["RS256"])
        verifier.fetched_keys = keys_of(jwks(jwk(ONE.public_key(), kid="k")))
        for kid in ("k", None):
            self.assertEqual(verifier.verify(token(ONE, kid)).user_id, "u")
        error = self.assertRaises(Unauthorized, verifier.verify, token(ONE, "other"))
        self.assertEqual(error.cause, "unknown_key")
        verifier.fetched_keys = keys_of(
            jwks(jwk(ONE.public_key(), kid="k"), jwk(TWO.public_key(), kid="l"))
        )
        error = self.assertRaises(Unauthorized, verifier.verify, token(ONE))
        self.assertEqual(error.cause, "unknown_key")

    def test_configured_keys_stay(self):
        """The configured key counts before, beside and after fetched ones, with kid and without."""
        verifier = TokenVerifier(public_keys={"": ONE.public_key()}, algorithms=["RS256", "ES256"])
        curve = ec.generate_private_key(ec.SECP256R1()).public_key()
        for entries in (
            (), (jwk(TWO.public_key()),), (jwk(TWO.public_key(), kid="k"),), (jwk(curve, kid="k"),),
            (jwk(TWO.public_key(), kid="k"), jwk(curve)),
        ):  # fmt: skip
            verifier.fetched_keys = keys_of(jwks(*entries)) if entries else {}
            for kid in (None, "k", "x"):
                self.assertEqual(verifier.verify(token(ONE, kid)).user_id, "u")
        self.assertEqual(verifier.verify(token(TWO, "k")).user_id, "u")
        other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        error = self.assertRaises(Unauthorized, verifier.verify, token(other, "k"))
        self.assertEqual(error.cause, "bad_signature")


class FetchTests(TestCase):
    """With a real server on the loopback."""

    def serve(self, behaviour):
        server = DocumentServer(behaviour)
        self.addCleanup(server.stop)
        return server

    def fetch(self, url, understand=bytes, timeout_s=10.0):
        return Fetch(url, understand, reactor, timeout_s=timeout_s, most_bytes=1 << 20)

    async def failed(self, fetch):
        try:
            await fetch.answer
        except FetchFailed as error:
            return str(error)
        raise AssertionError("no failure")

    async def ended(self, server):
        """Until the server has seen the end of its only connection."""
        while not server.ended:
            await deferLater(reactor, 0.01, lambda: None)

    async def test_document(self):
        """A document arrives whole, with a length, without one, and in chunks."""
        body = b"x" * 300_000
        chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
        for behaviour in (
            good(body),
            saying(HEAD + b"\r\n" + body),
            saying(chunked % (len(body), body)),
        ):
            server = self.serve(behaviour)
            self.assertEqual(await self.fetch(server.url, len).answer, len(body))

    async def test_refused(self):
        """Other statuses, redirects and what is no HTTP are failures, told in one line."""
        good_one = self.serve(good(b"{}"))
        for text, why in (
            (b"HTTP/1.1 404 Not Found\r\n\r\n", "404"),
            (b"HTTP/1.1 302 Found\r\nLocation: %b\r\n\r\n" % good_one.url.encode(), "302"),
            (b"SSH-2.0-x\r\n", ""), (b"", ""), (HEAD + b"A: b\r\n" * 300 + b"\r\n", "100"),
            (HEAD + b"A: " + b"b" * 100_000, ""), (b"HTTP/1.1 100\r\n\r\n" * 50, ""),
        ):  # fmt: skip
            said = await self.failed(self.fetch(self.serve(saying(text)).url))
            self.assertIn(why, said)
            self.assertNotIn("\n", said)
        self.assertEqual(good_one.requests, 0)
        gone = self.serve(silent)
        url = gone.url
        gone.stop()
        self.assertIn("refused", await self.failed(self.fetch(url)))
        for url in ("file:///etc/passwd", "nonsense", "http://[::1"):
            await self.failed(self.fetch(url))

    async def test_deadline(self):
        """One deadline for all of it, however small the steps: then the connection is closed."""
        for what, start in _DRIPS.items():
            server = self.serve(dripping(start))
            said = await self.failed(self.fetch(server.url, timeout_s=0.5))
            self.assertIn("more than 0.5 s", said, what)
            await self.ended(server)

    async def test_deadline_in_the_tls_handshake(self):
        """Also when a server drips its part of a TLS handshake."""
        server = self.serve(dripping(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03"))
        url = server.url.replace("http:", "https:")
        said = await self.failed(self.fetch(url, timeout_s=0.5))
        self.assertIn("more than 0.5 s", said)
        await self.ended(server)

    async def test_silence(self):
        """A server that says nothing is left at the deadline."""
        server = self.serve(silent)
        await self.failed(self.fetch(server.url, timeout_s=0.5))

    async def test_given_up(self):
        """Who does not want it any more has the failure at once, and no thread that goes on."""
        server = self.serve(dripping(HEAD))
        fetch = self.fetch(server.url)
        while not server.sent:
            await deferLater(reactor, 0.01, lambda: None)
        fetch.end()
        self.assertEqual(await self.failed(fetch), "given up")
        await self.ended(server)
        fetch.end()

    async def test_size(self):
        """Of 300 MB no more than the limit is taken, and the connection ends."""
        mega = b"x" * (1 << 20)
        for behaviour in (
            endless(ENDLESS_HEAD, mega),
            endless(HEAD + b"\r\n", mega),
            endless(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"100000\r\n%b\r\n" % mega),
            endless(b"HTTP/1.1 500 x\r\n\r\n", mega),
        ):
            server = self.serve(behaviour)
            await self.failed(self.fetch(server.url))
            await self.ended(server)
            self.assertLess(server.sent, 30 << 20)  # what the kernel holds, and the limit


class KeeperTests(TestCase):
    def keep(self, behaviour):
        """A server, and a verifier that has its keys soon."""
        self.patch(keeping, "_EVERY_S", 0.1)
        server = DocumentServer(behaviour)
        self.addCleanup(server.stop)
        verifier = TokenVerifier(algorithms=["RS256"])
        keeper = KeyKeeper(verifier, server.url, reactor)
        keeper.startService()
        self.addCleanup(keeper.stopService)
        return server, verifier

    async def until(self, true):
        while not true():
            await deferLater(reactor, 0.01, lambda: None)

    async def test_changes(self):
        """What the document says is taken at the next fetch; a failure changes nothing."""
        server, verifier = self.keep(good(jwks(jwk(ONE.public_key(), kid="a"))))
        await self.until(lambda: verifier.fetched_keys)
        for bad in (saying(b"HTTP/1.1 500 x\r\n\r\n"), good(b"nonsense"), good(jwks())):
            server.behaviour, seen = bad, server.requests
            await self.until(lambda seen=seen: server.requests > seen + 2)
            self.assertEqual(list(verifier.fetched_keys), ["a"])
        server.behaviour = good(jwks(jwk(TWO.public_key(), kid="b")))
        await self.until(lambda: list(verifier.fetched_keys) == ["b"])

    async def test_after_the_deadline(self):
        """A fetch that took too long is not the last one."""
        self.patch(keeping, "_TIMEOUT_S", 0.2)
        server, verifier = self.keep(dripping(HEAD))
        await self.until(lambda: server.requests > 1)
        server.behaviour = good(jwks(jwk(ONE.public_key(), kid="a")))
        await self.until(lambda: verifier.fetched_keys)
