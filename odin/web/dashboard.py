"""/: a small page that connects and shows the feed."""

from html import escape
from importlib.resources import files
from typing import Final

from twisted.web.http import Request

from odin.web.resources import JsonResource

_POLICY: Final = (
    b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    b"connect-src 'self' ws: wss:; img-src data:; base-uri 'none'; frame-ancestors 'none'"
)


class Dashboard(JsonResource):
    """The page, whole and self-contained, read once."""

    def __init__(self, websocket_path: str) -> None:
        super().__init__()
        page = (files("odin.web") / "static" / "index.html").read_text(encoding="utf-8")
        path = escape(websocket_path, quote=True)
        self._page = page.replace('content="/ws"', f'content="{path}"').encode()

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"Content-Type", b"text/html; charset=utf-8")
        request.setHeader(b"Content-Security-Policy", _POLICY)
        return self._page
