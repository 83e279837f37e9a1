"""JSON Web Tokens in, Identity out: the only importer of jwt.

Follows RFC 8725 (JWT best practices): the algorithms are the configured ones and each works with
its own kind of key only, so that a public key can never be taken for an HMAC secret; `exp` is
required; every refusal looks the same from outside.
"""

import time
from collections.abc import Iterable, Mapping
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
_MAX_TOKEN_BYTES: Final = 8192
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


ANONYMOUS: Final = Identity(user_id="")


class TokenVerifier:
    """Checks tokens against the configured keys.

    `public_keys` holds keys by their `kid`; the empty kid is the one for tokens without. They can
    be replaced while running (a JWKS document that changed).
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
        self.public_keys: Mapping[str, Any] = public_keys or {}
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
        if len(token) > _MAX_TOKEN_BYTES:
            raise Unauthorized("malformed")
        try:
            header = jwt.get_unverified_header(token)
            algorithm = str(header.get("alg"))
            key = self._key(algorithm, header.get("kid"))
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=_LEEWAY_S,
                options={"require": ["exp"], "verify_aud": self._audience is not None},
            )
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

    def _key(self, algorithm: str, kid: Any) -> Any:
        """The key for a token, by its algorithm's kind. Raises: Unauthorized."""
        if algorithm not in self._algorithms:
            raise Unauthorized("wrong_algorithm")
        if algorithm in HMAC:
            if not self._secret:
                raise Unauthorized("wrong_algorithm")
            return self._secret
        keys = self.public_keys
        key = keys.get(kid if isinstance(kid, str) else "") or keys.get("")
        if key is None:
            raise Unauthorized("unknown_key")
        return key


def _identity(claims: Mapping[str, Any]) -> Identity:
    expires_at = claims["exp"]
    user_id = claims.get("sub", claims.get("userId"))
    if not isinstance(expires_at, int | float) or not 0 < expires_at <= _LATEST_EXP:
        raise Unauthorized("malformed")
    if not isinstance(user_id, str) or not user_id:
        raise Unauthorized("missing_claim")
    channels = claims.get("channels")
    identity = Identity(
        user_id=user_id,
        username=_text(claims.get("username")),
        role=_text(claims.get("role")),
        channels=None if channels is None else _patterns(channels),
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


def fetch_public_keys(url: str, timeout_s: float = 10) -> dict[str, Any]:
    """The signing keys of a JWKS document by `kid`. Blocks: call it in a thread.

    Raises: jwt.PyJWTError.
    """
    client = jwt.PyJWKClient(url, cache_jwk_set=False, timeout=timeout_s)
    return {str(each.key_id or ""): each.key for each in client.get_signing_keys()}


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
