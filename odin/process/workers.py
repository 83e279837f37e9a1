"""A worker process as its supervisor sees it."""

import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from odin.process.channel import Channel, content, pair
from odin.process.lateness import Limit
from odin.reports import Family, Report

CHANNEL_VARIABLE: Final = "ODIN_CHANNEL"
_REPORT_TIMEOUT_S: Final = 1.5
_HUNG_UP_S: Final = 5.0  # for the end of a process that has closed its channel
_CHANNEL: Final = 3  # its descriptor, in the worker


class Begin(msgspec.Struct, kw_only=True):
    """What a worker is told first."""

    worker: int
    arguments: list[str]  # of `twistd odin`
    log_file: str | None
    node: str
    secret: str
    address_key: bytes
    cell: int  # of the shared seats
    successor: bool


class Ask(msgspec.Struct):
    """A page that somebody wants to see at a worker."""

    number: int
    page: str


class Answer(msgspec.Struct):
    """What it says."""

    number: int
    status: int
    body: bytes


class Keeper:
    """What is told of a worker."""

    def heard(self, worker: "Worker", kind: str, raw: msgspec.Raw) -> None:
        """A message that is no report."""
        raise NotImplementedError

    def ended(self, worker: "Worker") -> None:
        """The process is over."""
        raise NotImplementedError


class Worker(ProcessProtocol):
    """One worker process, from its start to its end. Its descriptors 0 to 2 are: nothing, our
    output, a pipe to our log."""

    _log = Logger()

    def __init__(
        self, reactor: Any, keeper: Keeper, begin: Begin, shared: int, log: int | None = None
    ) -> None:
        """`shared`, `log`: descriptors of the shared memory and of the log file."""
        self.number = begin.worker
        self.cell = begin.cell
        self.successor = begin.successor
        self.started = False
        self.ready = False
        self.listening = False
        self.running = True
        self.status = ""  # how it ended
        self.last_words = ""
        self.last_report: Report | None = None
        self.metrics: list[Family] = []  # as it told them last
        self.began_at: float = reactor.seconds()
        self.heard_at: float = self.began_at
        self.events: list[Callable[[str, Any], None]] = []
        self.over: Deferred[None] = Deferred()
        self._keeper = keeper
        self._reactor = reactor
        self._waiting: list[tuple[bool, Deferred[Report | None]]] = []
        self._stderr = b""
        ours, theirs = pair()
        self._channel = Channel(reactor, ours, self._received, self._hung_up)
        try:
            with theirs:
                self._channel.send("begin", begin, [shared] if log is None else [shared, log])
                self._process = self._spawn(theirs)
        except Exception:
            self.running = False
            self._channel.close()
            raise
        self.pid: int = self._process.pid

    def _spawn(self, channel: socket.socket) -> Any:
        with open(os.devnull, "r+b", buffering=0) as nothing:
            descriptors: Any = {0: nothing.fileno(), 1: 1, 2: "r", _CHANNEL: channel.fileno()}
            return self._reactor.spawnProcess(
                self,
                sys.executable,
                [sys.executable, "-P", "-m", "odin.worker"],
                env=os.environ | {CHANNEL_VARIABLE: str(_CHANNEL)},
                childFDs=descriptors,
            )

    def send(self, kind: str, body: object = None, descriptors: Sequence[int] = ()) -> None:
        self._channel.send(kind, body, descriptors)

    @property
    def unsent(self) -> int:
        """Bytes that it has not been told yet."""
        return self._channel.waiting if self.running else 0

    def report(self, *, metrics: bool) -> "Deferred[Report | None]":
        """How it is, with or without its metrics; None if it does not say so in time."""
        answer: Deferred[Report | None] = Deferred()
        if not (self.running and self.started):
            answer.callback(None)
            return answer
        if not any(more >= metrics for more, _ in self._waiting):
            self.send("report", metrics)
        self._waiting.append((metrics, answer))
        self._reactor.callLater(_REPORT_TIMEOUT_S, self._no_report, answer)
        return answer

    def drain(self, *, last: bool = False) -> None:
        """End in order. `last`: nobody else will accept who waits at its sockets."""
        self.send("drain", last)

    def kill(self) -> None:
        """End at once."""
        if self.running:
            self._process.signalProcess("KILL")

    def kill_after(self, seconds: float) -> None:
        """End at once, unless it has ended by then."""
        limit = Limit(self._reactor, seconds, self.kill)
        self.over.addCallback(lambda _: limit.cancel())

    # -- from the process

    def errReceived(self, data: bytes) -> None:
        *lines, self._stderr = (self._stderr + data).split(b"\n")
        for line in lines:
            self._say(line)

    def processEnded(self, reason: Failure) -> None:
        if self._stderr:
            self._say(self._stderr)
        self.running = self.listening = False
        value: Any = reason.value
        if reason.check(ProcessDone):
            self.status = "status 0"
        elif value.signal:
            self.status = f"signal {value.signal}"
        else:
            self.status = f"status {value.exitCode}"
        self._channel.doRead()  # its last report
        self._channel.close()
        for _, each in self._waiting:
            each.callback(None)
        self._waiting.clear()
        self._keeper.ended(self)
        for event in list(self.events):
            event("ended", self.status)
        self.over.callback(None)

    def _say(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").strip()
        if text:
            self.last_words = text
            self._log.error("worker {number}: {text}", number=self.number, text=text)

    # -- from the channel

    def _received(self, kind: str, raw: msgspec.Raw, descriptors: list[int]) -> None:
        for each in descriptors:
            os.close(each)
        self.heard_at = self._reactor.seconds()
        if kind == "report":
            self._reported(content(raw, Report))
            return
        if kind == "event":
            name, value = content(raw)
            for event in list(self.events):
                event(name, value)
            return
        if kind == "started":
            self.started = True
        elif kind == "ready":
            self.ready = True
        elif kind == "listening":
            self.listening = True
        self._keeper.heard(self, kind, raw)
        for event in list(self.events):
            event(kind, None)

    def _reported(self, report: Report) -> None:
        self.last_report = report
        self.metrics = report.metrics or self.metrics
        due = [each for each in self._waiting if report.metrics or not each[0]]
        self._waiting = [each for each in self._waiting if each not in due]
        for _, answer in due:
            answer.callback(report)

    def _hung_up(self) -> None:
        """It closed its end: it is about to be over, or cannot be told anything any more."""
        self.kill_after(_HUNG_UP_S)

    def _no_report(self, answer: "Deferred[Report | None]") -> None:
        if not answer.called:
            self._waiting = [each for each in self._waiting if each[1] is not answer]
            answer.callback(None)
