"""/stats: what was counted since the start."""

from twisted.web.server import Request

from odin.status import Status
from odin.web.resources import JsonResource, reply


class Stats(JsonResource):
    """Connections, hub, broker, messages, memory and versions as JSON."""

    def __init__(self, status: Status) -> None:
        super().__init__()
        self._status = status

    def render_GET(self, request: Request) -> bytes:
        return reply(request, 200, self._status.stats())
