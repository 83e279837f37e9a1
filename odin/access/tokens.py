"""JSON Web Tokens in, Identity out: the only importer of jwt.

Follows RFC 8725 (JWT best practices): the algorithms are the configured ones and each works with
its own kind of key only, so that a public key can never be taken for an HMAC secret; `exp` is
required; every refusal looks the same from outside.
"""

import json
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

import jwt
import msgspec

from odin.access.revocations import Revocations
from odin.errors import Unauthorized
from odin.wire.subjects import is_pattern, reduced

HMAC: Final = frozenset(("HS256", "HS384", "HS512"))
ASYMMETRIC: Final = frozenset(
    ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
)
_LATEST_EXP: Final = 253_402_300_799  # 9999-12-31; beyond it `exp` is no date
MAX_TOKEN_BYTES: Final = 8192
_LEEWAY_S: Final = 5  # clocks of two machines


class Identity(msgspec.Struct, frozen=True):
    """Who a client is and what it may do.

    `channels`: the patterns it may see, None for all. `publish`: those it may publish to.
    `expires_at`: seconds since 1970, None for an anonymous client.
    """

    user_id: str
    username: str = ""
    role: str = ""
    channels: tuple[str, ...] | None = None
    publish: tuple[str, ...] = ()
    expires_at: int | None = None
    token_id: str = ""

    def check(self, now: float) -> None:
        """Raises: Unauthorized, if the token has ended by `now` (seconds since 1970)."""
        if self.expires_at is not None and now >= self.expires_at + _LEEWAY_S:
            raise Unauthorized("expired")


ANONYMOUS: Final = Identity(user_id="")


