"""The two ends of a hand-over: an old worker gives its clients, a new one takes them.

    new: want                                    what it needs of the feed
    old: hello, (feed, ring .., nonces), caught-up
    new: synced                                  it could serve a client now
    old: (endpoints + descriptors)               listening sockets that are not the supervisor's
    old: numbered                                accepts nobody any more; the last client's number
    new: noted
    old: room                                    when some can go
    new: room                                    there are descriptors for so many
    old: clients + descriptors                   so many at a time; reads no more from them
    new: took, room                              from here on they are its own
    ...                                          (and `relayed`: the feed, as long as it follows)
    old: end                                     nobody is left, or nobody who can move
    new: leads

What the new worker has not acknowledged when it dies is still with the old one, which goes on. One
that does not answer in time is killed by the supervisor first: nobody is ever served by two.
Those who cannot move (TLS, a zlib stream from the past) are drained; those in the middle of a
frame stay until they are at rest, or for PATIENCE_S. Those for whom the new worker has no room are
drained as well.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from odin.process.channel import Channel, adopt, content
from odin.process.lateness import Limit

PATIENCE_S: Final = 10.0  # for clients to come to rest
_BATCH: Final = 100  # clients in one message
_LOOK_EVERY_S: Final = 0.02
_MAX_UNSENT: Final = 4 << 20  # bytes of state on their way, before more is made
_DRAIN_S: Final = 5.0  # for those who cannot move to leave, evenly
_ANSWER_S: Final = 5.0  # for an answer of the new worker; clients may be waiting for it
_STATE_S: Final = 20.0  # for the new worker to take the feed's state in
_SETTLE_S: Final = 4.0  # for the new worker to be as far in the feed as a client
_STOP_S: Final = 2.0  # for the answer to clients that are on their way
_LATE_S: Final = 15.0  # after which no relayed message is on its way from the broker any more


class Hello(msgspec.Struct):
    """What the new worker must know beside the feed."""

    tokens: list[str]  # revoked
    users: dict[str, float]


class Want(msgspec.Struct):
    """What the new worker asks for."""

    fence: bytes | None  # where its own feed began; None = it has a numbering of its own
    endpoints: bool = False  # whether it takes listening sockets


class Side(Protocol):
    """A server as the two ends of a hand-over use it: odin.moves."""

    def hello(self) -> Hello: ...
    def greet(self, hello: Hello) -> None: ...
    def feed(self, fence: bytes) -> list[tuple[str, object]]: ...
    def flush(self, send: Callable[[str, object], None]) -> None: ...
    def stop_recording(self) -> None: ...
    def unbroken(self) -> bool: ...
    def take_feed(self, kind: str, raw: msgspec.Raw) -> bool: ...
    def release(self, *, pass_on: bool) -> dict[int, int]: ...
    def inherit(self, endpoints: dict[int, int]) -> None: ...
    def candidates(self) -> tuple[list[Any], list[Any], list[Any]]: ...
    def opening(self, passed_s: float) -> bool: ...
    def connections(self) -> int: ...
    def numbered(self) -> int: ...
    def note_number(self, numbered: int) -> None: ...
    def room(self) -> int: ...
    def loosen(self, sessions: Iterator[Any], most: int) -> tuple[list[Any], object, list[int]]: ...
    def let_go(self, loose: Iterable[Any]) -> None: ...
    def take_back(self, loose: Iterable[Any]) -> None: ...
    def drain(self, sessions: Iterable[Any], over_s: float) -> "Deferred[int]": ...
    def ahead(self, raw: msgspec.Raw) -> bool: ...
    def settle(self, raw: msgspec.Raw, sockets: list[Any]) -> None: ...
    def lead(self, *, unbroken: bool = True) -> None: ...
    def forget(self) -> None: ...


class _Gone(Exception):
    """The other end is gone."""


class Giver:
    """The old worker's end."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        side: Side,
        sock: Any,
        tell: Callable[[str, object], None],
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`patience_s`: for those who are not at rest. `tell` gets ("released", None) once nothing
        is accepted here any more, and at the end ("given", how many) or ("kept", how many are
        still here); and ("stuck", None) if the new worker does not answer: it must be killed."""
        self._reactor = reactor
        self._side = side
        self._tell = tell
        self._news: Deferred[None] | None = None
        self._answers: list[tuple[str, msgspec.Raw]] = []
        self._given = 0
        self._gone = False
        self._loose: list[Any] = []
        self._room = 0
        self._patience_s = patience_s
        self._enough = False
        self._over: Deferred[None] = Deferred()
        self._channel = Channel(reactor, sock, self._received, self._lost)
        Deferred.fromCoroutine(self._run()).addErrback(self._broke)

    def stop(self) -> "Deferred[None]":
        """Give no more; fires when nobody is on the way any more. The others stay here."""
        self._enough = True
        over: Deferred[None] = Deferred()
        self._over.addCallback(over.callback)
        if not self._over.called:
            limit = Limit(self._reactor, _STOP_S, self._stop_now)
            self._over.addCallback(lambda _: limit.cancel())
        return over

    def _stop_now(self) -> None:
        """It must end, even if there is no supervisor any more that kills the other one."""
        self._stuck()
        limit = Limit(self._reactor, _STOP_S, self._cut)
        self._over.addCallback(lambda _: limit.cancel())

    def _stuck(self) -> None:
        self._log.error("the new worker does not answer")
        self._tell("stuck", None)

    def _cut(self) -> None:
        if not self._gone:
            self._channel.close()
            self._lost()

    async def _run(self) -> None:
        try:
            await self._hand_over()
        finally:
            self._over.callback(None)

    async def _hand_over(self) -> None:
        try:
            want: Want = content(await self._next("want"), Want)
            await self._send_state(want.fence)
            await self._next("synced", _STATE_S)
            listening = self._side.release(pass_on=want.endpoints)
            if listening:
                self._channel.send("endpoints", list(listening), list(listening.values()))
            self._channel.send("numbered", self._side.numbered())
            await self._next("noted")
            self._tell("released", None)
            await self._give_all()
            self._side.flush(self._channel.send)
            unbroken = self._side.unbroken()
            self._side.stop_recording()
            self._channel.send("end", unbroken)
            await self._next("leads")
        except _Gone:
            return
        self._channel.close()
        if self._enough:
            self._tell("kept", self._side.connections())
        else:
            self._tell("given", self._given)

    async def _send_state(self, fence: bytes | None) -> None:
        self._channel.send("hello", self._side.hello())
        if fence is not None:
            with Limit(self._reactor, _STATE_S, self._stuck):
                for kind, part in self._side.feed(fence):
                    self._channel.send(kind, part)
                    await self._pause(0)
                    while self._channel.waiting > _MAX_UNSENT:
                        await self._pause(0.001)
        self._channel.send("caught-up")

    async def _give_all(self) -> None:
        """Give everybody who can be given; let the others go."""
        with Limit(self._reactor, self._patience_s) as patience:
            drains = await self._give_while(patience)
        while not self._enough and not all(each.called for each in drains):
            self._side.flush(self._channel.send)  # those who have moved wait for the feed
            await self._pause(_LOOK_EVERY_S)

    async def _give_while(self, patience: Limit) -> "list[Deferred[int]]":
        """Give those who are at rest, or come to rest in time; the others are being drained."""
        leaving: dict[Any, None] = {}
        drains = []
        while not self._enough:
            passed_s = patience.ran_s
            ready, stuck, busy = self._side.candidates()
            if ready:
                self._channel.send("room")
                self._room = content(await self._next("room"), int)
            if passed_s >= self._patience_s or (ready and self._room <= 0):
                stuck, ready = [*ready, *stuck, *busy], []
            if stuck := [each for each in stuck if each not in leaving]:
                leaving.update(dict.fromkeys(stuck))
                self._log.info("{n} clients cannot move: they are let go", n=len(stuck))
                over_s = _DRAIN_S if passed_s < _DRAIN_S else 0.5
                drains.append(self._side.drain(stuck, over_s))
            if ready:
                waiting = iter(ready)
                while not self._enough and self._room > 0 and await self._give(waiting):
                    pass
                continue
            if not any(each not in leaving for each in busy) and not self._side.opening(passed_s):
                break
            self._side.flush(self._channel.send)
            await self._pause(_LOOK_EVERY_S)
        return drains

    async def _give(self, sessions: Iterator[Any]) -> bool:
        """Give some of them; False when there is nobody left."""
        loose, batch, descriptors = self._side.loosen(sessions, min(_BATCH, self._room))
        if not loose:
            return False
        self._loose = loose
        self._side.flush(self._channel.send)
        self._channel.send("clients", batch, descriptors)
        self._room = content(await self._next("took"), int)
        self._loose = []
        self._side.let_go(loose)
        self._given += len(loose)
        await self._pause(0)
        return True

    async def _pause(self, seconds: float) -> None:
        await deferLater(self._reactor, seconds)
        if self._gone:
            raise _Gone

    async def _next(self, kind: str, within_s: float = _ANSWER_S) -> msgspec.Raw:
        """The next message, which must be of this kind. Raises: _Gone, ValueError.

        A new worker that does not say it in time is called stuck. What it had taken until then is
        known only when it is gone, and only then does this go on.
        """
        if not self._answers:
            with Limit(self._reactor, within_s, self._stuck):
                while not self._answers:
                    if self._gone:
                        raise _Gone
                    self._news = Deferred()
                    await self._news
        got, raw = self._answers.pop(0)
        if got != kind:
            raise ValueError(f"{got} instead of {kind}")
        return raw

    def _received(self, kind: str, raw: msgspec.Raw, descriptors: list[int]) -> None:
        for each in descriptors:
            os.close(each)
        self._answers.append((kind, raw))
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, None
        if news is not None:
            news.callback(None)

    def _lost(self) -> None:
        """The new worker is gone: go on with everybody who is left. What it had is gone with it."""
        self._gone = True
        self._side.stop_recording()
        loose, self._loose = self._loose, []
        self._side.take_back(loose)
        self._tell("kept", self._side.connections())
        self._wake()

    def _broke(self, failure: Any) -> None:
        self._log.failure("the hand-over failed", failure)
        if not self._gone:
            self._channel.close()
            self._lost()


class Taker:
    """The new worker's end."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        side: Side,
        sock: Any,
        *,
        fence: bytes | None,
        tell: Callable[[str, object], None],
    ) -> None:
        """`tell` gets ("synced", None) when clients may come, ("taken", how many) at the end."""
        self._reactor = reactor
        self._side = side
        self._tell = tell
        self._taken = 0
        self._leads = False
        self._held: list[tuple[msgspec.Raw, list[int]]] = []
        self._waited_s = 0.0
        self._channel = Channel(reactor, sock, self._received, self._lost)
        self._channel.send("want", Want(fence, endpoints=True))

    def _received(self, kind: str, raw: msgspec.Raw, descriptors: list[int]) -> None:
        if kind == "clients":
            self._held.append((raw, descriptors))
            self._take()
        elif kind == "hello":
            self._side.greet(content(raw, Hello))
        elif kind == "room":
            self._channel.send("room", self._side.room())
        elif kind == "endpoints":
            numbers: list[int] = content(raw, list[int])
            self._side.inherit(dict(zip(numbers, descriptors, strict=True)))
        elif kind == "numbered":
            self._side.note_number(content(raw, int))
            self._channel.send("noted")
        elif kind == "caught-up":
            self._channel.send("synced")
            self._tell("synced", None)
        elif kind == "end":
            self._lead(unbroken=content(raw, bool))
            self._channel.send("leads")
        elif not self._side.take_feed(kind, raw):
            raise ValueError(f"an unknown message: {kind}")

    def _take(self) -> None:
        """Serve the clients that came, once the feed here is as far as theirs."""
        while self._held:
            raw, descriptors = self._held[0]
            if self._side.ahead(raw):
                if self._waited_s > _SETTLE_S:
                    self._log.error("the feed does not come as far as that of the old worker")
                    self._channel.close()
                    self._lost()
                    return
                self._waited_s += _LOOK_EVERY_S
                self._reactor.callLater(_LOOK_EVERY_S, self._take)
                return
            self._waited_s = 0.0
            self._held.pop(0)
            # acknowledged before a byte goes out: nobody is served by two
            self._channel.send("took", self._side.room() - len(descriptors) // 2)
            sockets = [adopt(each) for each in descriptors]
            self._side.settle(raw, sockets)
            self._taken += len(sockets)

    def _lead(self, *, unbroken: bool = True) -> None:
        if self._leads:
            return
        self._leads = True
        self._side.lead(unbroken=unbroken)
        self._reactor.callLater(_LATE_S, self._side.forget)
        self._tell("taken", self._taken)

    def _lost(self) -> None:
        for _raw, descriptors in self._held:
            for each in descriptors:
                os.close(each)
        self._held.clear()
        self._lead()
