"""The one place that wires services together."""

import secrets
import socket
import time
from collections.abc import Callable
from typing import Any, Final, cast

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import IService, MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import (
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    serverFromString,
)
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import ILogObserver
from twisted.python.components import Componentized
from twisted.web.resource import Resource

from odin import config as settings
from odin.access.limits import AddressLimit, RateLimit
from odin.access.origins import OriginPolicy, TrustedProxies
from odin.access.tokens import TokenVerifier, load_public_key
from odin.bus.bridge import Bridge
from odin.bus.interfaces import IBus
from odin.bus.memory import MemoryBus
from odin.bus.recovery import Recovery
from odin.config import Config
from odin.delivery.history import Bounds, History
from odin.delivery.hub import Hub
from odin.delivery.nonces import NonceWindow
from odin.demo import Market
from odin.errors import ConfigError
from odin.gateway.admission import Admissions
from odin.gateway.control import Control
from odin.gateway.echo import EchoProtocol
from odin.gateway.server import Gateway
from odin.gateway.session import Context
from odin.gateway.timers import Wheel
from odin.gateway.transport import Transport, sweep
from odin.gateway.websocket import OdinFactory, Times
from odin.metrics import Metrics
from odin.process import descriptors, reactors
from odin.process.collector import Collector
from odin.sampling import Sampler, count_at_scrape
from odin.status import Status
from odin.web.dashboard import Dashboard
from odin.web.health import Health, Livez, Readyz
from odin.web.jwks import KeyKeeper
from odin.web.metrics import MetricsPage
from odin.web.publish import PublishPage
from odin.web.site import Root, Site, UpgradeOnly
from odin.web.stats import Stats
from odin.web.token import TokenPage

ECHO_PATH: Final = "/echo"
_HTTP_IDLE_S: Final = 60
_BUS_SHARE_S: Final = 2.5  # of the shutdown time: to drain the broker, and to leave


class OdinService(MultiService):
    """All of Odin. Its services stop one after the other, the last one first."""

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

    def stopService(self) -> Deferred[None]:
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for service in reversed(list(self)):
            await maybeDeferred(service.stopService)


def _or_exit(start: Callable[[], None]) -> None:
    """Start, or end the process with one clear line."""
    try:
        start()
    except CannotListenError as error:
        cause = getattr(error.socketError, "strerror", None) or error.socketError
        where = f"{error.interface or '*'}:{error.port}"
        raise SystemExit(f"odin: cannot listen on {where}: {cause}") from None


def make_service(config: Config, reactor: Any) -> OdinService:
    """Odin as `config` says, ready to be started.

    Raises: ConfigError for a key or a file that cannot be used.
    """
    loop = reactors.event_loop(reactor)
    soon = reactors.call_soon(reactor)
    clock = time.monotonic
    node = config.server.node or f"{socket.gethostname().split('.')[0]}-{secrets.token_hex(3)}"
    metrics = Metrics()
    secret = config.auth.jwt_secret or ("" if config.production else secrets.token_hex(32))
    verifier = _verifier(config, secret)
    hub = Hub(sweep=sweep, soon=soon, clock=clock, meter=metrics)
    bus = _bus(config, loop, node)
    delivery = config.delivery
    history = History(
        Bounds(
            messages=delivery.history_messages,
            size=delivery.history_size,
            age_s=delivery.history_age_s,
            channels=delivery.snapshot_channels,
            channels_size=delivery.snapshot_size,
        )
    )
    bridge = Bridge(
        bus,
        hub,
        NonceWindow(delivery.nonce_window_s, delivery.nonce_limit),
        history,
        conflate=delivery.conflate,
        control=Control(hub, verifier, time.time),
        clock=clock,
        wall=time.time,
        meter=metrics,
    )
    context = Context(
        hub=hub,
        bridge=bridge,
        replays=Recovery(
            bridge, most=delivery.recover_messages, now=clock, timers=reactor, meter=metrics
        ),
        verifier=verifier,
        rate=RateLimit(config.limits.messages_per_second, config.limits.message_burst),
        node=node,
        heartbeat_interval_ms=int(config.websocket.ping_interval_s * 1000),
        max_message_bytes=config.server.max_message_bytes,
        max_channels=config.limits.channels_per_client,
        max_pending=delivery.max_pending_bytes,
        monotonic=clock,
        wall=time.time,
        auth_failed=metrics.auth_failed,
    )
    wheel = Wheel(reactor, soon)
    origins = OriginPolicy(
        check=config.websocket.check_origin,
        allowed=config.websocket.allowed_origins,
        production=config.production,
    )
    pages: dict[str, Resource] = {}
    site = Site(
        Root(pages), reactor,
        idle_timeout_s=_HTTP_IDLE_S, max_body_bytes=config.server.max_message_bytes,
    )  # fmt: skip
    factory = OdinFactory(
        reactor=reactor,
        context=context,
        admissions=_admissions(config, verifier, origins, metrics),
        times=_times(config),
        max_connections=descriptors.room_for(config.websocket.max_connections),
        compression=config.websocket.enable_compression,
        wheel=wheel,
        meter=metrics,
        http=site.channel,
        echo=EchoProtocol if config.echo else None,
    )
    status = Status(hub=hub, bridge=bridge, edge=factory, conversation=context, loop=loop)
    inner = _inner_pages(config, metrics, status)
    pages |= inner if config.metrics.port is None else {"health": inner["health"]}
    pages |= _public_pages(
        config,
        status,
        PublishPage(
            bridge,
            verifier,
            origins,
            open_to_loopback=config.demo,
            auth_failed=metrics.auth_failed,
        ),
        secret,
    )
    site.resource = Root(pages)
    count_at_scrape(metrics, factory, bridge, context)

    service = OdinService()
    sampler = Sampler(
        reactor, metrics, status, lambda: bridge.sent, config.metrics.update_interval_s
    )
    collector = Collector(reactor, lambda: factory.connections)
    for each in (collector, sampler, wheel, hub, bus):
        service.addService(each)
    if config.auth.jwks_url:
        service.addService(KeyKeeper(verifier, config.auth.jwks_url, reactor))
    if config.metrics.port is not None:
        service.addService(_inner_listener(config, inner, reactor))
    service.addService(
        Gateway(
            reactor,
            factory,
            hub,
            Transport.configured(
                reactor,
                read_bytes=config.websocket.read_buffer_bytes,
                write_bytes=config.websocket.write_buffer_bytes,
                max_pending=delivery.max_pending_bytes,
            ),
            host=config.server.host,
            port=config.server.port if settings.listens_plain(config) else None,
            endpoints=[(text, _endpoint(text, reactor)) for text in config.endpoints],
            send_buffer=delivery.send_buffer_bytes,
            stop_timeout_s=max(0.5, config.server.shutdown_timeout_s - _BUS_SHARE_S),
            listening=lambda listening: setattr(status, "listening", listening),
        )
    )
    if config.demo:
        service.addService(Market(bus, reactor))
    return service


