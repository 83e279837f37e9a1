"""Recovery: what a client missed, all of it or nothing."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from odin.bus.bridge import Bridge
from odin.delivery.history import Replay
from odin.delivery.message import chunked

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from odin.bus.interfaces import Stored

_WAIT_S: Final = 15.0  # for a bus that starts, or is away: what was missed is there still
_AHEAD_S: Final = 4.0  # for a message that another node had; a paused broker is known by then
_LOOK_EVERY_S: Final = 0.02
_MAX_FETCHES: Final = 16  # different ones under way at the broker; more have to wait


class Meter(Protocol):
    """What is told of each recovery."""

    def recovery(self, result: str, source: str) -> None: ...


class _Wish(NamedTuple):
    """What one client asks for, and since when."""

    patterns: frozenset[str]
    epoch: str
    offset: int
    asked_at: float
    answer: "Deferred[Replay | None]"


class _NotYet(Exception):
    """The answer has to wait for the bus."""


class Recovery:
    """Finds what clients missed: in the ring, else in the broker's store, else not at all.

    Clients that ask for the same, as they do after a restart, share one fetch and one replay.
    """

    def __init__(
        self,
        bridge: Bridge,
        *,
        most: int,
        now: Callable[[], float],
        timers: IReactorTime,
        meter: Meter,
    ) -> None:
        """`most`: messages in one replay. `now`: seconds, monotonic, the bridge's clock."""
        self._bridge = bridge
        self._most = most
        self._now = now
        self._timers = timers
        self._meter = meter
        self._waiting: list[_Wish] = []  # for the bus
        self._fetches: dict[tuple[frozenset[str], int], list[_Wish]] = {}

    def replay(
        self, patterns: frozenset[str], epoch: str, offset: int
    ) -> "Replay | Deferred[Replay | None] | None":
        """What was sent on `patterns` after `offset`, up to the moment of the answer."""
        try:
            return self._found(patterns, epoch, offset)
        except _NotYet:
            wish = _Wish(patterns, epoch, offset, self._now(), Deferred())
            self._serve(wish)
            return wish.answer

    def snapshot(self, patterns: frozenset[str]) -> Iterable[bytes]:
        """The last message of each channel on `patterns`, marked as that; in chunks."""
        return self._bridge.history.snapshot(patterns)

    def _found(self, patterns: frozenset[str], epoch: str, offset: int) -> Replay | None:
        """The answer as far as memory has it.

        Raises: _NotYet if the bus has to be waited for, or asked.
        """
        bridge, history = self._bridge, self._bridge.history
        stores = bridge.bus.stores
        if stores and not bridge.numbered:
            raise _NotYet
        if epoch != bridge.epoch:
            return self._counted(None, "none")
        if history.covers(patterns, offset):
            found = history.replay(patterns, offset, self._most, self._now())
            return self._counted(found, "memory")
        if not stores or history.head - offset > 100 * self._most:
            return self._counted(None, "none")
        raise _NotYet

    def _serve(self, wish: _Wish) -> None:
        """Answer a wish, now or when the bus can."""
        try:
            wish.answer.callback(self._found(wish.patterns, wish.epoch, wish.offset))
            return
        except _NotYet:
            pass
        bridge, now = self._bridge, self._now()
        key = (wish.patterns, wish.offset)
        ahead = bridge.live and wish.epoch == bridge.epoch and wish.offset > bridge.history.head
        if now - wish.asked_at >= _WAIT_S or (
            ahead and now - max(wish.asked_at, bridge.live_since) >= _AHEAD_S
        ):
            wish.answer.callback(self._counted(None, "none"))
        elif ahead or not bridge.live:
            self._wait(wish)
        elif key in self._fetches:
            self._fetches[key].append(wish)
        elif len(self._fetches) >= _MAX_FETCHES:
            self._wait(wish)
        else:
            self._fetches[key] = [wish]
            until = bridge.history.head
            fetch = bridge.bus.fetch(wish.patterns, wish.offset, until, self._most)
            fetch.addBoth(self._fetched, key, wish.epoch, until)

    def _wait(self, wish: _Wish) -> None:
        if not self._waiting:
            self._timers.callLater(_LOOK_EVERY_S, self._look)
        self._waiting.append(wish)

    def _look(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            self._serve(each)

    def _fetched(
        self,
        stored: "list[Stored] | Failure | None",
        key: tuple[frozenset[str], int],
        epoch: str,
        until: int,
    ) -> None:
        wishes = self._fetches.pop(key)
        bridge, found = self._bridge, None
        if stored is not None and epoch == bridge.epoch:
            patterns, _offset = key
            gone = not bridge.history.covers(patterns, until)  # the ring moved on meanwhile
            if not isinstance(stored, list) or gone:
                for wish in wishes:
                    self._wait(wish)
                return
            rest = bridge.history.replay(patterns, until, self._most, self._now())
            if rest is not None:
                frames = [each.frame for each in bridge.encoded(stored)]
                chunks = chunked((), frames) + rest.chunks
                found = Replay(chunks, len(frames) + rest.messages, rest.head)
        for wish in wishes:
            wish.answer.callback(self._counted(found, "jetstream"))

    def _counted(self, found: Replay | None, source: str) -> Replay | None:
        self._meter.recovery("recovered" if found is not None else "refused", source)
        return found
