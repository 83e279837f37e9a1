"""Tokens: an identity, or Unauthorized; and none without the key."""

import base64
import hashlib
import hmac
import json
import time

from odin.access.tokens import Identity, TokenVerifier
from odin.errors import Unauthorized
from odin.wire.subjects import is_pattern
from tests.connections import SECRET
from tests.fuzz.source import Source

WORDS = [
    b'{"alg":"HS256","typ":"JWT"}', b'{"alg":"none"}', b'"alg":"RS256"', b'"kid":"k"', b'"crit":["x"]',
    b'"exp":9999999999', b'"exp":1', b'"sub":"u"', b'"userId":"u"', b'"channels":["a.>"]', b'"b64":false',
    b'"publish":["a"]', b'"iat":1', b'"nbf":9999999999', b'"jti":"j"', b'"aud":"x"', b'"iss":1', b"null",
    b"1e400", b"NaN", b'"\\ud800"', b".", b"=", b"-1", b"true", b"[]", b"{}",
]  # fmt: skip


def _part(value):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _signed(header, claims):
    text = _part(header) + b"." + _part(claims)
    return text + b"." + _part(_mac(text))


def _mac(text):
    return hmac.digest(SECRET.encode(), text, hashlib.sha256)


_HEADER = b'{"alg":"HS256","typ":"JWT"}'
_CLAIMS = b'{"sub":"u","exp":9999999999,"channels":["a.>"],"publish":["a"],"jti":"j","iat":1}'
SEEDS = [
    b"\x00" + _signed(_HEADER, _CLAIMS),
    b"\x00" + _part({"alg": "none"}) + b"." + _part({"sub": "u", "exp": 9_999_999_999}) + b".",
    b"\x01" + _CLAIMS,
    b'\x01{"userId":"u","exp":9999999999.5,"nbf":1,"aud":["x"],"iss":"i","username":1}',
    b"\x02" + _HEADER + b"\n" + _CLAIMS,
    b'\x02{"alg":"HS256","kid":["x"],"crit":["b64"],"b64":false}\n' + _CLAIMS,
]
_CAUSES = frozenset(
    (
        "expired",
        "not_yet_valid",
        "bad_signature",
        "missing_claim",
        "wrong_audience",
        "malformed",
        "revoked",
        "wrong_algorithm",
        "unknown_key",
    )
)
_VERIFIER = TokenVerifier(secret=SECRET)
_PUBLIC = TokenVerifier(public_keys={}, algorithms=("RS256", "ES256", "EdDSA"))


def check(data):
    """As it came, with claims that we sign, or with a header that we sign, too."""
    source = Source(data)
    mode = source.byte() % 3
    rest = source.rest()
    if mode == 0:
        token = rest
    elif mode == 1:
        token = _signed(_HEADER, rest)
    else:
        header, _, claims = rest.partition(b"\n")
        token = _signed(header, claims)
    text = token.decode("latin-1")
    identity = _verified(_VERIFIER, text)
    assert _verified(_PUBLIC, text) is None, "accepted without any key"
    if identity is None:
        return
    signed, _, signature = token.rpartition(b".")
    given = base64.urlsafe_b64decode(signature + b"=" * (-len(signature) % 4))
    assert given == _mac(signed), "accepted without the secret"
    assert isinstance(identity.user_id, str) and identity.user_id
    assert isinstance(identity.expires_at, int) and identity.expires_at > time.time() - 10
    for patterns in (identity.channels or (), identity.publish):
        assert isinstance(patterns, tuple) and all(map(is_pattern, patterns))
    for each in (identity.username, identity.role, identity.token_id):
        assert isinstance(each, str)


def _verified(verifier, token):
    try:
        identity = verifier.verify(token)
    except Unauthorized as error:
        assert error.cause in _CAUSES, error.cause
        return None
    assert isinstance(identity, Identity)
    return identity
