"""Wires the supervisor together: its workers, what it answers for them, its internal listener."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from odin import logs
from odin.bus.addresses import loopback
from odin.config import Config, worker_count
from odin.gateway.timers import Wheel
from odin.inner import InnerListener, inner_pages
from odin.metrics import exposition
from odin.place import TopService, made_up_secret, node_name, own_sockets, warn_of_descriptors
from odin.process import memory, reactors, signals, systemd
from odin.process.broker import Broker
from odin.process.supervisor import Supervisor
from odin.process.upgrade import Upgrades
from odin.reports import Family, Report, Sample, merged_health, merged_stats
from odin.web.answers import Answer
from odin.web.health import Livez, Readyz
from odin.web.operate import DrainPage, UpgradePage
from odin.wire.messages import encode

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

# What the supervisor itself uses; a change of these takes a restart.
_FIXED: Final = ("server.host", "server.port", "server.workers", "metrics.port", "metrics.host",
          "metrics.metricsPath", "metrics.enablePrometheus", "nats.embedded", "server.node",
          "delivery.sendBuffer")  # fmt: skip


class FleetAnswers:
    """The pages about all workers, made from what each says when asked."""

    def __init__(self, node: str) -> None:
        self.supervisor: Supervisor
        self.upgrades: Upgrades
        self._node = node

    def answer(self, page: str) -> "Deferred[Answer]":
        asked = self.supervisor.reports(metrics=page != "health")
        return asked.addCallback(self._made, page)

    def not_ready(self) -> str | None:
        """Why no client should be sent here (web.health.Readyz)."""
        supervisor = self.supervisor
        if supervisor.stopping:
            return "draining"
        if supervisor.missing == len(supervisor.slots):
            return "no worker listens"
        living = [each for slot in supervisor.slots for each in slot.living()]
        reports = [each.last_report for each in living if each.listening]
        if not any(report is not None and report.ready for report in reports):
            return "no worker is ready"
        return None

    def _made(self, reports: list[Report], page: str) -> Answer:
        supervisor = self.supervisor
        reports.sort(key=lambda each: (each.worker, each.pid))
        if page == "metrics":
            return 200, exposition([*supervisor.metrics(reports), *self._families(reports)])
        usage = memory.usage()
        own: dict[str, Any] = {
            "node": self._node,
            "uptime": round(time.monotonic() - supervisor.started_at, 3),
            "memory": {
                "alloc": usage.resident,
                "heap_alloc": usage.anonymous,
                "sys": usage.virtual,
            },
            "usage": usage._asdict(),
            "more": {
                "supervisor": {
                    "restarts": supervisor.restarts,
                    "handovers": self.upgrades.done,
                    "failed_handovers": self.upgrades.failed,
                }
            },
        }
        if page == "stats":
            counted = supervisor.metrics(reports)
            return 200, encode(merged_stats(reports, own, counted)) + b"\n"
        missing = sum(each.worker is None for each in supervisor.slots)
        missing += max(0, len(supervisor.slots) - missing - len({each.worker for each in reports}))
        body = merged_health(supervisor.serving(reports), missing, own)
        if supervisor.stopping:
            body["status"] = "unhealthy"
        return 503 if body["status"] == "unhealthy" else 200, encode(body) + b"\n"

    def _families(self, reports: list[Report]) -> list[Family]:
        supervisor, upgrades = self.supervisor, self.upgrades

        def plain(name: str, text: str, kind: str, value: float) -> Family:
            suffix = "_total" if kind == "counter" else ""
            return Family(name, text, kind, [Sample(name + suffix, {}, value)])

        connections = [
            Sample(
                "odin_worker_connections",
                {"worker": str(slot.number)},
                sum(each.connections for each in reports if each.worker == slot.number),
            )
            for slot in supervisor.slots
        ]
        handovers = [
            Sample("odin_handovers_total", {"result": "done"}, upgrades.done),
            Sample("odin_handovers_total", {"result": "failed"}, upgrades.failed),
        ]
        listening = len(supervisor.slots) - supervisor.missing
        return [
            plain("odin_workers", "Worker processes that listen", "gauge", listening),
            plain("odin_worker_restarts", "Workers that ended and were started again", "counter",
                  supervisor.restarts),
            Family("odin_handovers", "Hand-overs to new workers", "counter", handovers),
            Family("odin_worker_connections", "Open WebSockets of each worker", "gauge",
                   connections),
        ]  # fmt: skip


def make_fleet(
    config: Config,
    reactor: Any,
    *,
    arguments: list[str],
    log_file: str | None,
    reload: Callable[[], Config],
) -> TopService:
    """A supervisor of as many workers as `config` says.

    `arguments`: those of `twistd odin`, which each worker gets, too. `log_file`: what twistd logs
    to, None for standard output. `reload`: the configuration as it is now.

    Raises: ConfigError.
    """
    count = worker_count(config)
    node = node_name(config)
    answers = FleetAnswers(node)
    address = loopback(config.nats.url) if config.nats.embedded else None
    broker = None
    if address is not None:
        broker = Broker(reactor, address, jetstream=bool(config.nats.jetstream.stream))
    supervisor = answers.supervisor = Supervisor(
        reactor,
        count=count,
        arguments=arguments,
        log_file=lambda worker: logs.worker_file(log_file, worker) if log_file else None,
        open_log=logs.open_file,
        node=node,
        secret=made_up_secret(config),
        open_sockets=lambda: own_sockets(config, shared=True),
        send_buffer=config.delivery.send_buffer_bytes,
        answer=answers.answer,
        shutdown_timeout_s=config.server.shutdown_timeout_s,
        broker=broker,
    )

    def check() -> None:
        now = reload()
        for name in _FIXED:
            section, _, key = name.partition(".")
            if _value(config, section, key) != _value(now, section, key):
                supervisor.note("{name} has changed: that takes a restart", name=name)
        supervisor.shutdown_timeout_s = now.server.shutdown_timeout_s

    upgrades = answers.upgrades = Upgrades(reactor, supervisor, check)
    fleet = TopService()
    fleet.addService(systemd.Watchdog(reactor, supervisor.well))
    if config.metrics.port is not None:
        pages = inner_pages(config, answers, answers.not_ready)
        pages["livez"] = Livez()
        pages["readyz"] = Readyz(answers)
        pages["drain"] = DrainPage(reactor, lambda: signals.stop(reactor))
        pages["upgrade"] = UpgradePage(upgrades.upgrade)
        wheel = Wheel(reactor, reactors.call_soon(reactor))
        fleet.addService(wheel)
        fleet.addService(InnerListener(config, pages, reactor, wheel))
    fleet.addService(supervisor)
    warn_of_descriptors(config, count)
    at_once = broker.abandon if broker is not None else None
    signals.graceful(reactor, on_hangup=upgrades.upgrade, at_once=at_once)
    return fleet


def _value(config: Config, section: str, key: str) -> Any:
    part = getattr(config, section)
    names = {each.encode_name: each.name for each in msgspec.structs.fields(part)}
    return getattr(part, names[key])
