"""/: a small page that connects and shows the feed."""

from importlib.resources import files
from typing import Final

from twisted.web.server import Request

from odin.web.resources import JsonResource

_POLICY: Final = (
    b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    b"connect-src 'self' ws: wss:; img-src data:; base-uri 'none'; frame-ancestors 'none'"
)


class Dashboard(JsonResource):
    """The page, whole and self-contained, read once."""

    def __init__(self) -> None:
        super().__init__()
        self._page = (files("odin.web") / "static" / "index.html").read_bytes()

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"Content-Type", b"text/html; charset=utf-8")
        request.setHeader(b"Content-Security-Policy", _POLICY)
        return self._page