def _bus(config: Config, loop: Any, node: str) -> IBus:
    if settings.uses_memory_bus(config):
        return MemoryBus()
    from odin.bus.nats import NatsBus  # noqa: PLC0415 - 4 MB that the demo does not need

    if loop is None:
        raise ConfigError("NATS needs the odin or asyncio reactor (nats-py runs on asyncio)")
    return NatsBus(config.nats, loop, node)


def _endpoint(text: str, reactor: Any) -> IStreamServerEndpoint:
    """An endpoint as twistd's users write it: `ssl:3443:privateKey=key.pem:certKey=cert.pem`."""
    try:
        return cast("IStreamServerEndpoint", serverFromString(reactor, text))
    except (ImportError, AttributeError):
        raise ConfigError(f"--endpoint {text}: TLS needs: pip install odin[tls]") from None
    except Exception as error:  # ValueError, OSError, or whatever OpenSSL and the plugins raise
        raise ConfigError(f"--endpoint {text}: {error or type(error).__name__}") from None


def _verifier(config: Config, secret: str) -> TokenVerifier:
    auth = config.auth
    keys = {}
    if auth.jwt_public_key:
        pem = auth.jwt_public_key
        if "-----BEGIN" not in pem:
            try:
                with open(pem, encoding="ascii") as file:
                    pem = file.read()
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"auth.jwtPublicKey: neither a PEM text nor a file that can be read: {error}"
                ) from None
        try:
            keys[""] = load_public_key(pem)
        except ValueError:
            raise ConfigError("auth.jwtPublicKey: no public key in PEM format") from None
    return TokenVerifier(
        secret=secret,
        public_keys=keys,
        algorithms=settings.algorithms(auth),
        audience=auth.audience,
        issuer=auth.issuer,
    )


def _admissions(
    config: Config, verifier: TokenVerifier, origins: OriginPolicy, metrics: Metrics
) -> Admissions:
    return Admissions(
        path=config.websocket.path,
        echo_path=ECHO_PATH if config.echo else None,
        origins=origins,
        proxies=TrustedProxies(config.server.trusted_proxies),
        addresses=AddressLimit(config.limits.connections_per_second_per_address),
        verifier=verifier,
        require_auth=config.auth.require_auth,
        max_channels=config.limits.channels_per_client,
        clock=time.monotonic,
        auth_failed=metrics.auth_failed,
    )


def _times(config: Config) -> Times:
    return Times(
        handshake_s=config.websocket.handshake_timeout_s,
        read_s=config.server.read_timeout_s,
        write_s=config.server.write_timeout_s,
        ping_interval_s=config.websocket.ping_interval_s,
        pong_s=config.websocket.pong_timeout_s,
    )


def _inner_pages(config: Config, metrics: Metrics, status: Status) -> dict[str, Resource]:
    """What an operator reads: public, unless there is an internal listener."""
    pages: dict[str, Resource] = {"health": Health(status), "stats": Stats(status)}
    if config.metrics.enable_prometheus:
        pages[config.metrics.metrics_path] = MetricsPage(metrics.registry)
    return pages


def _public_pages(
    config: Config, status: Status, publish: PublishPage, secret: str
) -> dict[str, Resource]:
    pages: dict[str, Resource] = {
        "": Dashboard(config.websocket.path),
        "livez": Livez(),
        "readyz": Readyz(status),
        "publish": publish,
        config.websocket.path: UpgradeOnly(),
    }
    if not config.production and "HS256" in settings.algorithms(config.auth):
        pages["auth/token"] = TokenPage(secret, config.auth.token_expiration_s)
    return pages


def _inner_listener(config: Config, pages: dict[str, Resource], reactor: Any) -> IService:
    """The internal listener, for /metrics, /stats and /health only."""
    host = config.metrics.host or config.server.host
    endpoint = TCP6ServerEndpoint if ":" in host else TCP4ServerEndpoint
    port = config.metrics.port
    site = Site(Root(pages), reactor, idle_timeout_s=_HTTP_IDLE_S, max_body_bytes=0)
    service = StreamServerEndpointService(endpoint(reactor, port, interface=host), site.plain())
    service._raiseSynchronously = True
    return service
