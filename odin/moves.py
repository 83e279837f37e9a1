"""A server as the two ends of a hand-over see it (process.handover.Side)."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from odin.bus.succession import FeedHead, Nonces, Predecessor, Relayed, Ring
from odin.gateway.drain import drain
from odin.gateway.moving import Batch, Loose, Moved, Mover
from odin.gateway.session import Session
from odin.process.channel import content
from odin.process.handover import Hello
from odin.service import Parts

_MOST_BYTES: Final = 4 << 20  # in one message, and a client's
_OPENING_S: Final = 1.0  # for handshakes and requests that are under way


class Moves:
    """What a hand-over does with the parts of this server."""

    _log = Logger()

    def __init__(self, reactor: Any, parts: Parts) -> None:
        self._reactor = reactor
        self._parts = parts
        self._mover = Mover(parts.factory, parts.hub, parts.bridge, parts.context, parts.control)
        self._predecessor = Predecessor(parts.bridge)
        self._odd: set[Session] = set()  # those that cannot be described
        self._released = False

    # -- the old worker

    def record(self) -> None:
        """A successor is about to start: remember what is received from now on."""
        self._predecessor.record()

    def hello(self) -> Hello:
        return Hello(*self._parts.context.verifier.revocations.contents())

    def numbered(self) -> int:
        """The last number of a client that this process can have given."""
        factory = self._parts.factory
        under_way = factory.transports - factory.connections  # will be numbered here
        return self._parts.context.numbered + under_way + 1

    def feed(self, fence: bytes) -> list[tuple[str, object]]:
        if self._parts.bridge.bus.stores:
            return []  # the successor has another bus: a numbering of its own
        return self._predecessor.state(fence)

    def flush(self, send: Callable[[str, object], None]) -> None:
        self._predecessor.flush(send)

    def stop_recording(self) -> None:
        self._predecessor.stop()

    def unbroken(self) -> bool:
        """Whether all of the feed was received here since the state was given."""
        return self._predecessor.unbroken

    def release(self, *, pass_on: bool) -> dict[int, int]:
        self._released = True
        passed = self._parts.gateway.release_all(pass_on=pass_on)
        if self._parts.market is not None and self._parts.market.running:
            self._parts.market.stopService()
        return passed

    def listens(self) -> None:
        """This server accepts; again, if a hand-over failed."""
        if self._released:
            self._released = False
            self._start_market()

    def _start_market(self) -> None:
        market = self._parts.market
        if market is not None and not market.running:
            market.startService()

    def candidates(self) -> tuple[list[Session], list[Session], list[Session]]:
        """(those who can move now, those who never can, those who cannot yet)."""
        ready: list[Session] = []
        stuck: list[Session] = []
        busy: list[Session] = []
        for each in self._parts.gateway.sessions():
            if each in self._odd or not self._mover.may_move(each):
                stuck.append(each)
            else:
                (ready if self._mover.movable(each) else busy).append(each)
        return ready, stuck, busy

    def opening(self, passed_s: float) -> bool:
        """Whether requests or handshakes may be under way."""
        factory = self._parts.factory
        return passed_s < _OPENING_S and factory.transports > factory.connections

    def connections(self) -> int:
        return self._parts.factory.connections

    def loosen(
        self, sessions: Iterator[Session], most: int
    ) -> tuple[list[Loose], Batch, list[int]]:
        """The next ones, at most so many and some megabytes; none at the end."""
        loose: list[Loose] = []
        moved: list[Moved] = []
        size = 0
        while len(loose) < most and size < _MOST_BYTES and (each := next(sessions, None)):
            found = self._mover.loosen(each)
            if found is None:
                continue
            try:
                size += len(msgspec.msgpack.encode(found[1]))
            except (
                ValueError,
                TypeError,
                OverflowError,
            ):  # one must not keep the others from going
                self._log.failure("a client cannot be handed over")
                self._odd.add(each)
                self._mover.take_back(found[0])
            else:
                loose.append(found[0])
                moved.append(found[1])
        bridge = self._parts.bridge
        descriptors = [each.protocol.transport.fileno() for each in loose]
        return loose, Batch(bridge.epoch, bridge.offset, moved, bridge.live), descriptors

    def let_go(self, loose: Iterable[Loose]) -> None:
        for each in loose:
            self._mover.let_go(each)

    def take_back(self, loose: Iterable[Loose]) -> None:
        for each in loose:
            self._mover.take_back(each)

    def drain(self, sessions: Iterable[Session], over_s: float) -> "Deferred[int]":
        return Deferred.fromCoroutine(drain(self._reactor, self._parts.hub, sessions, over_s))

    # -- the new worker

    def inherit(self, endpoints: dict[int, int]) -> None:
        """Listening descriptors of endpoints."""
        self._parts.gateway.endpoints.inherit(endpoints)

    def greet(self, hello: Hello) -> None:
        self._parts.context.verifier.revocations.refill(hello.tokens, hello.users)

    def note_number(self, numbered: int) -> None:
        """The number after which clients are numbered here."""
        self._parts.context.numbered = numbered

    def room(self) -> int:
        """For so many clients more there are descriptors, whoever else may come meanwhile."""
        return self._parts.factory.room // 2

    def take_feed(self, kind: str, raw: msgspec.Raw) -> bool:
        """A part of the feed's state; False if it is none."""
        follower = self._parts.follower
        if kind == "relayed":
            follower.relayed(content(raw, Relayed))
        elif kind == "feed":
            follower.adopt(content(raw, FeedHead))
        elif kind == "ring":
            follower.fill(content(raw, Ring))
        elif kind == "nonces":
            follower.know(content(raw, Nonces))
        else:
            return False
        return True

    def ahead(self, raw: msgspec.Raw) -> bool:
        """Whether these clients have messages that have not come here yet."""
        batch: Batch = content(raw, Batch)
        bridge = self._parts.bridge
        return batch.epoch == bridge.epoch and batch.offset > bridge.offset

    def settle(self, raw: msgspec.Raw, sockets: list[Any]) -> None:
        batch: Batch = content(raw, Batch)
        transport = self._parts.gateway.transport
        for moved, sock in zip(batch.clients, sockets, strict=True):
            try:
                self._mover.settle(batch, moved, sock, transport)
            except Exception:  # must not cost the others anything
                self._log.failure("a client was lost in a hand-over")
                sock.close()

    def lead(self, *, unbroken: bool = True) -> None:
        self._parts.follower.lead(unbroken=unbroken)
        self._start_market()

    def forget(self) -> None:
        self._parts.follower.forget()
