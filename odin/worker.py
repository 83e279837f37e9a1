"""`python -m odin.worker`: one worker process, started and told what to do by its supervisor.

from the supervisor                          to it
begin     first of all: who you are          started   it runs, and listens nowhere yet
listen    + sockets: accept from them        ready     the broker is there (successors only)
unlisten  no more from those of a number     report    how it is, when asked
report    how are you, with metrics or not   ask       a page about all workers
answer    to an `ask`                        event     how a hand-over goes on
record    a successor is about to start
forget    there will be no successor
give      + channel: hand over to it; so long for those who are not at rest
enough    stop that; who is here stays
take      + channel: take over from it
drain     let everybody go, and end; those who wait at its sockets, too, if it is the last
"""

import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, Final

import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.logger import Logger, globalLogBeginner

from odin import logs
from odin.errors import ConfigError, Unavailable
from odin.place import Place
from odin.process import signals
from odin.process.channel import Channel, ChannelBroken, Inbox, adopt, content, first_message
from odin.process.handover import Giver, Taker
from odin.process.listeners import Listening, reason_of
from odin.process.shared import SharedMemory
from odin.process.workers import CHANNEL_VARIABLE, Answer, Ask, Begin
from odin.tap import Options

if TYPE_CHECKING:
    from odin.service import OdinService

_LOOK_EVERY_S: Final = 0.05
_ASK_TIMEOUT_S: Final = 3.0
_GRACE_S: Final = 0.1


class Agent:
    """Does in this process what the supervisor says."""

    _log = Logger()

    def __init__(self, begin: Begin, sock: socket.socket, inbox: Inbox, shared: int) -> None:
        self._begin = begin
        self._sock = sock
        self._inbox = inbox
        self._shared = SharedMemory(shared)
        self._asked: dict[int, Deferred[tuple[int, bytes]]] = {}
        self._numbers = 0
        self._service: OdinService
        self._reactor: Any = None
        self._channel: Channel
        self._moves: Any = None
        self._giver: Giver | None = None
        self._taker: Taker | None = None

    @property
    def place(self) -> Place:
        begin = self._begin
        return Place(
            worker=begin.worker,
            node=f"{begin.node}-{begin.worker}",
            secret=begin.secret,
            shared=self._shared,
            cell=begin.cell,
            address_key=begin.address_key,
            ask=self.ask,
            successor=begin.successor,
        )

    def start(self, service: "OdinService", reactor: Any) -> None:
        """The server runs: tell the supervisor, and obey."""
        from odin.moves import Moves  # noqa: PLC0415 - not before the reactor is there

        self._service, self._reactor = service, reactor
        self._moves = Moves(reactor, service.parts)
        self._channel = Channel(reactor, self._sock, self._received, self._orphaned, self._inbox)
        self._channel.send("started")
        self._channel.doRead()  # what came with the first message
        if self._begin.successor:
            self._look()

    def stop(self) -> "Deferred[None]":
        """Stop the server; the last word is what this process has counted."""
        given: Deferred[None] = self._giver.stop() if self._giver is not None else succeed(None)
        return given.addCallback(lambda _: self._service.stopService()).addCallback(self._stopped)

    def _stopped(self, _result: object) -> None:
        self._report(metrics=True)
        self._channel.close()

    def _listen(self, number: int, sockets: list[socket.socket]) -> None:
        try:
            self._service.parts.gateway.listen_on(number, Listening(sockets, kept=True))
        except CannotListenError as error:  # at an endpoint
            sys.stderr.write(f"odin: {reason_of(error)}\n")
            sys.stderr.flush()
            os._exit(1)
        if number == self._begin.worker:
            self._moves.listens()
        self._channel.send("listening")

    def ask(self, page: str) -> "Deferred[tuple[int, bytes]]":
        """A page about all workers. Fails with Unavailable."""
        self._numbers = number = self._numbers + 1
        answer: Deferred[tuple[int, bytes]] = Deferred()
        self._asked[number] = answer
        self._channel.send("ask", Ask(number, page))

        def expired() -> None:
            if self._asked.pop(number, None) is not None:
                answer.errback(Unavailable("the supervisor does not answer"))

        self._reactor.callLater(_ASK_TIMEOUT_S, expired)
        return answer

    def _look(self) -> None:
        """A successor is ready when messages come."""
        if self._service.parts.follower.ready:
            self._channel.send("ready")
        elif self._service.running:
            self._reactor.callLater(_LOOK_EVERY_S, self._look)

    def _received(self, kind: str, raw: msgspec.Raw, descriptors: list[int]) -> None:
        gateway = self._service.parts.gateway
        if kind == "report":
            self._report(metrics=content(raw, bool))
        elif kind == "listen":
            self._listen(content(raw, int), [adopt(each) for each in descriptors])
        elif kind == "unlisten":
            number = content(raw, int)
            gateway.release(number)
            if number == self._begin.worker:
                gateway.endpoints.leave()
        elif kind == "answer":
            answer: Answer = content(raw, Answer)
            waiting = self._asked.pop(answer.number, None)
            if waiting is not None:
                waiting.callback((answer.status, answer.body))
        elif kind == "drain":
            gateway.last = content(raw, bool)
            signals.stop(self._reactor)
        else:
            self._move(kind, raw, [adopt(each) for each in descriptors])

    def _move(self, kind: str, raw: msgspec.Raw, links: list[socket.socket]) -> None:
        """Take part in a hand-over."""
        moves = self._moves
        if kind == "record":
            moves.record()
        elif kind == "forget":
            moves.stop_recording()
        elif kind == "give":
            patience_s = content(raw, float)
            self._giver = Giver(self._reactor, moves, links[0], self._tell, patience_s)
        elif kind == "enough":
            if self._giver is not None:
                self._giver.stop()
        elif kind == "take":
            follower = self._service.parts.follower
            fence = follower.fence if follower.following else None
            self._taker = Taker(self._reactor, moves, links[0], fence=fence, tell=self._tell)
        else:
            raise ChannelBroken(f"unknown message {kind}")

    def _tell(self, event: str, value: object) -> None:
        self._channel.send("event", (event, value))

    def _report(self, *, metrics: bool) -> None:
        from odin.service import report  # noqa: PLC0415

        number, pid = self._begin.worker, os.getpid()
        self._channel.send("report", report(self._service, number, pid, metrics=metrics))

    def _orphaned(self) -> None:
        self._log.error("the supervisor is gone: stopping")
        signals.stop(self._reactor)


