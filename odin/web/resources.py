"""What all HTTP resources share: JSON bodies, JSON errors, safe headers."""

from http import HTTPStatus
from typing import Any, Final

from twisted.web.http import Request

from odin.wire.messages import encode

JSON: Final = b"application/json"


class JsonResource:
    """A resource of one path, which answers with JSON.

    `render_<METHOD>` returns the body, or NOT_DONE_YET and calls `finish`. HEAD is answered as GET
    is, and the Request leaves the body out; another method gets 405.
    """

    def render(self, request: Request) -> Any:
        harden(request)
        method = request.method.decode()
        renderer = getattr(self, f"render_{'GET' if method == 'HEAD' else method}", None)
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
    """Answer a request, at once or when it had to wait (NOT_DONE_YET)."""
    if request.channel is None:  # the client went away meanwhile
        return
    request.setHeader(b"Content-Length", str(len(body)).encode())
    request.write(body)
    request.finish()


def harden(request: Request) -> None:
    """Headers for every answer: nothing is cached, sniffed, or passed on (?token= above all)."""
    request.setHeader(b"Server", b"Odin")
    request.setHeader(b"Cache-Control", b"no-store")
    request.setHeader(b"X-Content-Type-Options", b"nosniff")
    request.setHeader(b"Referrer-Policy", b"no-referrer")
