"""Limits, origins, proxies and tokens."""

import sys
import time
import warnings

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from twisted.trial.unittest import SynchronousTestCase

from odin.access.limits import AddressLimit, RateLimit
from odin.access.origins import OriginPolicy, TrustedProxies, origin_problem
from odin.access.tokens import Identity, TokenVerifier, issue, load_public_key
from odin.errors import RateLimited, Unauthorized

SECRET = "an-unguessable-key-of-32-bytes-or-more"


class LimitTests(SynchronousTestCase):
    def test_burst_then_rate(self):
        """A burst passes, then one each 1/rate seconds; the refusal says how long to wait."""
        limit, tat = RateLimit(10, 5), 0.0
        for _ in range(5):
            tat = limit.take(tat, 100.0)
        error = self.assertRaises(RateLimited, limit.take, tat, 100.0)
        self.assertAlmostEqual(error.retry_after_s, 0.1)
        tat = limit.take(tat, 100.1)
        self.assertRaises(RateLimited, limit.take, tat, 100.15)
        for _ in range(5):
            tat = limit.take(tat, 200.0)

    def test_off(self):
        """A rate of 0 limits nothing."""
        self.assertEqual(RateLimit(0, 1).take(0.0, 5.0), 0.0)

    def test_addresses(self):
        """Each address has its own bucket, and the table forgets those that are full again."""
        limit = AddressLimit(2)
        for _ in range(2):
            limit.take("a", 10.0)
        self.assertRaises(RateLimited, limit.take, "a", 10.0)
        limit.take("b", 10.0)
        for n in range(3000):
            limit.take(str(n), 100.0 + n)
        self.assertLess(len(limit), 1100)


class OriginTests(SynchronousTestCase):
    def test_policy(self):
        """(origin, host, allowed in development, in production)"""
        for origin, host, development, production in (
            (None, "a.example", True, True),
            ("http://a.example", "a.example", True, True),
            ("https://a.example", "a.example", True, True),
            ("http://A.example:80", "a.example", True, True),
            ("https://a.example:444", "a.example", False, False),
            ("http://listed.example", "a.example", True, True),
            ("http://evil.example", "a.example", False, False),
            ("null", "a.example", False, False),
            ("", "a.example", False, False),
            ("garbage", "a.example", False, False),
            ("http://a.example.evil", "a.example", False, False),
            ("http://localhost:5173", "localhost:3002", True, False),
            ("http://127.0.0.1:5173", "localhost:3002", True, False),
            ("http://localhost:5173", "a.example", False, False),
            ("http://[::1", "a.example", False, False),
        ):
            for mode, expected in ((False, development), (True, production)):
                policy = OriginPolicy(
                    check=True, allowed=["http://listed.example/"], production=mode
                )
                self.assertEqual(policy.allows(origin, host), expected, (origin, host, mode))

    def test_switched_off(self):
        """Without the check everybody may come, but not in production; nor does * count there."""
        for options in ({"check": False, "allowed": ()}, {"check": True, "allowed": ["*"]}):
            for production in (False, True):
                policy = OriginPolicy(**options, production=production)
                self.assertEqual(policy.allows("http://evil.example", "a"), not production)

    def test_listed(self):
        """A listed origin counts in every spelling; what no browser sends cannot be listed."""
        policy = OriginPolicy(
            check=True, allowed=["HTTPS://b.example:443/", "http://b.example:8080"], production=True
        )
        for origin, allowed in (
            ("https://b.example", True), ("https://b.example:443", True), ("http://b.example", False),
            ("http://b.example:8080", True), ("https://b.example:8443", False),
        ):  # fmt: skip
            self.assertEqual(policy.allows(origin, "a.example"), allowed, origin)
        for good in (
            "*", "null", "https://b.example:443", "http://[::1]:5173", "chrome-extension://abc",
            "https://xn--bcher-kva.example/", "http://b:1",
        ):  # fmt: skip
            self.assertIsNone(origin_problem(good), good)
        for bad in (
            "app.example.com", "b.example:443", "https://*.b.example", "https://b.example/app",
            "https://b.example?x", "https://me@b.example", "https://", "https://b.example:x", "",
            "https://b\u00fccher.example", "http://a b", "http://[::1",
        ):  # fmt: skip
            self.assertIsNotNone(origin_problem(bad), bad)

    def test_names(self):
        """Where addresses are trusted, a page that came by a name must be listed (DNS rebinding)."""
        policy = OriginPolicy(
            check=True, allowed=["http://listed.example:3002"], production=False, named=False
        )
        for host, proxied, allowed in (
            ("evil.example:3002", False, False), ("myhost:3002", False, False),
            ("listed.example:3002", False, True), ("public.example", True, True),
            ("localhost:3002", False, True), ("app.localhost:3002", False, True),
            ("127.0.0.1:3002", False, True), ("192.0.2.7:3002", False, True),
            ("[::1]:3002", False, True), ("127.0.0.1.evil.example", False, False),
        ):  # fmt: skip
            got = policy.allows(f"http://{host}", host, proxied=proxied)
            self.assertEqual(got, allowed, host)
        self.assertTrue(policy.allows(None, "myhost:3002"))  # no browser: curl


