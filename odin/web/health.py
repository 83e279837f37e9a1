"""/livez, /readyz: for the process's keeper, for the load balancer."""

from typing import Protocol

from twisted.web.http import Request

from odin.web.resources import JsonResource, reply


class Ready(Protocol):
    """Who knows whether all is ready."""

    def not_ready(self) -> str | None: ...


class Livez(JsonResource):
    """Always 200 while the process answers at all."""

    def render_GET(self, request: Request) -> bytes:
        return reply(request, 200, {"status": "alive"})


class Readyz(JsonResource):
    """200 if new clients should be sent here, else 503 with the reason."""

    def __init__(self, status: "Ready") -> None:
        super().__init__()
        self._status = status

    def render_GET(self, request: Request) -> bytes:
        reason = self._status.not_ready()
        if reason is None:
            return reply(request, 200, {"status": "ready"})
        return reply(request, 503, {"status": "not ready", "reason": reason})
