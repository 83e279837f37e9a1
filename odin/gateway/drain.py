"""Letting clients go one by one: `reconnect` to all at once, then 1012 to each in its turn.

When a server goes, all its clients come back to the others. They are spread evenly over the drain
time, so that nobody gets all of them in one second.
"""

from collections.abc import Iterable
from typing import Any, Final

from twisted.internet.task import deferLater

from odin.delivery.hub import Hub
from odin.gateway.session import Session
from odin.wire.codes import CloseCode, close_reason

_SLICE: Final = 100  # clients told, before the reactor gets a turn
_TICK_S: Final = 0.05

RESTART: Final = close_reason("restart", "come back, with recover")


async def drain(reactor: Any, hub: Hub, sessions: Iterable[Session], over_s: float) -> int:
    """Let every session go within `over_s`; returns how many there were.

    What a client is told of its position in the feed is true: it has been sent everything until
    there.
    """
    leaving = list(sessions)
    step_s = max(over_s, 0.001) / max(1, len(leaving))
    began = reactor.seconds()
    for number, session in enumerate(leaving):
        if number % _SLICE == 0:
            hub.flush()
        session.expect_restart(int(number * step_s * 1000))
        if number % _SLICE == _SLICE - 1:
            await deferLater(reactor, 0)
    gone = 0
    while gone < len(leaving):
        due = min(len(leaving), int((reactor.seconds() - began) / step_s) + 1)
        for number in range(gone, min(due, gone + _SLICE)):
            leaving[number].close(CloseCode.RESTART, RESTART)
            gone += 1
        if gone < len(leaving):
            await deferLater(reactor, 0 if gone < due else _TICK_S)
    return len(leaving)
