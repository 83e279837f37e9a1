"""Replacing all workers while their clients stay: started anew from the code on disk.

    1. the old workers record          so that nothing is missed, see bus.succession
    2. the new ones start              one after the other; all must be ready, or nothing happens
    3. slot by slot: hand over         see process.handover
    4. the old ones end

If a new worker ends half-way, the old one of its slot keeps what it still has and accepts again,
and the slots that were to follow keep their old workers.
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
from odin.process.supervisor import Slot, Supervisor
from odin.process.workers import Worker

_READY_S: Final = 20.0  # for a new worker
_GIVE_S: Final = 40.0  # for a slot
_ENDS_IN_S: Final = 1.0  # for a worker whose link is gone
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

    def upgrade(self) -> "Deferred[dict[str, Any]]":
        """Replace all workers; {"status": "done" | "refused" | "failed", ...}. Never fails."""
        return Deferred.fromCoroutine(self._upgrade())

    async def _upgrade(self) -> dict[str, Any]:
        supervisor = self._supervisor
        if self._busy or supervisor.stopping:
            return self._refused("a hand-over is under way, or the server stops")
        if supervisor.missing:
            return self._refused("a worker is missing")
        try:
            self._check()
        except ConfigError as error:
            return self._refused(str(error))
        self._busy = True
        systemd.notify(systemd.RELOADING)
        began = time.monotonic()
        try:
            await self._prepare()
            given = [await self._hand_over(slot) for slot in supervisor.slots]
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

    async def _prepare(self) -> None:
        """Have a ready successor in each slot. Raises: HandoverFailed."""
        for slot in self._supervisor.slots:
            _old(slot).send("record")
        for slot in self._supervisor.slots:
            worker = slot.successor = self._supervisor.spawn(slot, successor=True)
            stop_at = self._reactor.seconds() + _READY_S
            while not worker.ready:
                await deferLater(self._reactor, _LOOK_EVERY_S)
                if not worker.running:
                    why = worker.last_words or worker.status
                    raise HandoverFailed(f"the new worker {slot.number} ended: {why}")
                if self._reactor.seconds() > stop_at:
                    raise HandoverFailed(
                        f"the new worker {slot.number} did not become ready: is the broker there?"
                    )
                if slot.worker is None:
                    raise HandoverFailed(f"the old worker {slot.number} ended meanwhile")

    async def _hand_over(self, slot: Slot) -> int:
        """Replace the worker of one slot; how many clients moved. Raises: HandoverFailed."""
        old, new = _old(slot), slot.successor
        if new is None:
            raise HandoverFailed(f"the new worker {slot.number} ended")
        result: Deferred[tuple[str, Any]] = Deferred()
        released = False

        def old_says(event: str, value: Any) -> None:
            nonlocal released
            if event == "released":
                released = True
                self._supervisor.let_listen(slot, new)
            elif event in ("given", "kept", "ended") and not result.called:
                result.callback((event, value))

        def new_says(event: str, value: Any) -> None:
            if event == "ended" and not result.called:
                self._reactor.callLater(1.0, old_says, "kept", 0)  # the old one says so itself

        old.events.append(old_says)
        new.events.append(new_says)
        ours, theirs = pair()
        late = self._reactor.callLater(_GIVE_S, new.kill)
        try:
            new.send("take", None, [theirs.fileno()])
            old.send("give", None, [ours.fileno()])
            with ours, theirs:
                await deferLater(self._reactor, _LOOK_EVERY_S)
            event, value = await result
        finally:
            old.events.remove(old_says)
            with contextlib.suppress(ValueError):
                new.events.remove(new_says)
            if late.active():
                late.cancel()
        if event == "ended":
            self._log.error("the old worker {number} died while it handed over", number=slot.number)
            self._take_place(slot, old, new)
            return 0
        if event == "kept":
            if released and old.running and not self._supervisor.stopping:
                self._supervisor.let_listen(slot, old)
            await self._end_of(new)
            why = new.last_words or new.status or "it gave up"
            raise HandoverFailed(
                f"the new worker {slot.number} ended half-way ({why}); "
                f"{value} clients stay with the old one"
            )
        self._take_place(slot, old, new)
        old.drain()
        self._reactor.callLater(_GIVE_S, old.kill_if_running)
        return int(value)

    async def _end_of(self, worker: Worker) -> None:
        """Wait a moment for a process that is about to end."""
        stop_at = self._reactor.seconds() + _ENDS_IN_S
        while worker.running and self._reactor.seconds() < stop_at:
            await deferLater(self._reactor, _LOOK_EVERY_S)

    def _take_place(self, slot: Slot, old: Worker, new: Worker) -> None:
        if old.running:
            slot.leaving.append(old)
        slot.worker, slot.successor = new, None
        new.successor = False
        slot.failures = 0

    def _give_up(self, slot: Slot) -> None:
        """Let the old worker of a slot go on as before."""
        if slot.successor is not None:
            slot.successor.kill()
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
