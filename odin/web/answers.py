"""Who answers /health, /stats and /metrics: this process for itself, or somebody for all."""

from typing import TYPE_CHECKING, Protocol

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request

from odin.web.resources import JSON, JsonResource, finish, problem

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

Answer = tuple[int, bytes]  # HTTP status, body


class Answers(Protocol):
    """Where the answers come from."""

    def answer(self, page: str) -> "Deferred[Answer]":
        """`page`: health, stats or metrics."""


class AnswerPage(JsonResource):
    """One of the pages."""

    _log = Logger()

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

        def failed(failure: Failure) -> None:
            self._log.failure("{page} failed", failure, page=self._page)
            finish(request, problem(request, 500, "internal", "the server failed"))

        self._answers.answer(self._page).addCallback(show).addErrback(failed)
        return NOT_DONE_YET
