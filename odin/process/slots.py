"""The places of workers: each has its sockets, who is in it, and what was counted in it."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from odin.process.workers import Worker
from odin.reports import Family, Report, lasting, total

if TYPE_CHECKING:
    import socket


class Slot:
    """The place of one worker."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.sockets: list[socket.socket] = []
        self.log: int | None = None  # the log file, opened before the process gave up its rights
        self.worker: Worker | None = None
        self.successor: Worker | None = None
        self.leaving: list[Worker] = []  # who have handed over, and are about to end
        self.lent_to: Worker | None = None  # who accepts from its sockets, while there is nobody
        self.waiting = False  # for the pause before the next start
        self.failures = 0
        self.counted: list[Family] = []  # by workers that have ended

    def living(self) -> list[Worker]:
        """Those that have clients, or may have."""
        return [each for each in (self.worker, self.successor) if each is not None]

    def serving(self, reports: Iterable[Report]) -> list[Report]:
        """Those of them that count: a successor does when it listens, or has clients."""
        idle = self.successor is not None and not self.successor.listening
        successor = self.successor.pid if self.successor is not None and idle else None
        return [
            each
            for each in reports
            if each.worker == self.number and (each.pid != successor or each.connections)
        ]

    def retire(self, worker: Worker) -> None:
        """Keep what a worker that is over has counted."""
        self.counted = total([self.counted, lasting(worker.metrics)])

    def past(self, reports: Iterable[Report]) -> list[Family]:
        """What was counted here by those who say nothing now."""
        known = {each.pid for each in reports}
        silent = [each for each in (*self.living(), *self.leaving) if each.pid not in known]
        return total([self.counted, *(lasting(each.metrics) for each in silent)])
