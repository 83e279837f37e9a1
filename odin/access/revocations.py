"""Tokens that are valid by themselves, and refused all the same."""

from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

T = TypeVar("T")
_MOST: Final = 10_000  # of each kind; the oldest are forgotten first


class Revocations:
    """Revoked tokens by their `jti`, and users by the moment until which their tokens are revoked.

    Kept in memory: a node that starts later knows nothing of them.
    """

    def __init__(self) -> None:
        self._tokens: dict[str, None] = {}
        self._users: dict[str, float] = {}

    def add(self, user_id: str | None, token_id: str | None, now: float) -> None:
        """Refuse a token, and all tokens that a user has at `now` (seconds since 1970)."""
        if token_id is not None:
            _put(self._tokens, token_id, None)
        if user_id is not None:
            _put(self._users, user_id, now)

    def contents(self) -> tuple[list[str], dict[str, float]]:
        """(tokens, users): what `refill` takes, in another process."""
        return list(self._tokens), dict(self._users)

    def refill(self, tokens: Iterable[str], users: Mapping[str, float]) -> None:
        """Refuse what another process refused."""
        for token_id in tokens:
            _put(self._tokens, token_id, None)
        for user_id, revoked_at in users.items():
            _put(self._users, user_id, revoked_at)

    def refuse(self, user_id: str, token_id: str, issued_at: float | None) -> bool:
        """Whether a token is revoked. One without `iat` counts as old."""
        if token_id in self._tokens:
            return True
        revoked_at = self._users.get(user_id)
        return revoked_at is not None and (issued_at is None or issued_at <= revoked_at)


def _put(kept: dict[str, T], key: str, value: T) -> None:
    kept.pop(key, None)
    kept[key] = value
    if len(kept) > _MOST:
        del kept[next(iter(kept))]
