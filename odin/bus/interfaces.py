"""What a bus is: the seam between Odin and its broker."""

from typing import TYPE_CHECKING

from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


class IReceiver(Interface):
    """What a bus hands its messages to."""

    def received(subject: str, payload: bytes) -> None:
        """One message of one of the bus's subjects. Never raises."""

    def status_changed(connected: bool) -> None:
        """The broker was reached, or lost. Called once per change."""


class IBus(Interface):
    """Where messages come from and go to. Also an IService.

    Every message published goes out through the bus and comes back by `received`, in one process
    too, so that there is one path for all.
    """

    kind: str = Attribute("one word for /health: memory, nats")
    connected: bool = Attribute("whether messages arrive now")
    reconnects: int = Attribute("how often the broker came back")

    def attach(receiver: IReceiver) -> None:
        """Say where messages go; once, before the service starts."""

    def publish(subject: str, payload: bytes) -> "Deferred[None]":
        """Publish one message; fires when the bus has it.

        Fails with Unavailable when the broker is away: nothing is kept for later.
        """
