"""POST /drain and POST /upgrade, on the internal listener: for somebody on this machine."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.server import NOT_DONE_YET

from odin.web.resources import JsonResource, finish, problem, reply

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


def is_loopback(address: str) -> bool:
    """Whether a peer's address is of this machine."""
    return address == "::1" or address.startswith(("127.", "::ffff:127."))


class OperatorPage(JsonResource):
    """A page that only a tool on this machine may use: no browser, nothing through a proxy."""

    def render_POST(self, request: Request) -> Any:
        peer = request.transport.getPeer() if request.transport is not None else None
        headers = request.requestHeaders
        foreign = ("origin", "sec-fetch-site", "x-forwarded-for", "forwarded")
        if not is_loopback(getattr(peer, "host", "")) or any(map(headers.hasHeader, foreign)):
            return problem(request, 403, "forbidden", "only for tools on this machine")
        return self.act(request)

    def act(self, request: Request) -> Any:
        """Do it; returns what a render method does."""
        raise NotImplementedError


class DrainPage(OperatorPage):
    """202, and the server stops as it does on SIGTERM."""

    def __init__(self, reactor: Any, drain: Callable[[], object]) -> None:
        super().__init__()
        self._reactor = reactor
        self._drain = drain

    def act(self, request: Request) -> bytes:
        self._reactor.callLater(0.1, self._drain)  # the answer goes first
        return reply(request, 202, {"status": "draining"})


class UpgradePage(OperatorPage):
    """Hands all connections over to new workers: 200 when that is done, 409 with the reason."""

    def __init__(self, upgrade: "Callable[[], Deferred[dict[str, Any]]]") -> None:
        super().__init__()
        self._upgrade = upgrade

    def act(self, request: Request) -> int:
        def done(result: dict[str, Any]) -> None:
            finish(request, reply(request, 200 if result["status"] == "done" else 409, result))

        def failed(failure: Failure) -> None:
            finish(request, problem(request, 500, "internal", "the server failed"))

        self._upgrade().addCallbacks(done, failed)
        return NOT_DONE_YET
