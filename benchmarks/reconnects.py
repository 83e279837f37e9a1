"""A storm of reconnects beside a running feed: `python -m benchmarks.reconnects`.

Some listeners have a steady feed. Many more clients, subscribed to a channel that is quiet, are
all cut off at once and come back within seconds; one that is refused tries again 1 s later.
"""

import argparse
import contextlib
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.cluster import Cluster, asked, crowds, drained, end_on_sigterm
from benchmarks.crowd import PER_ADDRESS
from benchmarks.feed import CHANNEL, Feed
from benchmarks.figures import Spread, checked

_QUIET = "odin.token.T1.price"
_RUN_S = 20
_BEFORE_S = 4  # of steady feed
_SETTLE_S = 3
_AFTER_S = 1  # for what should not come
_BACK_S = 90
_MAX_P99_MS = 250
_BYTES = 200
_PARTS = ("before", "during", "after")
_KINDS = ("lost", "duplicated", "disordered")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run."""
    with contextlib.ExitStack() as stack:
        _say("starting")
        cluster = stack.enter_context(Cluster(arguments.workers, arguments.out / "reconnects.log"))
        port = cluster.port
        listeners = crowds(stack, port, f"/ws?channels={CHANNEL}", arguments.listeners)
        many = crowds(stack, port, f"/ws?channels={_QUIET}", arguments.clients, 2, PER_ADDRESS)
        heard = asked([*listeners, *many], "opened", "open", within_s=300)
        if any(each["failed"] for each in heard):
            raise SystemExit(f"not all could be opened: {[each['failed'] for each in heard]}")
        time.sleep(_SETTLE_S)
        _say("the feed")
        feed = Feed(cluster.nats_port, arguments.rate, _BYTES)
        began = time.monotonic()
        feed.start()
        time.sleep(_BEFORE_S)
        _say("the storm")
        loads = [*listeners, *many]
        cpu_s = cluster.cpu_s(), sum(each.cpu_s() for each in loads)
        back = asked(many, "back", "storm", arguments.seconds, within_s=_BACK_S)
        cpu_s = cluster.cpu_s() - cpu_s[0], sum(each.cpu_s() for each in loads) - cpu_s[1]
        time.sleep(max(0.0, began + _RUN_S - time.monotonic()))
        feed.stop()
        reached = feed.sent / (time.monotonic() - began)
        drained(listeners, arguments.listeners * feed.sent)
        time.sleep(_AFTER_S)
        reports = asked(listeners, "report", "report", feed.sent)
        stayed = asked(many, "report", "report", 0)
    storm = min(each["began"] for each in back), max(each["ended"] for each in back)
    return {
        "clients": arguments.clients,
        "workers": arguments.workers,
        "listeners": arguments.listeners,
        "rate": reached,
        "deliveries": {
            "expected": feed.sent * arguments.listeners,
            "received": sum(each["received"] for each in reports),
            **{key: sum(each[key] for each in reports) for key in _KINDS},
            "ended": dict(sum((Counter(each["ends"]) for each in reports), Counter())),
        },
        "latency": _latency(reports, storm),
        "p99_ms_of_each_half_second_since_the_storm": _course(reports, storm[0]),
        "reconnected": sum(each["opened"] for each in back),
        "stayed": sum(each["clients"] for each in stayed),
        "seconds_until_all_were_back": (storm[1] - storm[0]) / 1e9,
        "retries": sum(each["again"] for each in back),
        "refusals": dict(sum((Counter(each["failed"]) for each in back), Counter())),
        "handshakes": Spread.merged(each["handshakes"] for each in back).summary(),
        "cpu_s_of_the_storm": {"odin": cpu_s[0], "load": cpu_s[1]},
    }


def _latency(reports: list[dict[str, Any]], storm: tuple[int, int]) -> dict[str, dict[str, float]]:
    """Of the messages that were published before, during and after the storm."""
    parts: dict[str, list[dict[str, Any]]] = {part: [] for part in _PARTS}
    for report in reports:
        for message in report["messages"]:
            part = "before" if message["ts"] < storm[0] else "during"
            parts["after" if message["ts"] > storm[1] else part].append(message["spread"])
    return {part: Spread.merged(spreads).summary() for part, spreads in parts.items()}


def _course(reports: list[dict[str, Any]], since_ns: int) -> list[float]:
    """The p99 of what was published in the first half second, in the second one, and so on."""
    parts: dict[int, list[dict[str, Any]]] = {}
    for report in reports:
        for message in report["messages"]:
            parts.setdefault((message["ts"] - since_ns) // 500_000_000, []).append(
                message["spread"]
            )
    return [Spread.merged(parts[at]).ms(99) for at in sorted(parts) if at >= 0]


def whole(result: dict[str, Any]) -> bool:
    """Whether the listeners got everything once and in order, and all came back."""
    deliveries = result["deliveries"]
    return (
        result["reconnected"] == result["stayed"] == result["clients"]
        and deliveries["received"] == deliveries["expected"]
        and not any(deliveries[kind] for kind in _KINDS)
        and not deliveries["ended"]
    )


def table(result: dict[str, Any]) -> str:
    """The figures beside their musts."""
    deliveries, clients = result["deliveries"], result["clients"]
    received, expected = deliveries["received"], deliveries["expected"]
    ended = sum(deliveries["ended"].values())
    rows: list[tuple[str, str, str, bool | None]] = [
        ("listeners", f"{result['listeners']}, {result['rate']:.1f} msg/s", "", None)
    ]
    for part, times in result["latency"].items():
        value = ", ".join(f"{times[f'{key}_ms']:.1f}" for key in ("p50", "p99", "max"))
        met = 0 < times["p99_ms"] < _MAX_P99_MS if part == "during" else None
        must = "" if met is None else f"p99 < {_MAX_P99_MS}"
        rows.append((f"ms {part} the storm: p50, p99, max", value, must, met))
    rows.append(("deliveries", f"{received} of {expected}", "all", received == expected))
    rows += [(kind, str(deliveries[kind]), "0", not deliveries[kind]) for kind in _KINDS]
    rows.append(("listeners ended by the server", f"{ended}", "0", not ended))
    back, stayed = result["reconnected"], result["stayed"]
    took_s, retries = result["seconds_until_all_were_back"], result["retries"]
    refusals = f"{retries} {result['refusals'] or ''}".strip()
    shakes, cpu = result["handshakes"], result["cpu_s_of_the_storm"]
    value = ", ".join(f"{shakes[f'{key}_ms']:.1f}" for key in ("p50", "p99", "max"))
    rows += [
        ("reconnected", f"{back} of {clients}", "all", back == clients),
        ("still there at the end", f"{stayed}", "all", stayed == clients),
        ("seconds until all were back", f"{took_s:.2f}", "", None),
        ("retries", refusals, "", None),
        ("ms of a handshake: p50, p99, max", value, "", None),
        ("CPU seconds meanwhile: Odin, load", f"{cpu['odin']:.2f}, {cpu['load']:.2f}", "", None),
    ]
    return checked(rows)


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    """Exits with 0 if nothing was lost and all came back."""
    parser = argparse.ArgumentParser(prog="benchmarks.reconnects", description=__doc__)
    parser.add_argument("--clients", type=int, default=20_000, help="that come back")
    parser.add_argument("--seconds", type=float, default=5, help="in which they do")
    parser.add_argument("--listeners", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=50, help="messages per second")
    parser.add_argument("--workers", type=int, default=2, help="0: one plain process")
    parser.add_argument("--out", type=Path, default=Path("bench-results"))
    arguments = parser.parse_args()
    end_on_sigterm()
    arguments.out.mkdir(parents=True, exist_ok=True)
    result = measure(arguments)
    (arguments.out / "reconnects.json").write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    sys.exit(not whole(result))


if __name__ == "__main__":
    main()
