"""Recovery: what a client missed, all of it or nothing."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from odin.bus.bridge import Bridge
from odin.delivery.history import Replay
from odin.delivery.message import chunked

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from odin.bus.interfaces import Stored

_START_S: Final = 10.0  # for the bus to be read, after a start
_AHEAD_S: Final = 1.0  # for a message that another node had before this one
_LOOK_EVERY_S: Final = 0.02
_MAX_FETCHES: Final = 16  # different ones under way at the broker


class Meter(Protocol):
    """What is told of each recovery."""

    def recovery(self, result: str, source: str) -> None: ...


class _Waiting(NamedTuple):
    patterns: frozenset[str]
    epoch: str
    offset: int
    until: float
    answer: "Deferred[Replay | None]"


class Recovery:
    """Finds what clients missed: in the ring, else in the broker's store, else not at all.

    Clients that ask for the same, as they do after a restart, share one fetch and one replay.
    """

    def __init__(self, bridge: Bridge, *, most: int, clock: IReactorTime, meter: Meter) -> None:
        """`most`: messages in one replay."""
        self._bridge = bridge
        self._most = most
        self._clock = clock
        self._meter = meter
        self._waiting: list[_Waiting] = []
        self._fetches: dict[tuple[frozenset[str], int], list[Deferred[Replay | None]]] = {}

    def replay(
        self, patterns: frozenset[str], epoch: str, offset: int
    ) -> "Replay | Deferred[Replay | None] | None":
        """What was sent on `patterns` after `offset`, up to the moment of the answer."""
        bridge, history = self._bridge, self._bridge.history
        if bridge.bus.stores and (not bridge.numbered or self._ahead(epoch, offset)):
            # just started, or another node was a moment faster: it will come
            return self._later(patterns, epoch, offset)
        if epoch != bridge.epoch or offset > history.head:
            return self._counted(None, "none")
        if history.covers(offset):
            found = history.replay(patterns, offset, self._most, self._clock.seconds())
            return self._counted(found, "memory")
        key = (patterns, offset)
        waiting = self._fetches.get(key)
        if waiting is None:
            if len(self._fetches) >= _MAX_FETCHES or history.head - offset > 100 * self._most:
                return self._counted(None, "none")
            waiting = self._fetches[key] = []
            until = history.head
            fetch = self._bridge.bus.fetch(patterns, offset, until, self._most)
            fetch.addBoth(self._fetched, key, epoch, until)
        answer: Deferred[Replay | None] = Deferred()
        if key in self._fetches:
            waiting.append(answer)
            return answer
        return self._counted(None, "none")  # a bus that stores nothing said so at once

    def _ahead(self, epoch: str, offset: int) -> bool:
        return epoch == self._bridge.epoch and offset > self._bridge.history.head

    def _later(
        self, patterns: frozenset[str], epoch: str, offset: int
    ) -> "Deferred[Replay | None]":
        """The answer once the bus is that far, or a refusal."""
        wait_s = _AHEAD_S if self._bridge.numbered else _START_S
        waiting = _Waiting(patterns, epoch, offset, self._clock.seconds() + wait_s, Deferred())
        if not self._waiting:
            self._clock.callLater(_LOOK_EVERY_S, self._look)
        self._waiting.append(waiting)
        return waiting.answer

    def _look(self) -> None:
        """Answer those who wait for the bus, as far as it is."""
        waiting, self._waiting = self._waiting, []
        now = self._clock.seconds()
        for each in waiting:
            if now >= each.until:
                each.answer.callback(self._counted(None, "none"))
            elif not self._bridge.numbered or self._ahead(each.epoch, each.offset):
                self._waiting.append(each)
            else:
                found = self.replay(each.patterns, each.epoch, each.offset)
                if isinstance(found, Deferred):
                    found.chainDeferred(each.answer)
                else:
                    each.answer.callback(found)
        if self._waiting:
            self._clock.callLater(_LOOK_EVERY_S, self._look)

    def snapshot(self, patterns: frozenset[str]) -> Iterable[bytes]:
        """The last message of each channel on `patterns`, marked as that; in chunks."""
        return self._bridge.history.snapshot(patterns)

    def _fetched(
        self,
        stored: "list[Stored] | Failure | None",
        key: tuple[frozenset[str], int],
        epoch: str,
        until: int,
    ) -> None:
        waiting = self._fetches.pop(key)
        patterns, _offset = key
        found = None
        if isinstance(stored, list) and epoch == self._bridge.epoch:
            rest = self._bridge.history.replay(patterns, until, self._most, self._clock.seconds())
            if rest is not None:
                messages = [self._bridge.encoded(*each) for each in stored]
                frames = [each.frame for each in messages if each is not None]
                chunks = chunked((), frames) + rest.chunks
                found = Replay(chunks, len(frames) + rest.messages, rest.head)
        for answer in waiting:
            answer.callback(self._counted(found, "jetstream"))

    def _counted(self, found: Replay | None, source: str) -> Replay | None:
        self._meter.recovery("recovered" if found is not None else "refused", source)
        return found
