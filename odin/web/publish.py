"""POST /publish?subject=..: a JSON body becomes a message on the bus."""

import time
from collections.abc import Callable
from typing import Any

from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request

from odin.access.origins import OriginPolicy
from odin.access.tokens import TokenVerifier
from odin.bus.bridge import Bridge
from odin.bus.interfaces import Receipt
from odin.errors import (
    BadChannel,
    Duplicate,
    Forbidden,
    LimitExceeded,
    NotJSON,
    RequestError,
    Unauthorized,
    Unavailable,
)
from odin.web.operate import is_loopback
from odin.web.resources import JsonResource, finish, problem, reply
from odin.wire.subjects import permitted

_STATUS: dict[type[RequestError], int] = {
    BadChannel: 400,
    NotJSON: 400,
    Unauthorized: 401,
    Forbidden: 403,
    LimitExceeded: 413,
    Unavailable: 503,
}


class PublishPage(JsonResource):
    """202 with a receipt once the bus has the message.

    Needs a token whose `publish` permits the subject; with `open_to_loopback` (--demo) a request
    from this machine needs none.
    """

    def __init__(
        self,
        bridge: Bridge,
        verifier: TokenVerifier,
        origins: OriginPolicy,
        *,
        open_to_loopback: bool,
        auth_failed: Callable[[str], None],
    ) -> None:
        super().__init__()
        self._bridge = bridge
        self._verifier = verifier
        self._origins = origins
        self._open_to_loopback = open_to_loopback
        self._auth_failed = auth_failed

    def render_POST(self, request: Request) -> Any:
        subject = ((request.args or {}).get(b"subject") or [b""])[0].decode("utf-8", "replace")
        receipt = {"status": "accepted", "subject": subject, "timestamp": int(time.time() * 1000)}
        try:
            self._check(request, subject)
            payload = request.content.read() if request.content is not None else b""
            done = self._bridge.publish(subject, payload)
        except Duplicate:  # as if it came now: a publisher may safely try again
            return reply(request, 202, receipt | {"duplicate": True})
        except RequestError as error:
            if isinstance(error, Unauthorized):
                self._auth_failed(error.cause)
            return _refused(request, error)
        done.addCallbacks(
            lambda place: finish(request, reply(request, 202, receipt | _position(place))),
            lambda failure: finish(request, _failed(request, failure)),
        )
        return NOT_DONE_YET

    def _check(self, request: Request, subject: str) -> None:
        """Raises: Unauthorized, Forbidden."""
        headers = request.requestHeaders
        proxied = headers.hasHeader("x-forwarded-for") or headers.hasHeader("forwarded")
        origin, host = _header(request, b"origin"), _header(request, b"host") or ""
        if not self._origins.allows(origin, host, proxied=proxied):
            raise Forbidden("this Origin may not publish")
        scheme, _, token = (_header(request, b"authorization") or "").partition(" ")
        if scheme.lower() != "bearer":
            token = ((request.args or {}).get(b"token") or [b""])[0].decode("ascii", "replace")
        if not token:
            peer = request.transport.getPeer() if request.transport is not None else None
            here = is_loopback(getattr(peer, "host", ""))
            if self._open_to_loopback and here and not proxied:
                return
            raise Unauthorized("missing")
        identity = self._verifier.verify(token.strip())
        if not permitted(identity.publish, subject):
            raise Forbidden("the token does not permit publishing here")


def _header(request: Request, name: bytes) -> str | None:
    """The first value of a header; any bytes, as RFC 9110 5.5 allows."""
    values = request.requestHeaders.getRawHeaders(name)
    return values[0].decode("latin-1") if values else None


def _position(place: Receipt | None) -> dict[str, Any]:
    return {} if place is None else {"offset": place.offset, "epoch": place.epoch}


def _refused(request: Request, error: RequestError) -> bytes:
    if isinstance(error, Unauthorized):
        request.setHeader(b"WWW-Authenticate", b"Bearer")
    return problem(request, _STATUS.get(type(error), 500), error.code, str(error))


def _failed(request: Request, failure: Failure) -> bytes:
    if isinstance(failure.value, RequestError):
        return _refused(request, failure.value)
    return problem(request, 500, "internal", "the server failed")
