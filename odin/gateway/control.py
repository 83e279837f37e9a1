"""What operators tell all nodes by NATS: `odin.control.disconnect`.

    {"userId": "alice"}      every session of this user ends, and the tokens it has now are refused
    {"tokenId": "7f3a"}      the same for the token with this `jti`

Only the broker's permissions guard these subjects: clients cannot publish to them through Odin.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final, Protocol

import msgspec
from twisted.logger import Logger

from odin.access.tokens import Identity
from odin.wire.codes import CloseCode, close_reason

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Disconnect(msgspec.Struct, frozen=True):
    """Whom to disconnect."""

    user_id: Name | None = msgspec.field(name="userId", default=None)
    token_id: Name | None = msgspec.field(name="tokenId", default=None)

    def means(self, identity: Identity) -> bool:
        return (self.user_id is not None and identity.user_id == self.user_id) or (
            self.token_id is not None and identity.token_id == self.token_id
        )


REVOKED: Final = close_reason("revoked", "do not come back with this token")
_REMEMBERED: Final = 10_000
_decode: Final = msgspec.json.Decoder(Disconnect).decode


class Revoker(Protocol):
    """What keeps revoked tokens out."""

    def revoke(self, user_id: str | None, token_id: str | None, now: float) -> None: ...


class Sessions(Protocol):
    """All sessions, by group."""

    groups: Any


class Control:
    """Does what a control message says. Called with (what, payload)."""

    _log = Logger()

    def __init__(
        self,
        hub: Sessions,
        verifier: Revoker,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._hub = hub
        self._verifier = verifier
        self._wall = wall
        self._monotonic = monotonic
        self._ended: dict[tuple[str, str], float] = {}  # ("user" or "token", which): when

    def ended_since(self, identity: Identity, opened_at: float) -> bool:
        """Whether an order meant a session that was opened then, and maybe did not meet it: in a
        hand-over it was between two processes."""
        ended = self._ended
        at = max(
            ended.get(("user", identity.user_id), -1.0),
            ended.get(("token", identity.token_id), -1.0),
        )
        return at >= opened_at

    def __call__(self, what: str, payload: bytes) -> None:
        if what != "disconnect":
            self._log.warn("unknown control message {what!r}", what=what[:40])
            return
        try:
            wanted = _decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._log.warn("a control message to disconnect is not understood")
            return
        if wanted.user_id is None and wanted.token_id is None:
            self._log.warn("a control message to disconnect names nobody")
            return
        self._remember(wanted)
        self._verifier.revoke(wanted.user_id, wanted.token_id, self._wall())
        count = 0
        for group in self._hub.groups:
            for session in group:
                if wanted.means(session.identity):
                    session.close(CloseCode.FORBIDDEN, REVOKED)
                    count += 1
        self._log.info("revoked: {count} sessions ended", count=count)

    def _remember(self, order: Disconnect) -> None:
        now, ended = self._monotonic(), self._ended
        for kind, name in (("user", order.user_id), ("token", order.token_id)):
            if name is not None:
                ended[kind, name] = now
                if len(ended) > _REMEMBERED:
                    del ended[next(iter(ended))]
