"""The one place that wires services together."""

import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred, succeed

from odin import components
from odin import config as settings
from odin.access.limits import RateLimit
from odin.access.origins import OriginPolicy
from odin.bus.bridge import Bridge
from odin.bus.recovery import Recovery
from odin.bus.succession import Follower
from odin.config import Config
from odin.delivery.history import History
from odin.delivery.hub import Hub
from odin.delivery.nonces import NonceWindow
from odin.demo import Market
from odin.gateway.control import Control
from odin.gateway.echo import EchoProtocol
from odin.gateway.endpoints import Endpoints
from odin.gateway.factory import OdinFactory
from odin.gateway.server import Gateway
from odin.gateway.session import Context
from odin.gateway.timers import Wheel
from odin.gateway.transport import Transport, sweep
from odin.inner import MOST_CONNECTIONS, InnerListener, inner_pages
from odin.metrics import Metrics, exposition
from odin.place import (
    ALONE,
    Place,
    TopService,
    made_up_secret,
    node_name,
    own_sockets,
    warn_of_descriptors,
)
from odin.process import descriptors, reactors, signals, systemd
from odin.process.collector import Collector
from odin.reports import Report
from odin.sampling import Sampler, count_at_scrape
from odin.status import NOT_LISTENING, Status
from odin.web.answers import Answer, Answers
from odin.web.dashboard import Dashboard
from odin.web.health import Livez, Readyz
from odin.web.jwks import KeyKeeper
from odin.web.operate import DrainPage
from odin.web.publish import PublishPage
from odin.web.resources import JsonResource
from odin.web.site import Site, UpgradeOnly
from odin.web.token import TokenPage
from odin.wire.messages import encode

_BUS_SHARE_S: Final = 2.5  # of the shutdown time: to drain the broker, and to leave
_CROWD_RESERVE: Final = 32  # descriptors that no connection gets


class OdinService(TopService):
    """All of Odin."""

    parts: "Parts"


class Parts(NamedTuple):
    """What of a server others work with: those who move its clients, or tell how it is."""

    factory: OdinFactory
    hub: Hub
    bridge: Bridge
    context: Context
    gateway: Gateway
    wheel: Wheel
    status: Status
    metrics: Metrics
    follower: Follower
    market: Market | None
    control: Control


class LocalAnswers:
    """What this process says of itself."""

    def __init__(self, status: Status, metrics: Metrics) -> None:
        self._status = status
        self._metrics = metrics

    def answer(self, page: str) -> Deferred[Answer]:
        if page == "metrics":
            return succeed((200, exposition(self._metrics.families())))
        body = self._status.health() if page == "health" else self._status.stats()
        return succeed((503 if body.get("status") == "unhealthy" else 200, encode(body) + b"\n"))


class _AnswersForAll:
    """What the supervisor says of all workers; of this one alone if nobody answers."""

    def __init__(self, ask: Callable[[str], Deferred[Answer]], local: LocalAnswers) -> None:
        self._ask = ask
        self._local = local

    def answer(self, page: str) -> Deferred[Answer]:
        return self._ask(page).addErrback(lambda _failure: self._local.answer(page))


