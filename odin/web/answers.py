"""Who answers /health, /stats and /metrics: this process for itself, or somebody for all."""

from typing import TYPE_CHECKING, Protocol

from twisted.web.server import NOT_DONE_YET, Request

from odin.web.resources import JSON, JsonResource, finish

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

Answer = tuple[int, bytes]  # HTTP status, body


class Answers(Protocol):
    """Where the answers come from."""

    def answer(self, page: str) -> "Deferred[Answer]":
        """`page`: health, stats or metrics."""


class AnswerPage(JsonResource):
    """One of the pages."""

    def __init__(self, answers: Answers, page: str, kind: bytes = JSON) -> None:
        super().__init__()
        self._answers = answers
        self._page = page
        self._kind = kind

    def render_GET(self, request: Request) -> int:
        def show(answer: Answer) -> None:
            status, body = answer
            request.setResponseCode(status)
            request.setHeader(b"Content-Type", self._kind)
            finish(request, body)

        self._answers.answer(self._page).addCallback(show)
        return NOT_DONE_YET
