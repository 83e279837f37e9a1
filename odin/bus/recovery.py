"""Recovery: what a client missed, all of it or nothing."""

from collections import deque
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol
from weakref import ref

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from odin.bus.bridge import Bridge
from odin.bus.searches import Key, Searches
from odin.delivery.playback import Messages, Playback
from odin.delivery.readers import Reader, Readers
from odin.delivery.search import Outcome, Search

if TYPE_CHECKING:
    from odin.bus.interfaces import Stored
    from odin.delivery.nonces import Nonce

_WAIT_S: Final = 15.0  # for a bus that starts, or is away: what was missed is there still
_AHEAD_S: Final = 4.0  # for a message that another node had; a paused broker is known by then
_LOOK_EVERY_S: Final = 0.02
_LOOKS: Final = 64  # at clients that wait, or at a part of them: at each within two seconds
_PART: Final = 50
_MAX_FETCHES: Final = 16  # different ones under way at the broker; more have to wait
_MOST_FETCHED: Final = 64 << 20  # bytes of messages that were fetched, until clients have them
_DECODED: Final = 512  # messages of the broker in a step: about 0.7 ms


class Meter(Protocol):
    """What is told of each recovery."""

    def recovery(self, result: str, source: str) -> None: ...


class _Wish:
    """What one client asks for, and since when."""

    __slots__ = ("answer", "asked_at", "gone", "key", "search")

    def __init__(self, key: Key, asked_at: float, gone: Callable[[], bool]) -> None:
        self.key = key
        self.asked_at = asked_at
        self.gone = gone
        self.answer: Deferred[Playback | None] = Deferred()
        self.search: Search | None = None


class _Fetched:
    """What the broker had for some wishes, on its way to messages."""

    def __init__(self, stored: "list[Stored]", until: int, wishes: list[_Wish]) -> None:
        self.stored = stored
        self.until = until
        self.wishes = wishes
        self.at = 0
        self.nonces: set[tuple[str, Nonce]] = set()
        self.messages = Messages()


class _Next(Enum):
    """What has to be done before there is an answer."""

    SEARCH = "look further in memory"
    BUS = "ask the bus, or wait for it"


