"""A connection until it is a WebSocket: plain HTTP, and the request that asks for the upgrade.

request head -> upgrade     -> `upgrade`, provided by the subclass
             -> plain HTTP  -> see `plain`
             -> neither     -> refused with a status
"""

from typing import Any

from odin.errors import HandshakeRefused
from odin.gateway.admission import Admission
from odin.gateway.handshake import RequestHead
from odin.gateway.plain import PlainHttp
from odin.gateway.resting import RestingProtocol


class OpeningProtocol(PlainHttp, RestingProtocol):
    """What a connection is before its upgrade, and remains without one."""

    __slots__ = ()

    factory: Any

    def upgrade(self, head: RequestHead, admission: Admission, rest: bytes) -> None:
        """Be a WebSocket from now on; `rest` came behind the head."""
        raise NotImplementedError

    def asks_upgrade(self, head: RequestHead, rest: bytes) -> bool:
        self.upgrade(head, self.factory.decide(head, self.transport), rest)
        return True

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: object = None) -> None:
        """From Autobahn: an extension offer that makes no sense."""
        self._refuse(HandshakeRefused(code, "bad_request", reason))
