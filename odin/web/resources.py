"""What all HTTP resources share: JSON bodies, JSON errors, safe headers."""

from http import HTTPStatus
from typing import Any, Final

from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from odin.wire.messages import encode

JSON: Final = b"application/json"


class JsonResource(Resource):
    """A resource of one path, which answers with JSON.

    `render_<METHOD>` returns the body. Another method gets 405, a path below it 404; a slash at
    the end makes no difference.
    """

    def getChild(self, path: bytes, request: Request) -> Resource:
        return self if not path and not request.postpath else NotFound()

    def render(self, request: Request) -> Any:
        harden(request)
        method = request.method.decode("ascii", "replace")
        if method == "HEAD" and hasattr(self, "render_GET"):
            # without the body that Resource.render_HEAD returns: twisted.web would log the URL
            body = self.render_GET(request)
            if body == NOT_DONE_YET:
                return body
            request.setHeader(b"Content-Length", str(len(body)).encode())
            return b""
        renderer = getattr(self, f"render_{method}", None) if method != "HEAD" else None
        if renderer is None:
            allowed = [each for each in ("GET", "POST") if hasattr(self, f"render_{each}")]
            allowed += ["HEAD"] if "GET" in allowed else []
            request.setHeader(b"Allow", ", ".join(allowed).encode())
            return problem(request, 405, "method_not_allowed", f"use {' or '.join(allowed)}")
        return renderer(request)


class NotFound(JsonResource):
    """404, for every method."""

    def render(self, request: Request) -> bytes:
        harden(request)
        return problem(request, 404, "not_found", "there is nothing here")


def reply(request: Request, status: int, body: object) -> bytes:
    """A JSON body with its status."""
    request.setResponseCode(status, HTTPStatus(status).phrase.encode())
    request.setHeader(b"Content-Type", JSON)
    return encode(body) + b"\n"


def problem(request: Request, status: int, code: str, message: str) -> bytes:
    """A JSON error."""
    return reply(request, status, {"error": {"code": code, "message": message}})


def finish(request: Request, body: bytes) -> None:
    """Answer a request that had to wait (NOT_DONE_YET)."""
    if request.channel is None:  # the client went away meanwhile
        return
    harden(request)
    request.setHeader(b"Content-Length", str(len(body)).encode())
    request.write(body)
    request.finish()


def harden(request: Request) -> None:
    """Headers for every answer: nothing is cached, sniffed, or passed on (?token= above all)."""
    request.setHeader(b"Server", b"Odin")
    request.setHeader(b"Cache-Control", b"no-store")
    request.setHeader(b"X-Content-Type-Options", b"nosniff")
    request.setHeader(b"Referrer-Policy", b"no-referrer")
