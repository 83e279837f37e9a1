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


def kept(value, depth=5):
    """Bytes and characters in a value and in what it holds."""
    if isinstance(value, bytes | bytearray | str):
        return len(value)
    if depth and isinstance(value, list | tuple | set | frozenset | deque):
        return sum(kept(each, depth - 1) for each in value)
    if depth and isinstance(value, dict):
        return sum(kept(each, depth - 1) for pair in value.items() for each in pair)
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


def arrive(peer, reads):
    """Each of `reads` in a read of its own, in one turn, as long as the connection is read."""
    for each in reads:
        if peer.ended in ("lost", "aborted"):
            break
        peer.protocol.dataReceived(each)
    peer.server.turn()


def comparable(server, data):
    """What a server wrote, without what differs from run to run: its epoch and the date."""
    return _DATE.sub(b"", data.replace(server.bridge.epoch.encode(), b"epoch"))