class ProxyTests(SynchronousTestCase):
    def check(self, header, rows, networks=("10.0.0.0/8",)):
        proxies = TrustedProxies(networks, header)
        for peer, xff, forwarded, client in rows:
            given = {"x-forwarded-for": xff, "forwarded": forwarded}
            headers = {name: value for name, value in given.items() if value is not None}
            self.assertEqual(proxies.client(peer, headers), client, (peer, xff, forwarded))

    def test_forwarded_for(self):
        """(peer, X-Forwarded-For, Forwarded) -> client; nobody looks at Forwarded."""
        self.check(
            "X-Forwarded-For",
            (
                ("1.2.3.4", "9.9.9.9", None, "1.2.3.4"),
                ("10.0.0.1", None, None, "10.0.0.1"),
                ("10.0.0.1", "9.9.9.9", None, "9.9.9.9"),
                ("10.0.0.1", "6.6.6.6, 9.9.9.9, 10.0.0.2", None, "9.9.9.9"),
                ("10.0.0.1", "9.9.9.9, nonsense", None, "10.0.0.1"),
                ("10.0.0.1", "9.9.9.9:1234", None, "9.9.9.9"),
                ("10.0.0.1", "9.9.9.9", "for=6.6.6.6", "9.9.9.9"),
                ("10.0.0.1", None, "for=6.6.6.6", "10.0.0.1"),
                ("10.0.0.1", "", None, "10.0.0.1"),
                ("/run/odin.sock", "9.9.9.9", None, "/run/odin.sock"),
                ("", "9.9.9.9", None, ""),
            ),
        )
        self.assertRaises(ValueError, TrustedProxies, ["nonsense"])

    def test_forwarded(self):
        """The same with Forwarded; nobody looks at X-Forwarded-For."""
        self.check(
            "Forwarded",
            (
                ("10.0.0.1", None, 'for=6.6.6.6, for="[2001:db8::1]:80";proto=http', "2001:db8::1"),
                ("10.0.0.1", "6.6.6.6", "For=9.9.9.9", "9.9.9.9"),
                ("10.0.0.1", "6.6.6.6", None, "10.0.0.1"),
                ("10.0.0.1", None, "for=6.6.6.6, proto=https", "10.0.0.1"),
                ("10.0.0.1", None, "for=6.6.6.6, for=_hidden", "10.0.0.1"),
                ("10.0.0.1", None, 'x="for=6.6.6.6, for=9.9.9.9', "9.9.9.9"),
            ),
        )

    def test_mapped_addresses(self):
        """An IPv4 address that IPv6 maps is that address: peer, hop and network."""
        rows = (
            ("::ffff:10.0.0.1", "9.9.9.9", None, "9.9.9.9"),
            ("::ffff:10.0.0.1", "::ffff:9.9.9.9, ::ffff:10.0.0.2", None, "9.9.9.9"),
            ("10.0.0.1", "[::ffff:9.9.9.9]:80", None, "9.9.9.9"),
            ("::ffff:1.2.3.4", "9.9.9.9", None, "1.2.3.4"),
        )
        self.check("X-Forwarded-For", rows)
        self.check("X-Forwarded-For", rows, ("::ffff:10.0.0.0/104",))
        self.check("X-Forwarded-For", (("::ffff:1.2.3.4", None, None, "1.2.3.4"),), ())


