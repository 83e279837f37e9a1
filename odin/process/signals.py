"""SIGTERM, SIGINT, SIGHUP: the first stops in order, with exit status 0; the second at once.

A supervisor has its own meaning for SIGHUP.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Collection
from typing import Any

from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

_log = Logger()


def graceful(
    reactor: Any,
    *,
    only: Collection[int] = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
    on_hangup: Callable[[], object] | None = None,
    stopping: Callable[[], object] | None = None,
    at_once: Callable[[], object] | None = None,
) -> None:
    """Take the signals over, from now on; call it before `reactor` runs.

    `on_hangup`: what SIGHUP does instead. `stopping`: what the first of `only` does instead of
    stopping the reactor. `at_once`: what is done in the handler of the second, before the process
    ends.

    Twisted's own handlers would end the process with the signal's status, and a second signal
    would be an error.
    """
    signals_seen = 0

    def asked(number: int, _frame: object) -> None:
        nonlocal signals_seen
        signals_seen += 1
        if signals_seen > 1:
            if at_once is not None:
                at_once()
            os._exit(128 + number)
        _log.info("{name}: stopping", name=signal.Signals(number).name)
        reactor.callFromThread(stopping or (lambda: stop(reactor)))

    def hang_up(_number: int, _frame: object) -> None:
        reactor.callFromThread(on_hangup)

    for number in only:
        signal.signal(number, asked)
    # what Twisted installs while it starts is ours as well, so that there is no moment without
    if signal.SIGTERM in only:
        reactor.sigTerm = asked
    if signal.SIGINT in only:
        reactor.sigInt = asked
    if on_hangup is not None:
        signal.signal(signal.SIGHUP, hang_up)
    if signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:  # twistd's, for logs it rotates itself
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def stop(reactor: Any) -> None:
    """Stop the reactor, unless it does already."""
    with contextlib.suppress(ReactorNotRunning):
        reactor.stop()
