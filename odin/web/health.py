"""/health, /livez, /readyz: for people, for the process's keeper, for the load balancer."""

from twisted.web.server import Request

from odin.status import Status
from odin.web.resources import JsonResource, reply


class Health(JsonResource):
    """The whole picture; 503 when unhealthy. Degraded (no broker) still serves: 200."""

    def __init__(self, status: Status) -> None:
        super().__init__()
        self._status = status

    def render_GET(self, request: Request) -> bytes:
        body = self._status.health()
        return reply(request, 503 if body["status"] == "unhealthy" else 200, body)


class Livez(JsonResource):
    """Always 200 while the process answers at all."""

    def render_GET(self, request: Request) -> bytes:
        return reply(request, 200, {"status": "alive"})


class Readyz(JsonResource):
    """200 if new clients should be sent here, else 503 with the reason."""

    def __init__(self, status: Status) -> None:
        super().__init__()
        self._status = status

    def render_GET(self, request: Request) -> bytes:
        reason = self._status.not_ready()
        if reason is None:
            return reply(request, 200, {"status": "ready"})
        return reply(request, 503, {"status": "not ready", "reason": reason})
