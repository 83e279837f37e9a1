"""The reactor: asyncio outside, because nats-py lives there, and a private epoll inside.

Twisted's descriptors live in an epoll object of their own, whose descriptor is one reader of the
asyncio loop. A read then costs what it costs under Twisted's epoll reactor (an echo 32.7 us, on
the plain asyncio reactor 44.5 us), and both worlds share one thread.

The names that are borrowed from EPollReactor are private; tests/test_reactors.py holds them.
"""

import asyncio
import select
import time
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.main import installReactor
from twisted.logger import Logger

_EVENTS: Final = 128  # served in one turn of the loop: some 5 ms

if hasattr(select, "epoll"):
    from twisted.internet.epollreactor import EPollReactor

    class NestedReactor(AsyncioSelectorReactor):
        """An asyncio reactor whose Twisted descriptors are polled by epoll directly."""

        _POLL_DISCONNECTED = EPollReactor._POLL_DISCONNECTED
        _POLL_IN = EPollReactor._POLL_IN
        _POLL_OUT = EPollReactor._POLL_OUT
        _add = EPollReactor._add
        _remove = EPollReactor._remove
        _doReadOrWrite: Any = EPollReactor._doReadOrWrite
        addReader = EPollReactor.addReader
        addWriter = EPollReactor.addWriter
        removeReader = EPollReactor.removeReader
        removeWriter = EPollReactor.removeWriter
        removeAll = EPollReactor.removeAll
        getReaders = EPollReactor.getReaders
        getWriters = EPollReactor.getWriters

        _log = Logger()

        # Twisted's timers follow the wall clock; ours must survive its jumps.
        seconds = staticmethod(time.monotonic)

        def __init__(self, eventloop: asyncio.AbstractEventLoop | None = None) -> None:
            self._poller = select.epoll()
            self._reads: set[int] = set()
            self._writes: set[int] = set()
            self._selectables: dict[int, Any] = {}
            super().__init__(eventloop)
            self._asyncioEventloop.add_reader(self._poller.fileno(), self._dispatch)

        def _dispatch(self) -> None:
            """Serve the descriptors that are ready, each once, so many of them.

            The others are ready at the next turn still: between them the asyncio side has its
            own, a broadcast its slice, however many clients ask for something at once.

            Reads are done here, the rest by `_doReadOrWrite`; both log what a protocol raises and
            drop its connection. The logging context that Twisted's own loop sets up for each event
            is left out (1.5 us).
            """
            selectables, readable = self._selectables, select.EPOLLIN
            for fd, event in self._poller.poll(0, _EVENTS):
                selectable = selectables.get(fd)
                if selectable is None:
                    continue
                if event != readable:
                    self._doReadOrWrite(selectable, fd, event)
                    continue
                try:
                    why = selectable.doRead()
                except Exception as error:
                    self._log.failure("reading failed")
                    why = error
                if why:
                    self._disconnectSelectable(selectable, why, True)

    Reactor: type[AsyncioSelectorReactor] = NestedReactor
else:  # macOS: slower, and the same in every other respect
    Reactor = AsyncioSelectorReactor


def install() -> None:
    """Install the reactor that is best on this system; for `--reactor=odin`, too.

    Raises: ReactorAlreadyInstalledError.
    """
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    installReactor(Reactor(loop))


def event_loop(reactor: Any) -> asyncio.AbstractEventLoop | None:
    """The asyncio loop inside a reactor; None if the reactor has none."""
    return getattr(reactor, "_asyncioEventloop", None)


def call_soon(reactor: Any) -> Callable[[Callable[[], None]], object]:
    """What runs a callable after the reads of this turn: without the cost of a DelayedCall."""
    loop = event_loop(reactor)
    if loop is not None:
        return loop.call_soon
    return lambda call: reactor.callLater(0, call)
