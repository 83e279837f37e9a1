"""`twistd odin`: the options, and the service made of them.

Importing this module installs no reactor; `postOptions` does, because by then twistd has settled
what it was asked for, and nothing has needed one yet.
"""

import os
import sys
from typing import TYPE_CHECKING, Any, ClassVar

from twisted.logger import ILogObserver
from twisted.python import usage

from odin import __version__, loading, logs
from odin.config import Config, worker_count
from odin.errors import ConfigError

if TYPE_CHECKING:
    from odin.place import TopService

_PARAMETERS = {
    "host": "server.host",
    "port": "server.port",
    "nats-url": "nats.url",
    "workers": "server.workers",
}


class Options(usage.Options):
    """The command line. Everything else is set in the file or the environment."""

    synopsis = "[options]"
    longdesc = (
        "Odin: pushes market data from NATS subjects to WebSocket clients. "
        "Without options it listens on 0.0.0.0:3002 and connects to nats://localhost:4222; "
        "with --demo it needs no broker and shows a simulated market. Every setting can also be "
        "given in the environment as SECTION_KEY (LIMITS_MESSAGES_PER_SECOND=50)."
    )
    optParameters: ClassVar[list[list[Any]]] = [
        ["port", "p", None, "TCP port for WebSocket and HTTP [default: 3002]"],
        ["host", "H", None, "address to listen on [default: 0.0.0.0]"],
        ["config", "c", None, "JSON configuration file (see etc/odin.json)"],
        ["nats-url", None, None, "NATS servers, comma-separated; memory:// for none"],
        [
            "workers",
            "w",
            None,
            "worker processes that act as one server, or auto: one per core; with a "
            "supervisor that restarts them and replaces them on SIGHUP [default: 0, none]",
        ],
        ["log-format", None, "text", "text, or json: one object per line"],
    ]
    optFlags: ClassVar[list[list[Any]]] = [
        ["require-auth", None, "refuse clients without a valid token"],
        [
            "echo",
            None,
            "also serve /echo, which sends back what it gets (for the Autobahn Testsuite)",
        ],
        ["embedded-nats", None, "start a nats-server for the workers, at nats.url"],
        ["demo", None, "feed a simulated market to the clients, without a broker"],
        ["print-config", None, "print the effective configuration, and exit"],
    ]
    config: Config
    arguments: list[str]

    def parseOptions(self, options: Any = None) -> None:
        """Also keeps the words: workers get the same."""
        self.arguments = list(options or [])
        super().parseOptions(options)
        if self["config"]:  # twistd changes the folder (--rundir) before workers start
            self.arguments += ["--config", self["config"]]

    def __init__(self) -> None:
        super().__init__()
        self._endpoints: list[str] = []

    def opt_endpoint(self, description: str) -> None:
        """Listen at this Twisted endpoint, ssl:3443:privateKey=key.pem:certKey=cert.pem for
        example, instead of the plain port (or beside it, with --port). May be repeated."""
        self._endpoints.append(description)

    def opt_version(self) -> None:
        """Print Odin's version, and exit."""
        print(f"odin {__version__}")
        sys.exit(0)

    def postOptions(self) -> None:
        """Validate everything, install the reactor, choose the log format."""
        if self["log-format"] not in logs.FORMATS:
            raise usage.UsageError(f"--log-format {self['log-format']}: text or json is allowed")
        options: dict[str, Any] = {
            key: self[name] for name, key in _PARAMETERS.items() if self[name] is not None
        }
        if self["require-auth"]:
            options["auth.requireAuth"] = "true"
        if self["embedded-nats"]:
            options["nats.embedded"] = "true"
        self._options = options
        if self["config"]:
            self["config"] = os.path.abspath(self["config"])
        try:
            self.config = self.load()
        except ConfigError as error:
            sys.exit(f"odin: {error}")  # a UsageError would put the whole help before the line
        if self["print-config"]:
            print(loading.describe(self.config))
            sys.exit(0)
        self._check_pid_file()
        self._settle_reactor()

    def load(self) -> Config:
        """The configuration as it is now. Raises: ConfigError."""
        return loading.load(
            path=self["config"],
            options=self._options,
            demo=bool(self["demo"]),
            echo=bool(self["echo"]),
            endpoints=self._endpoints,
        )

    def log_file(self) -> str | None:
        """What twistd logs to; None for standard output."""
        parent: dict[str, Any] = self.parent or {}
        path = parent.get("logfile") or (None if parent.get("nodaemon", True) else "twistd.log")
        return None if path == "-" else path

    def log_observer(self) -> ILogObserver | None:
        """What twistd should log to; None if its own `--logger` says."""
        parent: dict[str, Any] = self.parent or {}
        if parent.get("logger"):
            return None
        path = self.log_file()
        try:
            return logs.observer(self["log-format"], path)
        except OSError as error:
            sys.exit(f"odin: cannot write the log {path}: {error.strerror}")

    def _check_pid_file(self) -> None:
        """twistd writes it, and would end with a traceback if it cannot."""
        parent: dict[str, Any] = self.parent or {}
        name = parent.get("pidfile")
        if not name or parent.get("chroot"):
            return
        path = os.path.join(parent.get("rundir") or ".", name)
        if not os.access(path if os.path.exists(path) else os.path.dirname(path) or ".", os.W_OK):
            sys.exit(f"odin: cannot write the pid file {name}")

    def _settle_reactor(self) -> None:
        from odin.process import reactors  # noqa: PLC0415 - not before it is wanted

        if "twisted.internet.reactor" not in sys.modules:
            reactors.install()
        elif reactors.event_loop(sys.modules["twisted.internet.reactor"]) is None:
            raise usage.UsageError(
                "this reactor cannot run Odin: leave --reactor out, or use odin or asyncio"
            )


def makeService(options: Options) -> "TopService":
    """Odin's services, for twistd: a server, or the supervisor of several."""
    from twisted.internet import reactor  # noqa: PLC0415 - installed by now

    from odin.process import reactors, signals  # noqa: PLC0415

    if reactors.event_loop(reactor) is None:
        raise usage.UsageError("this reactor cannot run Odin: use odin or asyncio")
    service: TopService
    try:
        if worker_count(options.config):
            from odin.fleet import make_fleet  # noqa: PLC0415 - each its own half of Odin

            service = make_fleet(
                options.config,
                reactor,
                arguments=options.arguments,
                log_file=options.log_file(),
                reload=options.load,
            )
        else:
            from odin.service import make_service  # noqa: PLC0415

            service = make_service(options.config, reactor)
            signals.graceful(reactor)
    except ConfigError as error:
        sys.exit(f"odin: {error}")
    service.log_observer = options.log_observer()
    return service
