"""The process that holds no client: it starts the workers, and starts them again.

sockets      made here, one for each worker, and held for as long as the server lives: whoever
             connects while a worker is replaced waits in the queue of a socket
workers      odin.worker processes, each with a channel
metrics      what ended workers have counted stays counted
"""

import math
import os
import secrets
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from odin.process import listeners, systemd
from odin.process.broker import Broker
from odin.process.channel import content
from odin.process.lateness import Lateness
from odin.process.shared import SEATS, SharedMemory
from odin.process.slots import Slot
from odin.process.workers import Answer, Ask, Begin, Keeper, Worker
from odin.reports import COUNTED, Family, Report, lasting, merged_metrics, total

POLL_S: Final = 1.0
_HUNG_S: Final = 30.0  # without a word
_STABLE_S: Final = 30.0  # a worker that lived so long did not fail at its start
_PAUSES_S: Final = (
    0.0,
    0.5,
    1.0,
    2.0,
    5.0,
    10.0,
    30.0,
)  # before the next start, failure by failure
_TRY_AGAIN_S: Final = 1.0
_LEND_AFTER_S: Final = 0.4
_KILL_AFTER_S: Final = 3.0  # beyond shutdownTimeout


class Supervisor(Service, Keeper):
    """Keeps so many workers running."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        *,
        count: int,
        arguments: list[str],
        log_file: Callable[[int], str | None],
        open_log: Callable[[str], int],
        node: str,
        secret: str,
        open_sockets: Callable[[], listeners.Listening],
        send_buffer: int,
        answer: Callable[[str], "Deferred[tuple[int, bytes]]"],
        shutdown_timeout_s: float,
        broker: Broker | None,
    ) -> None:
        """`arguments`: of `twistd odin`. `open_sockets`: those to listen on, at least one for all;
        more are made at the same address. `log_file`: of each worker; `open_log` gives a descriptor
        of it. `answer`: a page about all workers."""
        self.slots = [Slot(number) for number in range(count)]
        self.shutdown_timeout_s = shutdown_timeout_s
        self.restarts = 0
        self.started_at = time.monotonic()
        self.stopping = False
        self.shared = SharedMemory()
        self._reactor = reactor
        self._arguments = arguments
        self._log_file = log_file
        self._open_log = open_log
        self._node = node
        self._secret = secret
        self._address_key = secrets.token_bytes(16)
        self._open_sockets = open_sockets
        self._send_buffer = send_buffer
        self._answer = answer
        self._broker = broker
        self._kept = False  # whether systemd holds the sockets as well
        self._cells = list(range(SEATS))
        self._announced = False
        self._poll = LoopingCall(self._look)
        self._poll.clock = reactor
        self._lateness = Lateness(POLL_S, reactor.seconds)
        self._went_on_at = -math.inf  # after this process had stood still

    # -- its life

    def privilegedStartService(self) -> None:
        """Raises: CannotListenError, ConfigError."""
        for slot in self.slots:
            path = self._log_file(slot.number)
            if path is not None:
                slot.log = self._open_log(path)
        found, self._kept = self._open_sockets()
        for number, slot in enumerate(self.slots):
            if self._kept or number == 0:  # all accept from systemd's
                slot.sockets.extend(found)
            else:  # none if there are only endpoints
                slot.sockets += [listeners.again(each, self._send_buffer) for each in found]
        super().privilegedStartService()

    def startService(self) -> None:
        super().startService()
        for sock in self.slots[0].sockets:
            host, port = listeners.name_of(sock)
            self._log.info("{n} workers for {host}:{port}", n=len(self.slots), host=host, port=port)
        if self._broker is None:
            self._start_all()
        else:
            self._broker.start().addCallbacks(lambda _: self._start_all(), self._give_up)

    def _start_all(self) -> None:
        for slot in self.slots:
            slot.worker = self.spawn(slot)
        self._lateness.restart()
        self._poll.start(POLL_S, now=False)

    def _give_up(self, why: Any) -> None:
        """The start fails: end with status 1."""
        self._log.critical("odin: {why}", why=getattr(why, "value", why))
        self._reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
        self._reactor.callLater(0, self._reactor.stop)

    def stopService(self) -> "Deferred[None]":
        """Let all clients go, by all workers at once; then the broker."""
        super().stopService()
        self.stopping = True
        systemd.notify("STOPPING=1")
        if self._poll.running:
            self._poll.stop()
        return self._stop()

    @inlineCallbacks
    def _stop(self) -> Any:
        for slot in self.slots:
            for sock in slot.sockets:
                if not self._kept:
                    listeners.stop_arrivals(sock)
                sock.close()
        workers = [each for slot in self.slots for each in (*slot.living(), *slot.leaving)]
        for worker in workers:
            worker.drain(last=not self._kept)
        for worker in workers:
            worker.kill_after(self.shutdown_timeout_s + _KILL_AFTER_S)
        yield DeferredList([each.over for each in workers])
        if self._broker is not None:
            yield self._broker.stop()

    # -- workers

    def spawn(self, slot: Slot, *, successor: bool = False) -> Worker:
        """Start a worker for a slot."""
        cell = self._cells[0]
        begin = Begin(
            worker=slot.number,
            arguments=self._arguments,
            log_file=self._log_file(slot.number),
            node=self._node,
            secret=self._secret,
            address_key=self._address_key,
            cell=cell,
            successor=successor,
        )
        worker = Worker(self._reactor, self, begin, self.shared.descriptor, slot.log)
        self._cells.remove(cell)
        return worker

    def let_listen(self, slot: Slot, worker: Worker) -> None:
        """Give a worker the sockets of its slot; who has borrowed them gives them back."""
        if self.stopping:
            return
        if slot.lent_to is not None:
            slot.lent_to.send("unlisten", slot.number)
            slot.lent_to = None
        self._give_sockets(slot, worker)

    def _give_sockets(self, slot: Slot, worker: Worker) -> None:
        worker.send("listen", slot.number, [each.fileno() for each in slot.sockets])

    def heard(self, worker: Worker, kind: str, raw: msgspec.Raw) -> None:
        slot = self.slots[worker.number]
        if kind == "started" and not worker.successor:
            self.let_listen(slot, worker)
        elif kind == "listening":
            self._announce()
            self._lend()
        elif kind == "ask":
            ask: Ask = content(raw, Ask)

            def tell(answer: tuple[int, bytes]) -> None:
                worker.send("answer", Answer(ask.number, *answer))

            self._answer(ask.page).addCallback(tell).addErrback(
                lambda failure: self._log.failure("a page failed", failure)
            )

    def ended(self, worker: Worker) -> None:
        slot = self.slots[worker.number]
        self.shared.seats[worker.cell] = 0
        self._cells.append(worker.cell)
        slot.retire(worker)
        if worker in slot.leaving:
            slot.leaving.remove(worker)
        if worker is slot.successor:
            slot.successor = None
        for other in self.slots:
            if other.lent_to is worker:
                other.lent_to = None
        self._lend()
        if worker is not slot.worker:
            return
        slot.worker = None
        if self.stopping:
            return
        if not self._announced:
            self.stopping = True
            why = worker.last_words.removeprefix("odin: ") or worker.status
            self._give_up(f"worker {worker.number} did not start: {why}")
            return
        self._restart(slot, worker)

    def _restart(self, slot: Slot, ended: Worker) -> None:
        self.restarts += 1
        if self._reactor.seconds() - ended.began_at > _STABLE_S:
            slot.failures = 0
        pause_s = _PAUSES_S[min(slot.failures, len(_PAUSES_S) - 1)]
        slot.failures += 1
        self._log.error(
            "worker {number} (pid {pid}) ended with {status}: the next one starts in {pause} s",
            number=slot.number, pid=ended.pid, status=ended.status, pause=pause_s,
        )  # fmt: skip
        slot.waiting = pause_s > _LEND_AFTER_S
        self._lend()
        self._reactor.callLater(pause_s, self._start_again, slot)

    def _lend(self) -> None:
        """Let others accept for the slots that are empty for a while."""
        able = [each.worker for each in self.slots if each.worker and each.worker.listening]
        for slot in self.slots:
            if slot.waiting and slot.lent_to is None and able and not self.stopping:
                slot.lent_to = min(able, key=_connections)
                self._give_sockets(slot, slot.lent_to)

    def _start_again(self, slot: Slot) -> None:
        slot.waiting = False
        if self.stopping or slot.worker is not None:
            return
        try:
            slot.worker = self.spawn(slot)
        except Exception:  # no process, no descriptor, no memory: for now
            self._log.failure("worker {number} cannot be started", number=slot.number)
            slot.waiting = True
            self._lend()
            self._reactor.callLater(_TRY_AGAIN_S, self._start_again, slot)

    # -- how it goes

    @property
    def missing(self) -> int:
        """How many slots have no worker that listens."""
        return sum(each.worker is None or not each.worker.listening for each in self.slots)

    def reports(self, *, metrics: bool = False) -> "Deferred[list[Report]]":
        """What each worker says of itself; those that say nothing in time are left out."""
        workers = [each for slot in self.slots for each in slot.living()]
        if metrics:
            for slot in self.slots:
                for leaving in slot.leaving:
                    leaving.report(metrics=True)
        asked: Deferred[Any] = DeferredList([each.report(metrics=metrics) for each in workers])
        return asked.addCallback(lambda found: [each for _ok, each in found if each is not None])

    def serving(self, reports: list[Report]) -> list[Report]:
        """Those that count for how the server is."""
        return [each for slot in self.slots for each in slot.serving(reports)]

    def metrics(self, reports: list[Report]) -> list[Family]:
        """The metrics of all, those of workers that have ended among them: no count goes back."""
        counted = []
        for slot in self.slots:
            here = [lasting(each.metrics) for each in reports if each.worker == slot.number]
            counted.append(total([slot.past(reports), *here]))
        gauges = [
            [family for family in each.metrics if family.kind not in COUNTED]
            for each in self.serving(reports)
        ]
        return [*merged_metrics(counted), *merged_metrics(gauges)]

    def well(self) -> bool:
        """Whether the watchdog may be told so: there is a worker that answers."""
        workers = [each.worker for each in self.slots if each.worker is not None]
        return any(self._silent_s(each) < _HUNG_S / 2 for each in workers)

    def _look(self) -> None:
        """Ask everybody; a worker that has not said a word for long is replaced."""
        late_s = self._lateness.stood_still()
        if late_s:
            self._log.warn("the supervisor stood still for {late:.1f} s", late=late_s)
            self._went_on_at = self._reactor.seconds()
        self.reports(metrics=True)
        for slot in self.slots:
            worker = slot.worker
            if worker is not None and self._silent_s(worker) > _HUNG_S:
                self._log.error("worker {number} does not answer: killed", number=slot.number)
                worker.kill()

    def _silent_s(self, worker: Worker) -> float:
        """For how long a worker could have been heard, and was not."""
        now: float = self._reactor.seconds()
        return now - max(worker.heard_at, worker.began_at, self._went_on_at)

    def _announce(self) -> None:
        """Say that the server is there, once all workers listen."""
        if not self._announced and not self.missing:
            self._announced = True
            for sock in self.slots[0].sockets:
                host, port = listeners.name_of(sock)
                self._log.info("Odin listens on {host}:{port}", host=host, port=port)
            systemd.notify("READY=1", f"STATUS={len(self.slots)} workers")

    def note(self, text: str, **values: object) -> None:
        """Say something that an operator should know."""
        self._log.warn(text, **values)


def _connections(worker: Worker) -> int:
    return worker.last_report.connections if worker.last_report is not None else 0
