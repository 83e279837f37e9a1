"""/auth/token: a signed token for tests and development. Not there in production."""

from typing import Any

from twisted.web.server import Request

from odin.access.tokens import MAX_TOKEN_BYTES, Identity, issue
from odin.web.resources import JsonResource, problem, reply
from odin.wire.subjects import is_pattern


class TokenPage(JsonResource):
    """A token for whoever asks, with the permissions it asks for.

    ?userId= ?username= ?role= ?channels=a,b (what it may see, default all) ?publish=a,b (what it
    may publish to, default nothing). 400, if the token would be too long to be used.
    """

    def __init__(self, secret: str, lifetime_s: int) -> None:
        super().__init__()
        self._secret = secret
        self._lifetime_s = lifetime_s

    def render_GET(self, request: Request) -> bytes:
        patterns: dict[str, tuple[str, ...] | None] = {}
        for name in ("channels", "publish"):
            value = _argument(request, name)
            patterns[name] = None if value is None else tuple(p for p in value.split(",") if p)
            if not all(map(is_pattern, patterns[name] or ())):
                return problem(request, 400, "bad_channel", f"{name}: not a subject or pattern")
        identity = Identity(
            user_id=_argument(request, "userId") or "test-user",
            username=_argument(request, "username") or "test",
            role=_argument(request, "role") or "user",
            channels=patterns["channels"],
            publish=patterns["publish"] or (),
        )
        token, expires_at = issue(identity, self._secret, self._lifetime_s)
        if len(token) > MAX_TOKEN_BYTES:
            return problem(
                request, 400, "limit_exceeded", f"the token is above {MAX_TOKEN_BYTES} bytes"
            )
        body: dict[str, Any] = {
            "token": token,
            "tokenType": "Bearer",
            "expiresIn": self._lifetime_s,
            "expiresAt": expires_at,
            "userId": identity.user_id,
        }
        return reply(request, 200, body)


def _argument(request: Request, name: str) -> str | None:
    values = (request.args or {}).get(name.encode())
    return values[0].decode("utf-8", "replace") if values else None
