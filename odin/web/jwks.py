"""Keeps the verifier's keys as a JWKS document has them (RFC 7517)."""

from typing import TYPE_CHECKING, Any, Final

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from odin.access.tokens import TokenVerifier, keys_of
from odin.web.fetching import Fetch

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

_TIMEOUT_S: Final = 10.0  # for a whole fetch
_MOST_BYTES: Final = 1 << 20
_EVERY_S: Final = 300  # also the longest that a new key stays unknown; no token causes a fetch


class KeyKeeper(Service):
    """Fetches the document at the start and every five minutes.

    A fetch that fails leaves the keys as they were.
    """

    _log = Logger()

    def __init__(self, verifier: TokenVerifier, url: str, reactor: Any) -> None:
        self._verifier = verifier
        self._url = url
        self._reactor = reactor
        self._fetch: Fetch[dict[str, Any]] | None = None
        self._loop = LoopingCall(self._begin)
        self._loop.clock = reactor

    def startService(self) -> None:
        super().startService()
        self._loop.start(_EVERY_S)

    def stopService(self) -> None:
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        if self._fetch is not None:
            self._fetch.end()

    def _begin(self) -> "Deferred[None]":
        self._fetch = Fetch(
            self._url, keys_of, self._reactor, timeout_s=_TIMEOUT_S, most_bytes=_MOST_BYTES
        )
        return self._fetch.answer.addCallbacks(self._took, self._failed)

    def _took(self, keys: dict[str, Any]) -> None:
        self._fetch = None
        if keys != self._verifier.fetched_keys:
            self._log.info("{n} keys from the JWKS document", n=len(keys))
        self._verifier.fetched_keys = keys

    def _failed(self, failure: Failure) -> None:
        self._fetch = None
        if self.running:
            self._log.warn("the JWKS document: {error}", error=failure.value)
