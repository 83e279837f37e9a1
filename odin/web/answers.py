"""Who answers /health, /stats and /metrics: this process for itself, or somebody for all."""

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.server import NOT_DONE_YET

from odin.web.resources import JSON, JsonResource, finish, problem

Answer = tuple[int, bytes]  # HTTP status, body


class Answers(Protocol):
    """Where the answers come from."""

    def answer(self, page: str) -> Deferred[Answer]:
        """`page`: health, stats or metrics."""


class RecentAnswers:
    """The answers of others, each asked for at most once in `every_s`, however many want it.

    Who asks while one is being made waits for that one. One that failed is not kept, nor one from
    before `state` changed: a load balancer is never told of a readiness that is gone.
    """

    def __init__(
        self,
        answers: Answers,
        every_s: float,
        clock: Callable[[], float],
        state: Callable[[], object],
    ) -> None:
        self._answers = answers
        self._every_s = every_s
        self._clock = clock
        self._state = state
        self._made: dict[str, tuple[float, object, Answer]] = {}  # when asked for, in which state
        self._waiting: dict[str, list[Deferred[Answer]]] = {}

    def answer(self, page: str) -> Deferred[Answer]:
        now, state = self._clock(), self._state()
        made = self._made.get(page)
        if made is not None and now - made[0] < self._every_s and made[1] == state:
            return succeed(made[2])
        asking: Deferred[Answer] = Deferred()
        waiting = self._waiting.get(page)
        if waiting is not None:
            waiting.append(asking)
            return asking
        self._waiting[page] = [asking]

        def came(answer: Answer) -> None:
            self._made[page] = now, state, answer
            for each in self._waiting.pop(page):
                each.callback(answer)

        def failed(failure: Failure) -> None:
            for each in self._waiting.pop(page):
                each.errback(failure)

        try:
            self._answers.answer(page).addCallbacks(came, failed)
        except Exception:
            failed(Failure())
        return asking


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

        self._answers.answer(self._page).addCallbacks(show, failed)
        return NOT_DONE_YET
