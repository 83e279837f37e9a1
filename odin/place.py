"""Where a server stands: alone in its process, or as one worker of several; and its sockets."""

import secrets
import socket
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized

from odin import config as settings
from odin.config import Config
from odin.errors import ConfigError
from odin.process import descriptors, listeners, systemd
from odin.process.shared import SharedMemory

if TYPE_CHECKING:
    from collections.abc import Callable

_log = Logger()


class Place(NamedTuple):
    """What a worker is told by its supervisor; the defaults are those of a server alone."""

    worker: int | None = None
    node: str = ""  # empty = by the configuration, or made up
    secret: str = ""  # for tokens, where the configuration has none
    shared: SharedMemory | None = None
    cell: int = 0  # of the shared seats
    address_key: bytes = b""
    ask: "Callable[[str], Deferred[tuple[int, bytes]]] | None" = None  # (page), of all workers
    successor: bool = False  # whether it takes over from a worker that runs


ALONE: Final = Place()


def node_name(config: Config) -> str:
    """What this server calls itself."""
    return config.server.node or f"{socket.gethostname().split('.')[0]}-{secrets.token_hex(3)}"


def made_up_secret(config: Config) -> str:
    """The secret of tokens where none is configured; none in production."""
    return "" if config.production else secrets.token_hex(32)


def own_sockets(config: Config, *, shared: bool = False) -> listeners.Listening:
    """The sockets to listen on: of systemd if it has any for us, else as configured.

    Raises: CannotListenError.
    """
    send_buffer = config.delivery.send_buffer_bytes
    if inherited := systemd.inherited_sockets():
        for each in inherited:
            listeners.settle(each, send_buffer)
        return listeners.Listening(inherited, kept=True)
    if not settings.listens_plain(config):
        return listeners.Listening([])
    host, port = config.server.host, config.server.port
    if shared and port:
        listeners.check_free(host, port)
    return listeners.Listening(
        [listeners.listen(host, port, send_buffer=send_buffer, shared=shared)]
    )


def warn_of_descriptors(config: Config, workers: int) -> None:
    """Say so when there cannot be as many connections as are configured."""
    wanted, room = config.websocket.max_connections, descriptors.room_for(0)
    if wanted > workers * room:
        _log.warn(
            "websocket.maxConnections is {wanted}, but with {limit} open files (ulimit -n) in "
            "each of {workers} processes there is room for {room}: the others will get 503",
            wanted=wanted,
            limit=descriptors.limit(),
            workers=workers,
            room=workers * room,
        )


class TopService(MultiService):
    """What twistd runs: a server, or the supervisor of several.

    Its services stop one after the other, the last one first.
    """

    log_observer: ILogObserver | None = None

    def setServiceParent(self, parent: Any) -> None:
        """Also tells the application what to log to: twistd asks it for this component."""
        if self.log_observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self.log_observer)
        super().setServiceParent(parent)

    def privilegedStartService(self) -> None:
        _or_exit(super().privilegedStartService)

    def startService(self) -> None:
        _or_exit(super().startService)

    def stopService(self) -> "Deferred[None]":
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for service in reversed(list(self)):
            await maybeDeferred(service.stopService)


class StartFailed(Exception):
    """The server cannot start; the text says why.

    An Exception, for then twistd removes its pid file, and as a daemon tells the process that
    waits for the start. A SystemExit would leave both.
    """


def _or_exit(start: "Callable[[], None]") -> None:
    """Start, or let the process end with one clear line and status 1. Raises: StartFailed."""
    try:
        start()
    except CannotListenError as error:
        failed = StartFailed(listeners.reason_of(error))
    except ConfigError as error:
        failed = StartFailed(str(error))
    else:
        return
    sys.excepthook = _say
    raise failed


def _say(_kind: object, error: BaseException, _where: object) -> None:
    """What Python does with an exception that nobody catches, without the traceback."""
    sys.stderr.write(f"odin: {error}\n")
    sys.stderr.flush()
