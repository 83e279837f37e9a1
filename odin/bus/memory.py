"""The in-process bus: one process, no broker."""

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from odin.bus.interfaces import IBus, IReceiver, Receipt, Stored
from odin.errors import Unavailable


@implementer(IBus)
class MemoryBus(Service):
    """Hands each published message straight back, while it runs."""

    kind = "memory"
    stores = False
    shared = False
    connected = False
    trouble = ""
    reconnects = 0
    lag_s = None
    _receiver: IReceiver

    def attach(self, receiver: IReceiver) -> None:
        self._receiver = receiver

    def startService(self) -> None:
        super().startService()
        self.connected = True
        self._receiver.status_changed(True)

    def stopService(self) -> None:
        self.connected = False
        super().stopService()

    def pause(self) -> None:
        """Nothing waits outside of this process."""

    def resume(self) -> None:
        """Nothing waits outside of this process."""

    def publish(self, subject: str, payload: bytes) -> Deferred[Receipt | None]:
        if not self.connected:
            return fail(Unavailable("the server is stopping"))
        self._receiver.received(subject, payload)
        return succeed(None)

    def fetch(
        self, _patterns: frozenset[str], _after: int, _until: int, _most: int
    ) -> Deferred[list[Stored] | None]:
        return succeed(None)