def make_service(config: Config, reactor: Any, place: Place = ALONE) -> OdinService:
    """Odin as `config` says, ready to be started.

    Raises: ConfigError for a key or a file that cannot be used.
    """
    loop = reactors.event_loop(reactor)
    soon = reactors.call_soon(reactor)
    clock = time.monotonic
    node = place.node or node_name(config)
    metrics = Metrics()
    secret = config.auth.jwt_secret or place.secret or made_up_secret(config)
    verifier = components.verifier_of(config, secret)
    bus = components.bus_of(config, loop, node)
    hub = Hub(
        sweep=sweep,
        soon=soon,
        clock=clock,
        meter=metrics,
        regulate=lambda more: bus.resume() if more else bus.pause(),
    )
    history = History(components.bounds_of(config))
    control = Control(hub, verifier, time.time, clock)
    bridge = Bridge(
        bus,
        hub,
        NonceWindow(config.delivery.nonce_window_s, config.delivery.nonce_limit),
        history,
        conflate=config.delivery.conflate,
        publishable=settings.publishable(config),
        control=control,
        clock=clock,
        wall=time.time,
        meter=metrics,
    )
    follows = place.successor and not bus.stores
    follower = Follower(bus, bridge, follows=follows, clock=clock)
    context = Context(
        hub=hub,
        bridge=bridge,
        replays=Recovery(
            bridge,
            most=config.delivery.recover_messages,
            now=clock,
            timers=reactor,
            later=hub.later,
            meter=metrics,
        ),
        verifier=verifier,
        rate=RateLimit(config.limits.messages_per_second, config.limits.message_burst),
        node=node,
        heartbeat_interval_ms=int(config.websocket.ping_interval_s * 1000),
        max_message_bytes=config.server.max_message_bytes,
        max_channels=config.limits.channels_per_client,
        max_kept=config.limits.kept_bytes_per_client,
        max_pending=config.delivery.max_pending_bytes,
        monotonic=clock,
        wall=time.time,
        auth_failed=metrics.auth_failed,
    )
    wheel = Wheel(reactor, soon)
    origins = OriginPolicy(
        check=config.websocket.check_origin,
        allowed=config.websocket.allowed_origins,
        production=config.production,
        named=not config.demo,
    )
    site = Site()
    has_inner = config.metrics.port is not None and place.worker is None
    reserve = _CROWD_RESERVE + (MOST_CONNECTIONS if has_inner else 0)
    factory = OdinFactory(
        reactor=reactor,
        context=context,
        admissions=components.admissions_of(config, place, verifier, origins, metrics),
        times=components.times_of(config),
        seats=components.seats_of(config, place),
        most_transports=max(1, descriptors.limit() - reserve),
        compression=config.websocket.enable_compression,
        wheel=wheel,
        meter=metrics,
        http=site.exchange,
        echo=EchoProtocol if config.echo else None,
    )
    status = Status(hub=hub, bridge=bridge, edge=factory, conversation=context, loop=loop)
    answers: Answers = LocalAnswers(status, metrics)
    if place.ask is not None:
        answers = _AnswersForAll(place.ask, LocalAnswers(status, metrics))
    inner = inner_pages(config, answers, status.not_ready)
    site.mount(inner if config.metrics.port is None else {"health": inner["health"]})
    site.mount(
        _public_pages(
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
    )
    count_at_scrape(metrics, factory, bridge, context)

    gateway = Gateway(
        reactor,
        factory,
        hub,
        Transport.configured(
            reactor,
            read_bytes=config.websocket.read_buffer_bytes,
            write_bytes=config.websocket.write_buffer_bytes,
            max_pending=config.delivery.max_pending_bytes,
        ),
        own=(lambda: own_sockets(config)) if place.worker is None else None,
        endpoints=Endpoints(
            [
                components.door_of(text, reactor, shared=place.worker is not None)
                for text in config.endpoints
            ]
        ),
        stop_timeout_s=max(0.5, config.server.shutdown_timeout_s - _BUS_SHARE_S),
        listening=lambda listening: setattr(status, "listening", listening),
    )
    market = Market(bus, reactor) if config.demo and not place.worker else None

    service = OdinService()
    service.parts = Parts(
        factory, hub, bridge, context, gateway, wheel, status, metrics, follower, market, control
    )
    sampler = Sampler(
        reactor, metrics, status, lambda: bridge.sent, config.metrics.update_interval_s
    )
    collector = Collector(reactor, lambda: factory.connections)
    for each in (collector, sampler, wheel, hub, bus):
        service.addService(each)
    if config.auth.jwks_url:
        service.addService(KeyKeeper(verifier, config.auth.jwks_url, reactor))
    if place.worker is None:
        if has_inner:
            inner |= {
                "livez": Livez(),
                "readyz": Readyz(status),
                "drain": DrainPage(reactor, lambda: signals.stop(reactor)),
            }
            service.addService(InnerListener(config, inner, reactor, wheel))
        service.addService(systemd.Watchdog(reactor, lambda: True))
        warn_of_descriptors(config, 1)
    service.addService(gateway)
    if market is not None and not follower.following:
        service.addService(market)
    if place.worker is None:
        service.addService(systemd.Announcer())
    return service


def report(service: OdinService, worker: int, pid: int, *, metrics: bool) -> Report:
    """How this process is, for the supervisor."""
    parts = service.parts
    return Report(
        worker=worker,
        pid=pid,
        # whether it listens the supervisor knows better: two share a place during a hand-over
        ready=parts.status.not_ready() in (None, NOT_LISTENING),
        connections=parts.factory.connections,
        health=parts.status.health(),
        stats=parts.status.stats(),
        metrics=parts.metrics.families() if metrics else [],
    )


def _public_pages(
    config: Config, status: Status, publish: PublishPage, secret: str
) -> dict[str, JsonResource]:
    pages: dict[str, JsonResource] = {
        "": Dashboard(config.websocket.path),
        "livez": Livez(),
        "readyz": Readyz(status),
        "publish": publish,
        config.websocket.path: UpgradeOnly(),
    }
    if not config.production and "HS256" in settings.algorithms(config.auth):
        pages["auth/token"] = TokenPage(secret, config.auth.token_expiration_s)
    return pages
