"""Taking a live connection out of this process, and putting it into another one.

    loose -> (message, descriptor) -> settle          in the other process
          \\-> let_go, once it is there; take_back, if it never will be

What moves is the socket and everything that Odin knows of the client. Only connections *at rest*
can go: open, no partial frame or message received, no answer of the broker outstanding. Those that
are behind take with them what waits for them.

Leans on private names of Session, Backlog and Autobahn's deflate: tests/test_moving.py.
"""

import random
import socket
from typing import Any, Final, NamedTuple

import msgspec
from autobahn.websocket.compress_deflate import PerMessageDeflate

from odin.access.tokens import Identity
from odin.bus.bridge import Bridge
from odin.delivery.backlog import Backlog
from odin.delivery.hub import Hub
from odin.delivery.message import Message, notice
from odin.delivery.playback import Messages, Playback
from odin.gateway.control import REVOKED, Control
from odin.gateway.drain import RESTART
from odin.gateway.factory import OdinFactory
from odin.gateway.session import Context, Session
from odin.gateway.transport import Transport
from odin.gateway.websocket import OdinProtocol
from odin.wire.codes import CloseCode
from odin.wire.frames import text_frame
from odin.wire.messages import FeedStatus, Position, encode

_MOST_WAITING: Final = 4 << 20  # bytes that travel with one client; with more it waits
_ALL: Final = 1 << 60  # no limit to a replay
_DEFLATE: Final = (
    "server_no_context_takeover", "client_no_context_takeover", "server_max_window_bits",
    "client_max_window_bits", "mem_level", "max_message_size",
)  # fmt: skip


class Waiting(msgspec.Struct, array_like=True):
    """What a client that is behind has not been sent."""

    pending: bytes  # begun already, maybe in the middle of a frame
    chunks: list[bytes]
    entries: list[tuple[str, int, bytes, bool]]
    conflating: bool
    skipped: int
    names: list[str]
    from_: int
    to: int


class Moved(msgspec.Struct, array_like=True):
    """One client on its way. Times are CLOCK_MONOTONIC, the same in all processes."""

    number: int
    identity: Identity
    patterns: list[str]
    explicit: bool
    warned: bool
    tat: float
    offences: list[tuple[str, float]]
    opened_at: float
    ping: int
    deflate: tuple[Any, ...] | None
    waiting: Waiting | None


class Told(NamedTuple):
    """What a client knows of the feed: it has everything up to here, and whether more can come."""

    epoch: str
    offset: int
    live: bool


class Batch(msgspec.Struct):
    """Clients that have got everything up to `offset`, but for what waits for them."""

    epoch: str
    offset: int
    clients: list[Moved]
    live: bool = True  # what they were told of the feed


class Loose(msgspec.Struct):
    """A client between two processes, as the old one keeps it."""

    protocol: Any
    session: Any
    patterns: frozenset[str]
    told: Told


