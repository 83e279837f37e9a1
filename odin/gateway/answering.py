"""A client's requests are answered one after the other, one in a turn of the reactor.

    request -> take -> answer             nothing is under way: at once, if it is cheap
                    -> Line -> answer     in a later turn, when all before it have been carried out

A request is carried out whole before the next one begins. One that waits for the broker holds back
those behind it, and so does one that brings a replay while the client has not read the last. And
each holds them back until the next turn. What is not cheap has to wait for a turn anyhow: in each
the hub has some time for that, after the feed and whatever is cheap, however many clients ask.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from twisted.logger import Logger
from twisted.python.failure import Failure

from odin.errors import RateLimited, RequestError
from odin.gateway.line import Line
from odin.gateway.outflow import Outflow, Tally
from odin.wire.codes import CloseCode, close_reason
from odin.wire.frames import text_frame
from odin.wire.messages import AnyRequest, Error, Reply, Subscribe, encode

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


class Shared(Tally, Protocol):
    """What all clients of a server have in common here."""

    replied: int  # messages to single clients


class Answering(Outflow):
    """A client whose requests are answered in order; `answer` is for the subclass to define."""

    __slots__ = ("_context", "_line", "awaiting")

    _log = Logger()

    def __init__(self, context: Shared) -> None:
        super().__init__(context)
        self._context = context
        self._line: Line | None = None  # only while a request is under way
        self.awaiting = 0  # a line, and answers of the broker that are outstanding elsewhere

    def answer(self, request: AnyRequest) -> Reply | None:
        """Carry a request out; its reply, if that was not sent already. Raises: RequestError."""
        raise NotImplementedError

    def take(self, request: AnyRequest, *, cheap: bool, room: int) -> Reply | None:
        """Answer a request now, or when those before it have been carried out.

        `room`: bytes that those that wait may take, but for the only one. Raises: RequestError.
        """
        line = self._line
        if line is None:
            line = self._begin_line()
            self._rest(line)
            if cheap and self._may_begin(request):
                return self.answer(request)
        line.add(request, room)
        return None

    def caught_up(self, sink: Any) -> None:
        super().caught_up(sink)
        if self._line is not None:
            try:
                self._go_on()
            except Exception:
                self._broken(Failure())

    def detach(self) -> None:
        super().detach()
        self._end_line()

    def _wait_for(self, answer: "Deferred[Any]", there: Callable[[Any], None]) -> None:
        """Hold back all other requests until the broker has answered this one.

        `there` gets the answer, or a Failure; never, if the connection ends before.
        """
        line = self._line or self._begin_line()
        line.asking = True

        def answered(result: Any) -> None:
            if self._line is line:
                line.asking = False
                there(result)
                self._go_on()

        answer.addBoth(answered)
        answer.addErrback(self._broken)

    def _begin_line(self) -> Line:
        self._line = line = Line()
        self.awaiting += 1
        return line

    def _rest(self, line: Line) -> None:
        """Carry out no more in this turn."""
        line.resting = True
        self._context.hub.later(lambda: self._next_turn(line))

    def _next_turn(self, line: Line) -> None:
        if self._line is line:
            line.resting = False
            try:
                self._go_on()
            except Exception:
                self._broken(Failure())

    def _end_line(self) -> None:
        if self._line is not None:
            self._line = None
            self.awaiting -= 1

    def _go_on(self) -> None:
        """Carry out the next request, if nothing holds it back."""
        line = self._line
        if line is None or line.asking or line.resting:
            return
        head = line.head
        if head is None:
            self._end_line()
        elif self._may_begin(head):
            self._rest(line)
            self._carry_out(line.pop())

    def _carry_out(self, request: AnyRequest) -> None:
        try:
            reply = self.answer(request)
        except RequestError as error:
            self._refuse(error, request.id)
        else:
            if reply is not None:
                self._reply(reply)

    def _may_begin(self, request: AnyRequest) -> bool:
        """Whether a request brings no replay, or no other one waits for the client to read it."""
        if not isinstance(request, Subscribe):
            return True
        backlog, wanted = self._backlog, request.data
        return backlog is None or not (
            (wanted.snapshot or wanted.recover is not None) and backlog.replaying
        )

    def _reply(self, message: Reply) -> None:
        if self.outlet is not None:
            self._context.replied += 1
            self.tell(text_frame(encode(message)))

    def _refuse(self, error: RequestError, request_id: int | str | None) -> None:
        retry_after_ms = None
        if isinstance(error, RateLimited):
            retry_after_ms = max(1, round(error.retry_after_s * 1000))
        self._reply(
            Error(id=request_id, code=error.code, message=str(error), retryAfterMs=retry_after_ms)
        )

    def _failed(self, what: str, failure: Failure, request_id: int | str | None) -> None:
        error = failure.value
        if isinstance(error, RequestError):
            self._refuse(error, request_id)
        else:
            self._log.failure("{what} failed", failure, what=what)
            self._refuse(RequestError("the server failed"), request_id)

    def _broken(self, failure: Failure) -> None:
        """A defect, while a request was carried out: nobody knows how far it got."""
        self._log.failure("a request failed", failure)
        self.close(CloseCode.INTERNAL, close_reason("internal"))
