"""What a bus is: the seam between Odin and its broker."""

from typing import TYPE_CHECKING, Final, NamedTuple

from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

CONTROL: Final = "odin.control."  # subjects for operators; never part of the feed
FENCE: Final = f"{CONTROL}fence"  # between two processes, of which one takes over the feed


class Stored(NamedTuple):
    """A message of a bus that stores them."""

    subject: str
    payload: bytes
    offset: int


class Receipt(NamedTuple):
    """Where a published message is in the feed, for a bus that stores them."""

    epoch: str
    offset: int


class IReceiver(Interface):
    """What a bus hands its messages to."""

    def received(subject: str, payload: bytes, offset: int = 0) -> None:
        """One message of the bus; its offset, if the bus numbers them. Never raises.

        A subject that is not UTF-8 comes with lone surrogates (PEP 383); it is no channel.
        """

    def remember(subject: str, payload: bytes, offset: int, *, ring: bool) -> None:
        """One of the messages before the first received one, for a bus that stores them."""

    def controlled(subject: str, payload: bytes) -> None:
        """A message on one of the CONTROL subjects."""

    def status_changed(
        connected: bool, epoch: str | None = None, offset: int = 0, *, gap: bool = False
    ) -> None:
        """Messages can arrive, or cannot, or their numbering is another one.

        A numbering of the bus itself comes as `epoch`, and goes on after `offset`. `gap`: a bus
        without one has missed messages for ever.
        """


class IBus(Interface):
    """Where messages come from and go to. Also an IService.

    Every message published goes out through the bus and comes back by `received`, in one process
    too, so that there is one path for all.
    """

    kind: str = Attribute("one word for /health: memory, nats, jetstream")
    stores: bool = Attribute("whether it numbers messages itself, and keeps them")
    shared: bool = Attribute("whether other processes receive the same messages")
    connected: bool = Attribute("whether messages can arrive now")
    trouble: str = Attribute("what is wrong, for operators: empty while all is well")
    reconnects: int = Attribute("how often the broker came back")
    lag_s: float | None = Attribute("age of the last message when it came, if the bus knows")

    def attach(receiver: IReceiver) -> None:
        """Say where messages go; once, before the service starts."""

    def pause() -> None:
        """Bring no messages for a moment: too many wait here. The broker keeps them, or some."""

    def resume() -> None:
        """Go on after `pause`."""

    def publish(subject: str, payload: bytes) -> "Deferred[Receipt | None]":
        """Publish one message; fires when the bus has it, with its place if it is stored.

        Fails with Unavailable when the broker is away, or does not store the message: nothing is
        kept for later.
        """

    def fetch(
        patterns: frozenset[str], after: int, until: int, most: int
    ) -> "Deferred[list[Stored] | None]":
        """The stored messages on `patterns` with offsets above `after`, up to `until`.

        None if it is not certain that they are all there, they are more than `most`, or nothing
        is stored.
        Fails with Unavailable when the broker is away.
        """