class Mover:
    """Moves the clients of one server."""

    def __init__(
        self,
        factory: OdinFactory,
        hub: Hub,
        bridge: Bridge,
        context: Context,
        control: Control,
    ) -> None:
        self._factory = factory
        self._hub = hub
        self._bridge = bridge
        self._context = context
        self._control = control

    # -- the old process

    def movable(self, session: Session) -> bool:
        """Whether a client can go now."""
        protocol: Any = session.outlet
        return (
            isinstance(protocol, OdinProtocol)
            and self.may_move(session)
            and protocol.at_rest
            and not session.awaiting
            and not (session._backlog is not None and session._backlog.making)
            and _size_waiting(session, protocol.transport) <= _MOST_WAITING
        )

    def may_move(self, session: Session) -> bool:
        """Whether a client can ever go: not over TLS, not with a zlib stream from its past."""
        protocol: Any = session.outlet
        if not isinstance(protocol, OdinProtocol) or not isinstance(protocol.transport, Transport):
            return False
        compress = protocol._perMessageCompress
        return compress is None or getattr(compress, "_decompressor", None) is None

    def loosen(self, session: Session) -> tuple[Loose, Moved] | None:
        """Stop serving a client, and describe it. What it was owed until now is sent, or waits.

        None if it cannot go (any more).
        """
        if not self.movable(session):
            return None
        protocol: Any = session.outlet
        bridge, group = self._bridge, session.group
        patterns = group.patterns if group is not None else frozenset()
        self._hub.unregister(session, settle=True)
        if session.outlet is None:
            return None  # it was too slow for that
        transport = protocol.transport
        transport.stopReading()
        transport.stopWriting()
        self._factory.wheel.clear(protocol)
        self._factory.behind.discard(protocol)
        compress = protocol._perMessageCompress
        moved = Moved(
            number=session.number,
            identity=session.identity,
            patterns=list(patterns),
            explicit=session._explicit,
            warned=session._warned,
            tat=session._tat,
            offences=list(session._offences),
            opened_at=session.opened_at,
            ping=protocol._ping,
            deflate=tuple(getattr(compress, name) for name in _DEFLATE) if compress else None,
            waiting=_waiting(session, transport),
        )
        told = Told(bridge.epoch, bridge.offset, bridge.live)
        return Loose(protocol, session, patterns, told), moved

    def let_go(self, loose: Loose) -> None:
        """The other process has it: forget it, and close our descriptor, not the connection."""
        loose.session._backlog = None  # nothing of it is lost
        loose.session.detach()
        loose.protocol.session = None
        self._factory.seats.change(-1)
        self._factory.transports -= 1
        loose.protocol.transport.give_away()
        loose.protocol.end()

    def take_back(self, loose: Loose) -> None:
        """It stays: serve it again, with what came meanwhile."""
        protocol, session = loose.protocol, loose.session
        transport = protocol.transport
        self._go_on(session, loose.patterns, loose.told)
        transport.startReading()
        if transport.behind:
            transport.startWriting()
            self._factory.behind.add(protocol)
        self._arrived(session)
        self._wake(protocol)

    # -- the new process

    def settle(
        self, batch: Batch, moved: Moved, sock: socket.socket, kind: type[Transport]
    ) -> None:
        """Serve a client that came from another process."""
        factory = self._factory
        protocol: Any = factory.protocol()
        session = Session(self._context, moved.identity)
        session.number = moved.number
        session.opened_at = moved.opened_at
        session._explicit, session._warned = moved.explicit, moved.warned
        session._tat = moved.tat
        session._offences = tuple(moved.offences)
        if moved.deflate is not None:
            protocol._perMessageCompress = PerMessageDeflate(True, *moved.deflate)
        protocol._ping = moved.ping
        transport: Any = kind(sock, protocol, None, None, 0, factory.reactor)
        protocol.transport = transport
        protocol.session = session
        factory.transports += 1
        factory.seats.change(1)
        session.outlet, session.sink = protocol, transport.sink
        if moved.waiting is not None:
            self._restore(session, transport, moved.waiting)
        told = Told(batch.epoch, batch.offset, batch.live)
        self._go_on(session, frozenset(moved.patterns), told)
        self._arrived(session)
        self._wake(protocol)

    def _restore(self, session: Session, transport: Transport, waiting: Waiting) -> None:
        transport.hold(waiting.pending, 0)
        backlog = Backlog(self._context.max_pending)
        if waiting.chunks:
            backlog.extend(Playback(Messages(map(notice, waiting.chunks))))
        backlog.add([Message(*each) for each in waiting.entries])
        if waiting.conflating:
            backlog.conflate(waiting.skipped, waiting.names, waiting.from_, waiting.to)
        if backlog:
            session._backlog = backlog
            self._context.replays.watch(session)

    def _go_on(self, session: Session, patterns: frozenset[str], told: Told) -> None:
        """What came meanwhile, then the feed; and the news if it is another one, or another state,
        than the client was told."""
        bridge = self._bridge
        missed = None
        if told.epoch == bridge.epoch:
            missed = bridge.history.replay(patterns, told.offset, _ALL)
            if missed is None:
                # only the broker may have it still: the client can ask for it, and is told where
                session.expect_restart(0, Position(epoch=told.epoch, offset=told.offset))
                session.close(CloseCode.RESTART, RESTART)
                return
        if bridge.live and (missed is None or not told.live):
            offset = bridge.offset if missed is None else told.offset
            self._tell(session, FeedStatus(status="live", epoch=bridge.epoch, offset=offset))
        if missed:
            session.play(missed)
        if told.live and not bridge.live:
            self._tell(session, FeedStatus(status="stale"))
        if session.outlet is not None:
            self._hub.register(session, patterns)

    def _tell(self, session: Session, news: FeedStatus) -> None:
        session.tell(text_frame(encode(news)))

    def _arrived(self, session: Session) -> None:
        """What was done to all sessions while this one was nowhere."""
        if self._control.ended_since(session.identity, session.opened_at):
            session.close(CloseCode.FORBIDDEN, REVOKED)
        elif self._factory.draining:
            session.expect_restart(0)
            session.close(CloseCode.RESTART, RESTART)

    def _wake(self, protocol: Any) -> None:
        """Its next deadline: the pong that is awaited, the token, or a ping at a random time."""
        times = self._factory.times
        if protocol.session is not None and protocol.state == protocol.STATE_OPEN:
            ping_s = random.random() * times.ping_interval_s
            protocol.wait(times.pong_s if protocol.pinged else ping_s)


def _size_waiting(session: Session, transport: Transport) -> int:
    backlog = session._backlog
    return transport.pending + (backlog.size + backlog.replay_size if backlog is not None else 0)


def _waiting(session: Session, transport: Transport) -> Waiting | None:
    backlog = session._backlog
    if backlog is None and not transport.behind:
        return None
    pending = transport.waiting()
    if backlog is None:
        return Waiting(pending, [], [], False, 0, [], 0, 0)
    return Waiting(pending, *backlog.state())