def main() -> None:
    """Be a worker until told to stop."""
    variable = os.environ.pop(CHANNEL_VARIABLE, "")
    if not variable.isdigit():
        sys.exit("odin.worker is started by odin --workers")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at a terminal everybody gets it
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # twistd's log rotation
    sock = socket.socket(fileno=int(variable))
    sock.set_inheritable(False)
    _kind, raw, descriptors, inbox = first_message(sock)
    begin: Begin = content(raw, Begin)
    agent = Agent(begin, sock, inbox, descriptors[0])
    options = Options()
    parent: Any = {"nodaemon": True, "logfile": begin.log_file}
    options.parent = parent
    options.parseOptions(begin.arguments)
    globalLogBeginner.beginLoggingTo(
        [logs.observer(options["log-format"], begin.log_file, begin.worker, *descriptors[1:])],
        redirectStandardIO=False,
    )
    from twisted.internet import reactor as installed  # noqa: PLC0415 - by the options

    from odin.service import make_service  # noqa: PLC0415

    reactor: Any = installed
    try:
        service = make_service(options.config, reactor, agent.place)
    except ConfigError as error:
        sys.exit(f"odin: {error}")
    service.privilegedStartService()
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", agent.stop)
    # a moment later: when the supervisor stops as well, it says that this is the end for all
    graceful_stop = lambda: reactor.callLater(_GRACE_S, signals.stop, reactor)  # noqa: E731
    signals.graceful(reactor, only=(signal.SIGTERM,), stopping=graceful_stop)
    reactor.callWhenRunning(agent.start, service, reactor)
    reactor.run()


if __name__ == "__main__":
    main()