class Recovery:
    """Finds what clients missed: in the ring, else in the broker's store, else not at all.

    Clients that ask for the same, as they do after a restart, share one fetch and one search. What
    takes more than a moment is done in steps, and each client that has to wait gets its answer in
    a step of its own: everything up to that moment.
    """

    def __init__(
        self,
        bridge: Bridge,
        *,
        most: int,
        now: Callable[[], float],
        timers: IReactorTime,
        later: Callable[[Callable[[], None]], None],
        meter: Meter,
    ) -> None:
        """`most`: messages in one replay. `now`: seconds, monotonic, the bridge's clock.
        `later`: runs a step in a turn to come, one after the other."""
        self._bridge = bridge
        self._most = most
        self._now = now
        self._timers = timers
        self._later = later
        self._meter = meter
        self._waiting: deque[_Wish] = deque()  # for the bus
        self._looking = False
        self._fetches: dict[Key, list[_Wish]] = {}
        self._fetched: list[tuple[ref[Messages], int]] = []  # and their bytes
        self._searches = Searches(bridge.history, later, timers)
        self._readers = Readers(bridge.history.holds, later, timers.callLater)

    def replay(
        self, patterns: frozenset[str], epoch: str, offset: int, gone: Callable[[], bool]
    ) -> "Playback | Deferred[Playback | None] | None":
        """What was sent on `patterns` after `offset`, up to the moment of the answer.

        `gone`: whether the client does not need it any more.
        """
        wish = _Wish((epoch, patterns, offset), self._now(), gone)
        found = self._found(wish)
        if not isinstance(found, _Next):
            return found
        self._go_on(wish, found)
        return wish.answer

    def snapshot(self, patterns: frozenset[str]) -> Playback:
        """The last message of each channel on `patterns`, marked as that."""
        return self._bridge.history.snapshot(patterns)

    def watch(self, reader: Reader) -> None:
        """Let a client go if it does not read what is played to it."""
        self._readers.watch(reader)

    def _serve(self, wish: _Wish) -> None:
        """Answer a wish, if that can be done now."""
        if wish.gone():
            return
        try:
            found = self._found(wish)
            if isinstance(found, _Next):
                self._go_on(wish, found)
                return
        except Exception:
            wish.answer.errback(Failure())
            return
        wish.answer.callback(found)

    def _go_on(self, wish: _Wish, following: _Next) -> None:
        if following is _Next.SEARCH:
            assert wish.search is not None
            self._searches.run(wish.search, wish.gone, partial(self._serve, wish))
        else:
            self._ask(wish)

    def _found(self, wish: _Wish) -> Playback | _Next | None:
        """The answer as far as it can be told at once."""
        bridge, history = self._bridge, self._bridge.history
        stores = bridge.bus.stores
        epoch, _patterns, offset = wish.key
        if stores and not bridge.numbered:
            return _Next.BUS
        if epoch != bridge.epoch:
            return self._counted(None, "none")
        search = wish.search
        if search is None:
            search = wish.search = self._searches.find(wish.key, self._most)
        outcome = Outcome.MORE
        while outcome is Outcome.MORE and search.quick:
            outcome = search.step()
        if outcome is Outcome.MORE:
            return _Next.SEARCH
        if outcome is not Outcome.GONE:
            found = search.playback() if outcome is Outcome.FOUND else None
            return self._counted(found, "jetstream" if search.fetched else "memory")
        if not stores or history.head - offset > 100 * self._most:
            return self._counted(None, "none")
        return _Next.BUS

    def _ask(self, wish: _Wish) -> None:
        """Have the bus asked for it, now or when that is possible."""
        bridge, now = self._bridge, self._now()
        epoch, patterns, offset = wish.key
        ahead = bridge.live and epoch == bridge.epoch and offset > bridge.history.head
        if now - wish.asked_at >= _WAIT_S or (
            ahead and now - max(wish.asked_at, bridge.live_since) >= _AHEAD_S
        ):
            self._refuse(wish)
        elif ahead or not bridge.live:
            self._wait(wish)
        elif wish.key in self._fetches:
            self._fetches[wish.key].append(wish)
        elif len(self._fetches) >= _MAX_FETCHES or self._size_fetched() > _MOST_FETCHED:
            self._wait(wish)
        else:
            self._fetches[wish.key] = [wish]
            until = bridge.history.head
            fetch = bridge.bus.fetch(patterns, offset, until, self._most)
            fetch.addBoth(self._has_fetched, wish.key, until)

    def _wait(self, wish: _Wish) -> None:
        self._waiting.append(wish)
        if not self._looking:
            self._looking = True
            self._timers.callLater(_LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        """At those that have waited longest since the last look at them."""
        waiting = self._waiting
        for _ in range(min(len(waiting), max(_LOOKS, len(waiting) // _PART))):
            self._later(partial(self._serve, waiting.popleft()))
        self._looking = bool(waiting)
        if waiting:
            self._timers.callLater(_LOOK_EVERY_S, self._look)

    def _refuse(self, wish: _Wish) -> None:
        wish.answer.callback(self._counted(None, "none"))

    def _has_fetched(self, stored: "list[Stored] | Failure | None", key: Key, until: int) -> None:
        wishes = self._fetches.pop(key)
        if isinstance(stored, Failure):
            for wish in wishes:
                self._wait(wish)
        elif stored is None:
            for wish in wishes:
                self._later(partial(self._refuse_fetched, wish))
        else:
            size = sum([len(each.payload) for each in stored])
            fetched = _Fetched(stored, until, wishes)
            self._fetched.append((ref(fetched.messages), size))
            self._later(partial(self._decode, fetched))

    def _refuse_fetched(self, wish: _Wish) -> None:
        if not wish.gone():
            wish.answer.callback(self._counted(None, "jetstream"))

    def _decode(self, fetched: _Fetched) -> None:
        """Make messages of some more of what was fetched; then go on in memory from there."""
        wishes = [each for each in fetched.wishes if not each.gone()]
        if not wishes:
            return
        try:
            whole = self._decode_some(fetched)
        except Exception:
            for wish in wishes:
                wish.answer.errback(Failure())
            return
        if not whole:
            self._later(partial(self._decode, fetched))
            return
        _epoch, patterns, _offset = wishes[0].key
        history, messages = self._bridge.history, fetched.messages
        search = Search(history, patterns, fetched.until, self._most, messages)
        for wish in wishes:
            wish.search = search
            self._later(partial(self._serve, wish))

    def _decode_some(self, fetched: _Fetched) -> bool:
        part = fetched.stored[fetched.at : fetched.at + _DECODED]
        fetched.messages += self._bridge.encoded(part, fetched.nonces)
        fetched.at += len(part)
        return fetched.at >= len(fetched.stored)

    def _size_fetched(self) -> int:
        """Bytes of the messages that were fetched, and are not sent yet."""
        self._fetched = [each for each in self._fetched if each[0]() is not None]
        return sum([size for _messages, size in self._fetched])

    def _counted(self, found: Playback | None, source: str) -> Playback | None:
        self._meter.recovery("recovered" if found is not None else "refused", source)
        return found
