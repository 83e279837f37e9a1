"""Replacing all workers while their clients stay: started anew from the code on disk.

    1. the old workers record          so that nothing is missed, see bus.succession
    2. the new ones start              one after the other; all must be ready, or nothing happens
    3. slot by slot: hand over         see process.handover
    4. the old ones end

If a new worker fails half-way, the old one of its slot keeps what it still has and accepts again,
and the slots that were to follow keep their old workers; a new one that still runs lets its clients
go in order.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from odin.errors import ConfigError
from odin.process import systemd
from odin.process.channel import pair
from odin.process.handover import PATIENCE_S
from odin.process.lateness import Limit
from odin.process.slots import Slot
from odin.process.supervisor import Supervisor
from odin.process.workers import Worker

_ALL_THERE_S: Final = 10.0  # for a worker that is being started again
_READY_S: Final = 20.0  # for a new worker
_LEAST_PATIENCE_S: Final = 1.0  # of each slot, with clients that are not at rest
_GIVE_S: Final = 40.0  # for a slot
_ENOUGH_S: Final = 5.0  # for the end of a slot that took too long
_ENDS_IN_S: Final = 1.0  # for a worker whose link is gone
_LISTENS_S: Final = 10.0  # for a worker that has everybody and was given its sockets
_LOOK_EVERY_S: Final = 0.02


class HandoverFailed(Exception):
    """It did not go as it should; the text says why, and what is left."""


class Upgrades:
    """Does one at a time."""

    _log = Logger()

    def __init__(self, reactor: Any, supervisor: Supervisor, check: Callable[[], object]) -> None:
        """`check` raises ConfigError when the configuration of now cannot be used."""
        self.done = 0
        self.failed = 0
        self._reactor = reactor
        self._supervisor = supervisor
        self._check = check
        self._busy = False
        self._waiting: list[Deferred[dict[str, Any]]] = []

    def upgrade(self) -> "Deferred[dict[str, Any]]":
        """Replace all workers; {"status": "done" | "failed", ...}. Never fails.

        While one is under way the next waits for its end.
        """
        if self._busy:
            self._log.info("a hand-over is under way: another one follows")
            waiting: Deferred[dict[str, Any]] = Deferred()
            self._waiting.append(waiting)
            return waiting
        return Deferred.fromCoroutine(self._upgrade()).addCallback(self._next)

    def _next(self, result: dict[str, Any]) -> dict[str, Any]:
        waiting, self._waiting = self._waiting, []

        def tell(result: dict[str, Any]) -> None:
            for each in waiting:
                each.callback(result)

        if waiting:
            self.upgrade().addCallback(tell)
        return result

    async def _upgrade(self) -> dict[str, Any]:
        supervisor = self._supervisor
        if supervisor.stopping:
            return self._refused("the server stops")
        try:
            self._check()
        except ConfigError as error:
            return self._refused(str(error))
        self._busy = True
        systemd.notify(systemd.RELOADING)
        began = time.monotonic()
        try:
            await self._all_there()
            old = await self._prepare()
            given = await self._hand_over_all(old)
        except Exception as error:
            if not isinstance(error, HandoverFailed):
                self._log.failure("the hand-over failed")
            if supervisor.stopping:
                return self._refused("the server stops")
            for slot in supervisor.slots:
                self._give_up(slot)
            return self._refused(str(error) or "the supervisor failed")
        finally:
            self._busy = False
            systemd.notify("READY=1")
        self.done += 1
        took_s = round(time.monotonic() - began, 3)
        self._log.info(
            "handed over {n} clients to {workers} new workers in {took} s",
            n=sum(given), workers=len(given), took=took_s,
        )  # fmt: skip
        return {"status": "done", "clients": sum(given), "seconds": took_s}

    async def _all_there(self) -> None:
        """Wait a moment for workers that are being started again. Raises: HandoverFailed."""
        with Limit(self._reactor, _ALL_THERE_S) as limit:
            while self._supervisor.missing:
                if limit.passed:
                    raise HandoverFailed("a worker is missing")
                await self._pause()

    async def _pause(self) -> None:
        """Raises: HandoverFailed."""
        await deferLater(self._reactor, _LOOK_EVERY_S)
        if self._supervisor.stopping:
            raise HandoverFailed("the server stops")

    async def _prepare(self) -> list[Worker]:
        """Have a ready successor in each slot; the old ones. Raises: HandoverFailed."""
        supervisor = self._supervisor
        old = [_old(slot) for slot in supervisor.slots]
        for each in old:
            each.send("record")
        for slot, predecessor in zip(supervisor.slots, old, strict=True):
            self._check_old(slot, predecessor)
            worker = slot.successor = supervisor.spawn(slot, successor=True)
            with Limit(self._reactor, _READY_S) as limit:
                while not worker.ready:
                    await self._pause()
                    if not worker.running:
                        why = worker.last_words or worker.status
                        raise HandoverFailed(f"the new worker {slot.number} ended: {why}")
                    if limit.passed:
                        raise HandoverFailed(
                            f"the new worker {slot.number} did not become ready: "
                            "is the broker there?"
                        )
                    self._check_old(slot, predecessor)
        return old

    def _check_old(self, slot: Slot, old: Worker) -> None:
        """Another one in its place has not recorded what the successor must know."""
        if self._supervisor.stopping:
            raise HandoverFailed("the server stops")
        if slot.worker is not old:
            raise HandoverFailed(f"the old worker {slot.number} ended meanwhile")

    async def _hand_over_all(self, old: list[Worker]) -> list[int]:
        """One slot after the other. They share the patience for clients that are not at rest."""
        given = []
        began = self._reactor.seconds()
        for slot, predecessor in zip(self._supervisor.slots, old, strict=True):
            self._check_old(slot, predecessor)
            left_s = PATIENCE_S - (self._reactor.seconds() - began)
            given.append(await self._hand_over(slot, predecessor, max(_LEAST_PATIENCE_S, left_s)))
        return given

    async def _hand_over(self, slot: Slot, old: Worker, patience_s: float) -> int:
        """Replace the worker of one slot; how many clients moved. Raises: HandoverFailed."""
        new = slot.successor
        if new is None:
            raise HandoverFailed(f"the new worker {slot.number} ended")
        event, value, why = await self._exchange(slot, old, new, patience_s)
        if event == "ended":
            if not new.running:
                raise HandoverFailed(f"both workers {slot.number} ended")
            self._log.error("the old worker {number} died while it handed over", number=slot.number)
            self._supervisor.let_listen(slot, new)
            self._take_place(slot, old, new)
            if not await self._listens(new):
                raise HandoverFailed(f"the new worker {slot.number} does not listen")
            return 0
        if event == "given" and not await self._arrives(slot, old, new):
            why = "it did not listen" if new.running else ""
            new.kill()
            event, value = "kept", 0
        if event == "kept":
            await self._end_of(new)
            if old.running and not self._supervisor.stopping:
                self._supervisor.let_listen(slot, old)
            if new.running:
                why = "it takes too long"
            raise HandoverFailed(
                f"the new worker {slot.number} failed half-way "
                f"({why or f'it ended: {new.last_words or new.status}'}); "
                f"{value} clients stay with the old one"
            )
        if slot.successor is new:
            self._take_place(slot, old, new)
        old.drain()
        old.kill_after(_GIVE_S)
        return int(value)

    async def _exchange(
        self, slot: Slot, old: Worker, new: Worker, patience_s: float
    ) -> tuple[str, Any, str]:
        """Let two workers do it: "given", "kept" or "ended" (of the old one), how many clients,
        and why it failed, where the new one's end does not say it."""
        result: Deferred[tuple[str, Any]] = Deferred()
        why = ""

        def old_says(event: str, value: Any) -> None:
            nonlocal why
            if event == "released":
                self._supervisor.let_listen(slot, new)
            elif event == "stuck":
                why = "it did not answer"
                if not self._supervisor.stopping:  # else both let their clients go
                    new.kill()  # before anybody whom it may have is served by the old one
            elif event in ("given", "kept", "ended") and not result.called:
                result.callback((event, value))

        def new_says(event: str, value: Any) -> None:
            if event == "ended" and not result.called:
                self._reactor.callLater(1.0, old_says, "kept", 0)  # the old one says so itself

        old.events.append(old_says)
        new.events.append(new_says)
        ours, theirs = pair()
        late = [
            Limit(self._reactor, _GIVE_S, lambda: old.send("enough")),
            Limit(self._reactor, _GIVE_S + _ENOUGH_S, new.kill),
        ]
        try:
            new.send("take", None, [theirs.fileno()])
            old.send("give", patience_s, [ours.fileno()])
            with ours, theirs:  # until they have gone; then only the workers hold them
                while old.unsent or new.unsent:
                    await deferLater(self._reactor, _LOOK_EVERY_S)
            event, value = await result
        finally:
            old.events.remove(old_says)
            with contextlib.suppress(ValueError):
                new.events.remove(new_says)
            for each in late:
                each.cancel()
        return event, value, why

    async def _arrives(self, slot: Slot, old: Worker, new: Worker) -> bool:
        """Wait until the new worker, which has everybody, accepts; whether it does.

        Until then the old one keeps the place: somebody listens there, or will in an instant.
        """

        def old_says(event: str, _value: Any) -> None:
            if event == "ended":  # or the supervisor would start another one
                self._take_place(slot, old, new)

        old.events.append(old_says)
        try:
            return await self._listens(new)
        finally:
            old.events.remove(old_says)

    async def _listens(self, worker: Worker) -> bool:
        """Wait until a worker accepts, and has said how it is; whether it does."""
        with Limit(self._reactor, _LISTENS_S) as limit:
            while worker.running and not worker.listening and not limit.passed:
                await deferLater(self._reactor, _LOOK_EVERY_S)
        await worker.report(metrics=False)
        return worker.listening

    async def _end_of(self, worker: Worker) -> None:
        """Wait a moment for a process that is about to end."""
        with Limit(self._reactor, _ENDS_IN_S) as limit:
            while worker.running and not limit.passed:
                await deferLater(self._reactor, _LOOK_EVERY_S)

    def _take_place(self, slot: Slot, old: Worker, new: Worker) -> None:
        if old.running:
            slot.leaving.append(old)
        slot.worker, slot.successor = new, None
        new.successor = False
        slot.failures = 0

    def _give_up(self, slot: Slot) -> None:
        """Let the old worker of a slot go on as before; what the new one has is let go."""
        new, slot.successor = slot.successor, None
        if new is not None and new.running:
            slot.leaving.append(new)
            if new.ready:
                new.send("unlisten", slot.number)
                new.drain()
                new.kill_after(self._supervisor.shutdown_timeout_s)
            else:
                new.kill()
        if slot.worker is not None:
            slot.worker.send("forget")

    def _refused(self, why: str) -> dict[str, Any]:
        self.failed += 1
        self._log.error("no hand-over: {why}", why=why)
        return {"status": "failed", "reason": why}


def _old(slot: Slot) -> Worker:
    if slot.worker is None:
        raise HandoverFailed(f"worker {slot.number} is missing")
    return slot.worker