class TokenTests(SynchronousTestCase):
    def setUp(self):
        self.verifier = TokenVerifier(secret=SECRET)
        warnings.simplefilter("ignore")

    def token(self, key=SECRET, algorithm="HS256", headers=None, **claims):
        claims = {"sub": "u", "exp": time.time() + 60} | claims
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, key, algorithm=algorithm, headers=headers)

    def refused(self, token, verifier=None):
        return self.assertRaises(Unauthorized, (verifier or self.verifier).verify, token).cause

    def test_valid(self):
        """The claims become an identity; patterns that another covers are left out."""
        identity = self.verifier.verify(
            self.token(username="n", role="r", channels=["a.*", "a.b"], publish=["p"], jti="j")
        )
        self.assertEqual((identity.user_id, identity.username, identity.role), ("u", "n", "r"))
        self.assertEqual((identity.channels, identity.publish), (("a.*",), ("p",)))
        self.assertEqual(identity.token_id, "j")
        self.assertIsNone(self.verifier.verify(self.token()).channels)
        self.assertEqual(self.verifier.verify(self.token(channels=[])).channels, ())
        without = {"sub": "u", "exp": 4e9, "publish": None}
        self.assertEqual(self.verifier.verify(jwt.encode(without, SECRET)).publish, ())
        self.assertEqual(self.verifier.verify(self.token(sub=None, userId="v")).user_id, "v")

    def test_refused(self):
        """RFC 8725: what is not exactly right is not accepted; the cause is one known word."""
        now = time.time()
        for token, cause in (
            (self.token(exp=now - 60), "expired"),
            (self.token(nbf=now + 600), "not_yet_valid"),
            (self.token(key="another-key-that-is-long-enough-too"), "bad_signature"),
            (self.token(key=None, algorithm="none"), "wrong_algorithm"),
            (self.token(algorithm="HS512"), "wrong_algorithm"),
            (self.token(exp=None), "missing_claim"),
            (self.token(exp=10**30), "malformed"),
            (self.token(exp="soon"), "malformed"),
            (self.token(sub=None), "missing_claim"),
            (self.token(channels="a"), "malformed"),
            (jwt.encode({"sub": "u", "exp": now + 60, "channels": None}, SECRET), "malformed"),
            (self.token(channels=["a..b"]), "malformed"),
            (self.token(publish=[5]), "malformed"),
            (self.token(sub="\ud800"), "malformed"), (self.token(jti="x\udfff"), "malformed"),
            ("", "malformed"), ("nonsense", "malformed"), ("a.b.c", "malformed"),
            ("x" * 9000, "malformed"), ("é.b.c", "malformed"),
        ):  # fmt: skip
            self.assertEqual(self.refused(token), cause, token[:60])

    def test_many_channels(self):
        """The cost of a token grows with its patterns, not with their square."""
        steps = {}
        for many in (80, 320):
            token = self.token(channels=[f"{n}.*.{n}" for n in range(many)])
            steps[many] = _lines_of(lambda token=token: self.verifier.verify(token))
        self.assertLess(steps[320], 6 * steps[80])

    def test_public_keys(self):
        """A public key verifies its own kind only: it is never taken for an HMAC secret."""
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        key = load_public_key(pem.decode())
        verifier = TokenVerifier(public_keys={"": key}, algorithms=["RS256", "HS256"])
        self.assertEqual(verifier.verify(self.token(private, "RS256")).user_id, "u")
        forged = _hs256_with(pem)
        self.assertEqual(self.refused(forged, verifier), "wrong_algorithm")
        only_kid = TokenVerifier(public_keys={"k1": key}, algorithms=["RS256"])
        good = self.token(private, "RS256", headers={"kid": "k1"})
        self.assertEqual(only_kid.verify(good).user_id, "u")
        for headers in ({"kid": "k2"}, None):
            token = self.token(private, "RS256", headers=headers)
            self.assertEqual(self.refused(token, only_kid), "unknown_key")
        self.assertRaises(ValueError, load_public_key, "nonsense")

    def test_audience_and_issuer(self):
        """Checked when configured, ignored when not."""
        strict = TokenVerifier(secret=SECRET, audience="odin", issuer="me")
        self.assertEqual(strict.verify(self.token(aud="odin", iss="me")).user_id, "u")
        self.assertEqual(self.refused(self.token(aud="x", iss="me"), strict), "wrong_audience")
        self.assertEqual(self.refused(self.token(aud="odin", iss="x"), strict), "wrong_audience")
        self.assertEqual(self.verifier.verify(self.token(aud="any")).user_id, "u")

    def test_issue(self):
        """An issued token verifies to the identity it was made for."""
        wanted = Identity(user_id="u", username="n", role="r", channels=("a",), publish=("b",))
        token, expires_at = issue(wanted, SECRET, 60)
        got = self.verifier.verify(token)
        self.assertEqual((got.channels, got.publish, got.expires_at), (("a",), ("b",), expires_at))


def _lines_of(call):
    """How many lines of Odin's own code a call runs."""
    count = 0

    def trace(frame, event, _argument):
        nonlocal count
        if "/odin/" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def _hs256_with(pem):
    """A token signed by HMAC with a public key's text, which PyJWT itself refuses to make."""
    import base64
    import hashlib
    import hmac
    import json

    def part(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    head = part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    body = part(json.dumps({"sub": "u", "exp": 4_000_000_000}).encode())
    signature = hmac.new(pem, head + b"." + body, hashlib.sha256).digest()
    return b".".join((head, body, part(signature))).decode()
