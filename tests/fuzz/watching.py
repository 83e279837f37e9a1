"""What every target looks at: tracebacks in the log, and how much a connection keeps."""

import contextlib
import re
from collections import deque

from twisted.logger import globalLogPublisher

_DATE = re.compile(rb"Date: [^\r]*\r\n")


@contextlib.contextmanager
def no_traceback():
    """Fail if a failure is logged: a stranger must not be able to cause that."""
    failures = []

    def note(event):
        if event.get("log_failure") is not None:
            failures.append(event["log_failure"])

    globalLogPublisher.addObserver(note)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(note)
    if failures:
        raise AssertionError(f"logged: {failures[0].getTraceback()}") from failures[0].value


_SHARED = frozenset(("factory", "transport", "session", "_exchange", "_admission"))
READ_BYTES = 4096  # what a transport reads at a time


def kept(value, depth=6):
    """Bytes and characters in a value and in what it holds, but for what all connections share."""
    if isinstance(value, bytes | bytearray | str):
        return len(value)
    if depth and isinstance(value, list | tuple | set | frozenset | deque):
        return sum(kept(each, depth - 1) for each in value)
    if depth and isinstance(value, dict):
        return sum(kept(each, depth - 1) for name, each in value.items() if name not in _SHARED)
    if depth and type(value).__module__.startswith("odin.") and not isinstance(value, type):
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        attributes = {name: getattr(value, name, None) for name in slots}
        return kept(attributes | getattr(value, "__dict__", {}), depth - 1)
    return 0


class Reused:
    """A server for many inputs, made again after one that failed: making it takes longer."""

    def __init__(self, make):
        self._make = make
        self._server = None

    def __enter__(self):
        if self._server is None:
            self._server = self._make()
        return self._server

    def __exit__(self, kind, _error, _trace):
        if kind is not None:
            self._server = None


def arrive(peer, pieces):
    """Each piece in reads of its own, as long as the connection is read; one turn, or as many as
    the connection pauses."""
    for each in pieces:
        for at in range(0, len(each), READ_BYTES):
            if not peer.transport.reading:
                peer.server.turn()
            if peer.ended in ("lost", "aborted") or not peer.transport.reading:
                return
            peer.protocol.dataReceived(each[at : at + READ_BYTES])
    peer.server.turn()


def comparable(server, data):
    """What a server wrote, without what differs from run to run: its epoch and the date."""
    return _DATE.sub(b"", data.replace(server.bridge.epoch.encode(), b"epoch"))
