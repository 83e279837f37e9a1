"""`--echo`: an endpoint that sends back what it gets, for the Autobahn Testsuite and debugging.

The same protocol class as the feed's, lane and resting state included, with a size limit of its
own (16 MiB) and no rate limit.
"""

from typing import Any, cast

from odin.gateway.admission import Admission
from odin.gateway.session import Session
from odin.gateway.websocket import OdinProtocol


class EchoSession(Session):
    """A session without a feed."""

    __slots__ = ()

    def open(self, outlet: Any, sink: Any, channels: object = None) -> None:
        self.outlet = outlet
        self.opened_at = self._context.monotonic()

    def received(self, text: bytes) -> None:
        cast("EchoProtocol", self.outlet).sendMessage(text, False)

    def control_frame(self) -> None:
        pass


class EchoProtocol(OdinProtocol):
    """One connection to /echo."""

    __slots__ = ()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.state == self.STATE_OPEN:
            self.sendMessage(payload, isBinary)

    # A client that does not read is not read from: what waits for it is the echo of one read. So
    # `pending` has no limit, which a single message would exceed.

    def fellBehind(self) -> None:
        super().fellBehind()
        self.transport.pauseProducing()

    def caughtUp(self) -> None:
        super().caughtUp()
        self.read_on()

    def read_on(self) -> None:
        if not self.behind:
            super().read_on()

    def overflowed(self, pending: int) -> None:
        pass

    def _session(self, admission: Admission) -> Session:
        return EchoSession(self.factory.context, admission.identity)