class TokenVerifier:
    """Checks tokens against the configured keys.

    `public_keys` holds keys by their `kid`; one with the empty kid is for tokens whose kid is not
    known, and for those without. `fetched_keys` are the same, of a JWKS document: the only one of
    it is for tokens without kid, too. They are replaced when the document changes, and those that
    are configured stay beside them.
    """

    def __init__(
        self,
        *,
        secret: str = "",
        public_keys: Mapping[str, Any] | None = None,
        algorithms: Iterable[str] = ("HS256",),
        audience: str = "",
        issuer: str = "",
    ) -> None:
        self._secret = secret
        self._public_keys: Mapping[str, Any] = public_keys or {}
        self.fetched_keys: Mapping[str, Any] = {}
        self._algorithms = frozenset(algorithms)
        self._audience = audience or None
        self._issuer = issuer or None
        self.revocations = Revocations()

    def revoke(self, user_id: str | None, token_id: str | None, now: float) -> None:
        """Refuse a token by its `jti`, or all that a user has by now; see Revocations."""
        self.revocations.add(user_id, token_id, now)

    def verify(self, token: str) -> Identity:
        """The identity that `token` proves, by the wall clock of now.

        Raises: Unauthorized, whose `cause` is one of a fixed set of words.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise Unauthorized("malformed")
        try:
            header = jwt.get_unverified_header(token)
            algorithm = str(header.get("alg"))
            claims = self._claims(token, algorithm, self._keys(algorithm, header.get("kid")))
        except jwt.ExpiredSignatureError:
            raise Unauthorized("expired") from None
        except jwt.ImmatureSignatureError:
            raise Unauthorized("not_yet_valid") from None
        except jwt.InvalidSignatureError:
            raise Unauthorized("bad_signature") from None
        except jwt.MissingRequiredClaimError:
            raise Unauthorized("missing_claim") from None
        except (jwt.InvalidAudienceError, jwt.InvalidIssuerError):
            raise Unauthorized("wrong_audience") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            raise Unauthorized("malformed") from None
        identity = _identity(claims)
        issued_at = claims.get("iat")
        if not isinstance(issued_at, int | float):
            issued_at = None
        if self.revocations.refuse(identity.user_id, identity.token_id, issued_at):
            raise Unauthorized("revoked")
        return identity

    def _keys(self, algorithm: str, kid: Any) -> list[Any]:
        """The keys that may have signed a token, one or two. Raises: Unauthorized."""
        if algorithm not in self._algorithms:
            raise Unauthorized("wrong_algorithm")
        if algorithm in HMAC:
            if not self._secret:
                raise Unauthorized("wrong_algorithm")
            return [self._secret]
        name, fetched, configured = (
            kid if isinstance(kid, str) else "",
            self.fetched_keys,
            self._public_keys,
        )
        found = [keys.get(name) or keys.get("") for keys in (fetched, configured)]
        if not name and len(fetched) == 1:
            found[0] = next(iter(fetched.values()))
        keys = [each for each in found if each is not None]
        if not keys:
            raise Unauthorized("unknown_key")
        return keys

    def _claims(self, token: str, algorithm: str, keys: list[Any]) -> dict[str, Any]:
        """What a token says, if one of the keys has signed it. Raises: jwt.PyJWTError, .."""
        *others, last = keys
        for key in others:
            with suppress(jwt.InvalidSignatureError, jwt.InvalidKeyError, TypeError):
                return self._decoded(token, algorithm, key)
        return self._decoded(token, algorithm, last)

    def _decoded(self, token: str, algorithm: str, key: Any) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=self._audience,
            issuer=self._issuer,
            leeway=_LEEWAY_S,
            options={"require": ["exp"], "verify_aud": self._audience is not None},
        )


def _identity(claims: Mapping[str, Any]) -> Identity:
    expires_at = claims["exp"]
    user_id = claims.get("sub", claims.get("userId"))
    if not isinstance(expires_at, int | float) or not 0 < expires_at <= _LATEST_EXP:
        raise Unauthorized("malformed")
    if not isinstance(user_id, str) or not user_id:
        raise Unauthorized("missing_claim")
    identity = Identity(
        user_id=user_id,
        username=_text(claims.get("username")),
        role=_text(claims.get("role")),
        channels=_patterns(claims["channels"]) if "channels" in claims else None,
        publish=_patterns(claims.get("publish") or ()),
        expires_at=int(expires_at),
        token_id=_text(claims.get("jti")),
    )
    try:
        msgspec.msgpack.encode(identity)
    except UnicodeEncodeError:  # JSON can spell half a character; no text has one
        raise Unauthorized("malformed") from None
    return identity


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _patterns(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(
        isinstance(each, str) and is_pattern(each) for each in value
    ):
        raise Unauthorized("malformed")
    return tuple(reduced(value))


def can_sign(secret: str) -> bool:
    """Whether tokens can be signed with `secret`: PyJWT takes none that looks like a public key."""
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(secret)
    except (jwt.InvalidKeyError, UnicodeError):
        return False
    return True


def load_public_key(pem: str) -> Any:
    """The public key in a PEM text, made once so that no handshake parses it.

    Raises: ValueError.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    return load_pem_public_key(pem.encode())


def keys_of(document: bytes) -> dict[str, Any]:
    """The public keys for signatures in a JWKS document (RFC 7517) by their `kid`.

    Keys of another kind, and those that cannot be used, are left out, and so are all but the first
    of those without a kid, which has the empty one.

    Raises: ValueError, if there are none.
    """
    try:
        entries = json.loads(document)["keys"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError("it is none") from None
    keys: dict[str, Any] = {}
    for entry in entries if isinstance(entries, list) else ():
        with suppress(jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
            key = jwt.PyJWK.from_dict(entry)
            if key.algorithm_name in ASYMMETRIC and key.public_key_use in ("sig", None):
                kid = key.key_id
                keys.setdefault(kid if isinstance(kid, str) else "", key.key)
    if not keys:
        raise ValueError("it has no usable keys")
    return keys


def issue(identity: Identity, secret: str, lifetime_s: int) -> tuple[str, int]:
    """(token, expires at) for `identity`, signed HS256; for tests and development."""
    now = int(time.time())
    claims: dict[str, Any] = {
        "sub": identity.user_id,
        "userId": identity.user_id,
        "username": identity.username,
        "role": identity.role,
        "iat": now,
        "exp": now + lifetime_s,
    }
    if identity.channels is not None:
        claims["channels"] = list(identity.channels)
    if identity.publish:
        claims["publish"] = list(identity.publish)
    return jwt.encode(claims, secret, algorithm="HS256"), now + lifetime_s
