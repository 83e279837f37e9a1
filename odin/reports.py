"""What one process tells of itself, and what several make together: for /health, /stats, /metrics.

The supervisor asks the workers and adds up (docs/decisions/013). Where every worker sees the same
(each gets every message from the broker, each counts a duplicate), the largest figure stands for
all; what each does for its own clients is added.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

Labels = tuple[tuple[str, str], ...]


class Sample(msgspec.Struct, array_like=True):
    """One value of a metric."""

    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, array_like=True):
    """One metric with all its samples; `kind` as Prometheus has it."""

    name: str
    text: str
    kind: str
    samples: list[Sample]


class Report(msgspec.Struct, kw_only=True):
    """One process at one moment."""

    worker: int = -1
    pid: int = 0
    ready: bool = False
    connections: int = 0
    health: dict[str, Any] = {}
    stats: dict[str, Any] = {}
    metrics: list[Family] = []


_LARGEST: Final = frozenset(
    (
        "nats_messages", "nats_reconnects", "odin_build_info", "odin_feed_lag_seconds",
        "odin_reactor_lag_seconds", "websocket_messages_duplicates",
        "websocket_messages_per_second", "websocket_message_size_bytes",
    )
)  # fmt: skip
_LEAST: Final = frozenset(("nats_connection_status", "odin_feed_status"))
_SEEN_BY_ALL: Final = ("duplicate", "malformed")  # reasons of odin_dropped_messages_total


def merged_metrics(reports: Sequence[list[Family]]) -> list[Family]:
    """The metrics of several processes as those of one."""
    families: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, Labels], float]] = {}
    for report in reports:
        for family in report:
            families.setdefault(family.name, family)
            known = values.setdefault(family.name, {})
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                old = known.get(key)
                known[key] = (
                    sample.value if old is None else _rule(family, sample)((old, sample.value))
                )
    return [
        Family(
            name,
            family.text,
            family.kind,
            [Sample(key[0], dict(key[1]), value) for key, value in values[name].items()],
        )
        for name, family in families.items()
    ]


COUNTED: Final = ("counter", "histogram")


def lasting(metrics: list[Family]) -> list[Family]:
    """What stays true of a process that has ended: what it counted."""
    return [each for each in metrics if each.kind in COUNTED]


def total(reports: Sequence[list[Family]]) -> list[Family]:
    """The metrics of processes that came one after the other, in one place: counts are added."""
    if len(reports) == 1:
        return reports[0]
    values: dict[tuple[str, str, Labels], float] = {}
    families: dict[str, Family] = {}
    for report in reports:
        for family in report:
            families[family.name] = family
            for sample in family.samples:
                key = (family.name, sample.name, tuple(sorted(sample.labels.items())))
                if sample.name.endswith("_created"):
                    values[key] = min(sample.value, values.get(key, sample.value))
                elif family.kind in COUNTED:
                    values[key] = values.get(key, 0.0) + sample.value
                else:
                    values[key] = sample.value
    made = {name: Family(name, each.text, each.kind, []) for name, each in families.items()}
    for (name, sample_name, labels), value in values.items():
        made[name].samples.append(Sample(sample_name, dict(labels), value))
    return list(made.values())


def _rule(family: Family, sample: Sample) -> Callable[[Iterable[float]], float]:
    if sample.name.endswith("_created"):
        return min
    seen_by_all = family.name == "odin_dropped_messages" and sample.labels["reason"] in _SEEN_BY_ALL
    if family.name in _LARGEST or seen_by_all:
        return max
    return min if family.name in _LEAST else sum


def merged_health(reports: Sequence[Report], missing: int, own: dict[str, Any]) -> dict[str, Any]:
    """The body of /health for all. `missing`: workers that should be there and do not answer;
    `own`: uptime and memory of the supervisor, which counts, too."""
    each = [report.health for report in reports]
    words = {health["status"] for health in each}
    serving = bool(words & {"healthy", "degraded"})
    nats = [health["services"]["nats"] for health in each]
    connected = bool(nats) and all(part["connected"] for part in nats)
    trouble = next((part["trouble"] for part in nats if "trouble" in part), "")
    well = serving and not missing and words == {"healthy"}
    memory = [health["system"]["memory"] for health in each] + [own["memory"]]
    return {
        "status": "healthy" if well else "degraded" if serving else "unhealthy",
        "timestamp": int(time.time()),
        "uptime": own["uptime"],
        "services": {
            "websocket": {
                "status": "healthy" if serving else "unhealthy",
                "clients": sum(report.connections for report in reports),
            },
            "nats": {
                "status": "connected" if connected else "disconnected",
                "connected": connected,
                "bus": nats[0]["bus"] if nats else "",
                **({"trouble": trouble} if trouble else {}),
            },
        },
        "system": {
            "goroutines": sum(health["system"]["goroutines"] for health in each),
            "memory": {
                name: sum(part[name] for part in memory) for name in ("alloc", "heap_alloc", "sys")
            },
        },
        "workers": [_line(report) | {"status": report.health["status"]} for report in reports],
    }


def merged_stats(
    reports: Sequence[Report], own: dict[str, Any], metrics: Iterable[Family]
) -> dict[str, Any]:
    """The body of /stats for all. `metrics`: of all, for what was counted since the start."""
    counted = {sample.name: int(sample.value) for family in metrics for sample in family.samples}
    each = [report.stats for report in reports]
    if not each:
        return {"node": own["node"], "uptime": own["uptime"], "workers": [], **own.get("more", {})}
    first = each[0]

    def added(section: str, *names: str) -> dict[str, int]:
        return {name: sum(stats[section][name] for stats in each) for name in names}

    def largest(section: str, *names: str) -> dict[str, int]:
        return {name: max(stats[section][name] for stats in each) for name in names}

    memory = [stats["memory"] for stats in each] + [own["usage"]]
    return {
        "node": own["node"],
        "uptime": own["uptime"],
        "connections": added("connections", "active", "behind")
        | {"total": counted.get("websocket_connections_total", 0)},
        "hub": added("hub", "groups", "sessions")
        | {"epoch": first["hub"]["epoch"], **largest("hub", "offset")},
        "nats": {
            "bus": first["nats"]["bus"],
            "connected": all(stats["nats"]["connected"] for stats in each),
            **largest("nats", "reconnects", "messages"),
        },
        "messages": {
            "sent": counted.get("websocket_messages_sent_total", 0),
            "received": counted.get("websocket_messages_received_total", 0),
        }
        | largest("messages", "broadcast", "duplicates", "malformed"),
        "memory": {
            name: sum(part[name] for part in memory)
            for name in ("resident", "anonymous", "virtual")
        },
        "versions": first["versions"],
        "workers": [_line(report) | {"memory": report.stats["memory"]} for report in reports],
        **own.get("more", {}),
    }


def _line(report: Report) -> dict[str, Any]:
    return {
        "worker": report.worker,
        "pid": report.pid,
        "ready": report.ready,
        "connections": report.connections,
        "uptime": report.health["uptime"],
    }
