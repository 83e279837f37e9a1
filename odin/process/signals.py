"""SIGTERM, SIGINT, SIGHUP: the first stops in order, with exit status 0; the second at once."""

import os
import signal
from typing import Any

from twisted.logger import Logger

_log = Logger()


def graceful(reactor: Any) -> None:
    """Take the signals over once `reactor` runs.

    Twisted's own handlers would end the process with the signal's status, and a second signal
    would be an error.
    """
    signals_seen = 0

    def stop(number: int, _frame: object) -> None:
        nonlocal signals_seen
        signals_seen += 1
        if signals_seen > 1:
            os._exit(128 + number)
        reactor.callFromThread(_stop, reactor, signal.Signals(number).name)

    def install() -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, stop)

    # not before Twisted has installed its own, which it does while starting
    reactor.callWhenRunning(reactor.callLater, 0, install)


def _stop(reactor: Any, name: str) -> None:
    _log.info("{name}: stopping", name=name)
    reactor.stop()
