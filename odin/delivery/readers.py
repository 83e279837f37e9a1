"""Clients that something of the past is played to: those that do not read are let go in time."""

from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from odin.delivery.message import Message

_LOOK_EVERY_S: Final = 2.5  # who has taken no chunk between two looks does not read


class Reader(Protocol):
    """A client to which something is played."""

    def look(self, holds: Callable[[Message], bool]) -> bool:
        """Let it go if it does not read what only it keeps in memory; whether to look again.

        `holds`: whether a message is in memory anyway.
        """


class Readers:
    """Looks at each of them now and then, in a step of its own."""

    def __init__(
        self,
        holds: Callable[[Message], bool],
        later: Callable[[Callable[[], None]], None],
        call_after: Callable[[float, Callable[[], None]], object],
    ) -> None:
        """`later`: runs a step in a turn to come. `call_after`: runs a callable after seconds."""
        self._holds = holds
        self._later = later
        self._call_after = call_after
        self._readers: dict[Reader, None] = {}

    def watch(self, reader: Reader) -> None:
        """Call its `look` now and then, until that says no."""
        if not self._readers:
            self._call_after(_LOOK_EVERY_S, self._look)
        self._readers[reader] = None

    def _look(self) -> None:
        for reader in self._readers:
            self._later(partial(self._look_at, reader))
        self._call_after(_LOOK_EVERY_S, self._look_again)

    def _look_again(self) -> None:
        if self._readers:
            self._look()

    def _look_at(self, reader: Reader) -> None:
        if not reader.look(self._holds):
            self._readers.pop(reader, None)
