"""Keeps the verifier's keys as a JWKS document has them (RFC 7517)."""

from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThread
from twisted.logger import Logger
from twisted.python.failure import Failure

from odin.access.tokens import TokenVerifier, fetch_public_keys

_EVERY_S: Final = 300  # also the longest that a new key stays unknown; no token causes a fetch


class KeyKeeper(Service):
    """Fetches the document at the start and every five minutes, in a thread.

    A fetch that fails leaves the keys as they were.
    """

    _log = Logger()

    def __init__(self, verifier: TokenVerifier, url: str, reactor: Any) -> None:
        self._verifier = verifier
        self._url = url
        self._loop = LoopingCall(self._fetch)
        self._loop.clock = reactor

    def startService(self) -> None:
        super().startService()
        self._loop.start(_EVERY_S)

    def stopService(self) -> None:
        super().stopService()
        if self._loop.running:
            self._loop.stop()

    def _fetch(self) -> Any:
        return deferToThread(fetch_public_keys, self._url).addCallbacks(self._took, self._failed)

    def _took(self, keys: dict[str, Any]) -> None:
        if keys != self._verifier.public_keys:
            self._log.info("{n} keys from the JWKS document", n=len(keys))
        self._verifier.public_keys = keys

    def _failed(self, failure: Failure) -> None:
        self._log.warn("the JWKS document: {error}", error=failure.value)
