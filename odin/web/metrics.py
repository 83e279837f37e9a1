"""/metrics: the Prometheus text format.

Not prometheus_client.twisted: importing that installs a reactor.
"""

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from twisted.web.server import Request

from odin.web.resources import JsonResource


class MetricsPage(JsonResource):
    """All metrics of one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._registry = registry

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"Content-Type", CONTENT_TYPE_LATEST.encode())
        return generate_latest(self._registry)
