"""Searches for clients: one step each in turn, shared by clients that ask for the same."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from odin.delivery.history import History
from odin.delivery.search import Outcome, Search

_MOST_RUNNING: Final = 8  # searches, each with up to some megabytes of what it knows; more wait
_MOST_KEPT: Final = 64  # for the next who asks for the same
_MOST_BYTES: Final = 4 << 20
_KEEP_S: Final = 5.0
_TIDY_EVERY_S: Final = 1.0

Key = tuple[str, frozenset[str], int]  # epoch, patterns, offset


class _Client(NamedTuple):
    """Who waits for a search."""

    gone: Callable[[], bool]
    done: Callable[[], None]


class _Kept:
    """A search that may be of use to others."""

    __slots__ = ("search", "shared", "used_at")

    def __init__(self, search: Search, used_at: float) -> None:
        self.search = search
        self.used_at = used_at
        self.shared = False  # whether more than one request used it


class Searches:
    """All searches of a server that take more than a moment."""

    _log = Logger()

    def __init__(
        self,
        history: History,
        later: Callable[[Callable[[], None]], None],
        timers: IReactorTime,
    ) -> None:
        """`later`: runs a step in a turn to come, one after the other."""
        self._history = history
        self._later = later
        self._timers = timers
        self._kept: dict[Key, _Kept] = {}  # the least recently used first
        self._tidying = False
        self._running: dict[Search, deque[_Client]] = {}
        self._queue: dict[Search, deque[_Client]] = {}

    def find(self, key: Key, most: int) -> Search:
        """The search for this; one that others have begun, if there is one."""
        kept, now = self._kept.pop(key, None), self._timers.seconds()
        if kept is not None and not kept.search.gone:
            kept.shared, kept.used_at = True, now
            self._kept[key] = kept
            return kept.search
        _epoch, patterns, offset = key
        search = Search(self._history, patterns, offset, most)
        if search.long:
            if not self._tidying:
                self._tidying = True
                self._timers.callLater(_TIDY_EVERY_S, self._tidy)
            self._kept[key] = _Kept(search, now)
            self._make_room()
        return search

    def run(self, search: Search, gone: Callable[[], bool], done: Callable[[], None]) -> None:
        """Go on with a search, and call `done` in a turn of its own when it came to an end.

        A search for clients that are all `gone` ends without.
        """
        client = _Client(gone, done)
        for searches in (self._running, self._queue):
            if search in searches:
                searches[search].append(client)
                return
        if len(self._running) < _MOST_RUNNING:
            self._start(search, deque([client]))
        else:
            self._queue[search] = deque([client])

    def _start(self, search: Search, clients: deque[_Client]) -> None:
        self._running[search] = clients
        self._later(partial(self._step, search))

    def _step(self, search: Search) -> None:
        clients = self._running[search]
        while clients and clients[0].gone():
            clients.popleft()
        if clients and self._goes_on(search):
            self._later(partial(self._step, search))
            return
        del self._running[search]
        for client in clients:
            self._later(client.done)
        if self._queue:
            following = next(iter(self._queue))
            self._start(following, self._queue.pop(following))

    def _goes_on(self, search: Search) -> bool:
        try:
            return search.step() is Outcome.MORE
        except Exception:  # a defect; those who wait for it will be told
            self._log.failure("a search failed")
            return False

    def _make_room(self) -> None:
        """Forget what was of use to nobody else first: new requests push out no shared search."""
        kept = self._kept
        size = sum([each.search.size for each in kept.values()])
        while len(kept) > _MOST_KEPT or (size > _MOST_BYTES and len(kept) > 1):
            alone = (key for key, each in kept.items() if not each.shared)
            gone = kept.pop(next(alone, next(iter(kept))))
            size -= gone.search.size

    def _tidy(self) -> None:
        """Forget what nobody asked for lately, and what keeps messages that have left the ring."""
        now, floor = self._timers.seconds(), self._history.floor
        for key, each in list(self._kept.items()):
            messages = each.search.messages
            if each.search not in self._running:
                each.search.relax()
            if now - each.used_at > _KEEP_S or (messages and messages[0].offset <= floor):
                del self._kept[key]
        self._make_room()
        self._tidying = bool(self._kept)
        if self._kept:
            self._timers.callLater(_TIDY_EVERY_S, self._tidy)
