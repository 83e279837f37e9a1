"""The way of a client's messages out: at once, or behind what waits for it already."""

from collections.abc import Callable
from typing import Any, Final, Protocol

from odin.delivery.backlog import Backlog
from odin.delivery.group import ABSENT, Group
from odin.delivery.hub import Hub
from odin.delivery.message import Message, joined
from odin.delivery.playback import Playback
from odin.delivery.readers import Reader
from odin.wire.codes import CloseCode

_MADE_IN_A_TURN: Final = 2  # chunks of a playback, of 1 ms each at most


class Outlet(Protocol):
    """The connection of a client."""

    @property
    def behind(self) -> bool:
        """Whether bytes wait for the kernel to take them."""

    def write(self, data: bytes) -> None:
        """Write whole frames, in order."""

    def hold(self, data: bytes, sent: int) -> None:
        """Keep what a direct send left over."""

    def overflowed(self, pending: int) -> None:
        """More waits for this client than may."""

    def close(self, code: CloseCode, reason: str) -> None:
        """Begin the closing handshake; nothing but the close frame is written from now on."""

    def look_again(self) -> None:
        """Ask for `token_event` at the next tick: the token is another one."""


class Watch(Protocol):
    """Who looks after clients that do not read what they asked for."""

    def watch(self, reader: Reader) -> None: ...


class Tally(Protocol):
    """What all clients of a server have in common here."""

    max_pending: int  # bytes that may wait for one client
    conflated: int  # messages replaced by newer ones
    dropped: int  # messages that waited for clients which were let go

    @property
    def hub(self) -> Hub:
        """Where turns come from."""

    @property
    def replays(self) -> Watch:
        """Where playbacks come from."""


class Outflow:
    """A client as the hub sees it (groups.Recipient).

    While the kernel takes everything there is no backlog and the hub sends to `sink` directly.
    Once it does not, what it left over waits in the transport, and everything after that in a
    backlog, from which the transport is filled again whenever it is empty.
    """

    __slots__ = ("_backlog", "_tally", "group", "outlet", "position", "sink")

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._backlog: Backlog | None = None
        self.group: Group | None = None
        self.outlet: Outlet | None = None
        self.position = ABSENT
        self.sink: Any = None

    def close(self, code: CloseCode, reason: str) -> None:
        """Begin the closing handshake; the feed ends here."""
        if self.outlet is not None:
            self.outlet.close(code, reason)

    def detach(self) -> None:
        """The connection is over: nothing is sent any more."""
        if self._backlog is not None:
            self._tally.dropped += len(self._backlog)
            self._backlog = None
        self.outlet = self.sink = None

    # -- from the hub

    def send(self, data: bytes) -> None:
        if self.outlet is not None:
            self.outlet.write(data)

    def hold(self, data: bytes, sent: int) -> None:
        if self.outlet is not None:
            self.outlet.hold(data, sent)

    def offer(self, messages: list[Message]) -> None:
        backlog = self._backlog
        if backlog is None:
            self.send(joined(messages))
            return
        self._tally.conflated += backlog.add(messages)
        self._check(backlog)

    # -- from the transport

    def fell_behind(self) -> None:
        """The kernel's buffer is full: from now on everything waits in order behind it."""
        self.sink = None
        if self._backlog is None:
            self._backlog = Backlog(self._tally.max_pending)
        if self.group is not None:
            self.group.fell_behind(self)

    def caught_up(self, sink: Any) -> None:
        """The kernel took all that the transport held."""
        self._drain(sink)
        if self._backlog is None and self.outlet is not None:
            self.sink = sink
            if self.group is not None:
                self.group.caught_up(self)

    # -- from the conversation

    def tell(self, frame: bytes) -> None:
        """A frame for this client alone, behind everything before it."""
        if self._backlog is not None:
            self._backlog.append(frame)
            self._check(self._backlog)
        else:
            self.send(frame)

    def play(self, playback: Playback) -> None:
        """Messages of the past, behind everything before; joined as they are sent, some a turn."""
        if not playback:
            return
        backlog = self._backlog
        if backlog is None:
            backlog = self._backlog = Backlog(self._tally.max_pending)
            backlog.extend(playback)
            self._drain(self.sink, _MADE_IN_A_TURN if playback.laborious else 0)
        else:
            backlog.extend(playback)
        if self._backlog is not None:
            self._tally.replays.watch(self)

    def look(self, holds: Callable[[Message], bool]) -> bool:
        """Let the client go if it does not read, and too much waits that nobody else needs."""
        backlog = self._backlog
        if backlog is None or not backlog.replaying:
            return False
        if not backlog.moved() and self.outlet is not None:
            backlog.relax()
            size = backlog.weight(holds)
            if size > self._tally.max_pending:
                self.outlet.overflowed(size)
        return self._backlog is not None

    def _drain(self, sink: Any, made: int = 0) -> None:
        """Write from the backlog until the kernel takes no more, or it is empty.

        What has to be made first goes on in later turns; until then the client is out of the sweep.
        `made`: how much that was in this turn.
        """
        while self._backlog and self.outlet is not None:
            if self._backlog.makes_next and (made := made + 1) > _MADE_IN_A_TURN:
                self.sink = None
                if self.group is not None:
                    self.group.fell_behind(self)
                self._tally.hub.later(lambda: self._make_more(sink))
                return
            data = self._backlog.take()
            if data:
                self.outlet.write(data)
            if self.outlet is None or self.outlet.behind:
                return
        self._backlog = None

    def _make_more(self, sink: Any) -> None:
        if self._backlog is not None and self.outlet is not None and not self.outlet.behind:
            self.caught_up(sink)

    def _check(self, backlog: Backlog) -> None:
        if backlog.size > self._tally.max_pending and self.outlet is not None:
            self.outlet.overflowed(backlog.size)
