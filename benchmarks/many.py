"""Many clients of one Odin with workers: `python -m benchmarks.many`.

All load processes open their clients at once, no handshake is tried twice. Then memory and balance
at rest, then one message a second to everybody, while a prober opens and pings. All of it is on
this machine: the times of a broadcast include the load processes' reading, which naps between two
looks so as not to be woken for each message.
"""

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.cluster import Cluster, Helper, asked, crowds, drained, end_on_sigterm
from benchmarks.feed import CHANNEL, Feed
from benchmarks.figures import Spread, checked

_PATH = f"/ws?channels={CHANNEL}"
_SETTLE_S = 5
_AFTER_S = 1  # for what should not come
_OPEN_S = 600
_MAX_KB, _MAX_PERCENT, _MAX_MS = 5, 5, 100


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run."""
    clients, rate = arguments.clients, 1 / arguments.interval
    with contextlib.ExitStack() as stack:
        _say("starting")
        cluster = stack.enter_context(Cluster(arguments.workers, arguments.out / "many.log"))
        before = cluster.memory()
        loads = crowds(stack, cluster.port, _PATH, clients, nap=arguments.nap)
        _say(f"{clients} clients from {len(loads)} processes")
        opened = asked(loads, "opened", "open", within_s=_OPEN_S)
        time.sleep(_SETTLE_S)
        balance = cluster.settled_balance(sum(each["opened"] for each in opened))
        resting = cluster.memory()
        _say(f"{arguments.messages} messages")
        prober = stack.enter_context(Helper("prober", port=cluster.port, path=_PATH))
        prober.hear("ready")
        prober.tell("start")
        time.sleep(1)
        cpu_s = cluster.cpu_s(), sum(each.cpu_s() for each in loads)
        feed = Feed(cluster.nats_port, rate, arguments.bytes, arguments.messages)
        feed.start()
        feed.wait()
        drained(loads, clients * feed.sent)
        time.sleep(_AFTER_S)
        cpu_s = cluster.cpu_s() - cpu_s[0], sum(each.cpu_s() for each in loads) - cpu_s[1]
        probes = asked([prober], "report", "report")[0]
        after = cluster.memory()
        reports = asked(loads, "report", "report", feed.sent)
    took_ns = max(each["ended"] for each in opened) - min(each["began"] for each in opened)
    expected = clients * feed.sent
    return {
        "clients": clients,
        "workers": arguments.workers,
        "interval_s": arguments.interval,
        "opened": sum(each["opened"] for each in opened),
        "failed": dict(sum((Counter(each["failed"]) for each in opened), Counter())),
        "seconds_to_open": took_ns / 1e9,
        "handshakes_while_opening": Spread.merged(e["handshakes"] for e in opened).summary(),
        "memory": {
            name: {
                "rss": at.rss, "pss": at.pss,
                "rss_kb_per_client": at.rss / 1024 / clients,
                "pss_kb_per_client": at.pss / 1024 / clients,
            }
            for name, at in (("before", before), ("resting", resting), ("after", after))
        },
        "balance": _balance(balance),
        "deliveries": {
            "expected": expected,
            "received": sum(each["received"] for each in reports),
            **{key: sum(each[key] for each in reports) for key in _KINDS},
            "ended": dict(sum((Counter(each["ends"]) for each in reports), Counter())),
        },
        "messages": _messages(reports),
        "cpu_us_per_delivery": {
            "odin": cpu_s[0] * 1e6 / expected, "load": cpu_s[1] * 1e6 / expected
        },
        "probes": {
            **{key: probes[key] for key in ("begun", "asked", "failed", "unanswered")},
            **{key: Spread.merged([probes[key]]).summary() for key in ("handshakes", "pings")},
        },
    }  # fmt: skip


_KINDS = ("lost", "duplicated", "disordered")


def _balance(counts: list[int]) -> dict[str, Any]:
    if not sum(counts):
        return {}
    mean = statistics.mean(counts)
    return {
        "counts": counts,
        "spread_percent": 100 * (max(counts) - min(counts)) / mean,
        "deviation_percent": 100 * max(abs(each - mean) for each in counts) / mean,
    }


def _messages(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each message how many got it, and when the first, the median and the last."""
    parts: dict[int, list[dict[str, Any]]] = {}
    for report in reports:
        for message in report["messages"]:
            parts.setdefault(message["seq"], []).append(message["spread"])
    merged = {seq: Spread.merged(spreads) for seq, spreads in sorted(parts.items())}
    return [
        {
            "seq": seq, "clients": each.count, "first_ms": each.least_ms,
            "median_ms": each.ms(50), "last_ms": each.most_ms,
        }
        for seq, each in merged.items()
    ]  # fmt: skip


def whole(result: dict[str, Any]) -> bool:
    """Whether all were opened, and all got everything once and in order."""
    deliveries = result["deliveries"]
    return (
        result["opened"] == result["clients"]
        and not result["failed"]
        and deliveries["received"] == deliveries["expected"]
        and not any(deliveries[kind] for kind in _KINDS)
        and not deliveries["ended"]
    )


def table(result: dict[str, Any]) -> str:
    """The figures beside their musts."""
    memory, deliveries = result["memory"], result["deliveries"]
    probes, balance = result["probes"], result["balance"]
    failed = sum(result["failed"].values())
    rows: list[tuple[str, str, str, bool | None]] = [
        ("opened", f"{result['opened']} of {result['clients']}", "all", not failed),
        ("failed", f"{failed} {result['failed'] or ''}".strip(), "0", not failed),
        ("seconds to open", f"{result['seconds_to_open']:.1f}", "", None),
    ]
    for name, at in memory.items():
        rss, pss = at["rss"] / 1e6, at["pss"] / 1e6
        rows.append((f"MB {name}: RSS, PSS", f"{rss:.0f}, {pss:.0f}", "", None))
    for name in ("resting", "after"):
        rss_kb, pss_kb = (memory[name][f"{each}_kb_per_client"] for each in ("rss", "pss"))
        must, met = (f"PSS <= {_MAX_KB}", pss_kb <= _MAX_KB) if name == "resting" else ("", None)
        rows.append(
            (f"KB per client {name}, all in: RSS, PSS", f"{rss_kb:.2f}, {pss_kb:.2f}", must, met)
        )
    if balance:
        counts, spread = balance["counts"], balance["spread_percent"]
        rows += [
            ("clients of a worker: least, most", f"{min(counts)}, {max(counts)}", "", None),
            ("(most - least) / mean", f"{spread:.2f} %", f"<= {_MAX_PERCENT} %",
             spread <= _MAX_PERCENT),
            ("furthest from the mean", f"{balance['deviation_percent']:.2f} %", "", None),
        ]  # fmt: skip
    for which in ("first", "median", "last"):
        times = [each[f"{which}_ms"] for each in result["messages"]] or [0.0]
        value = f"{statistics.median(times):.1f}, {max(times):.1f}"
        rows.append((f"ms to the {which} client: median, worst message", value, "", None))
    received, expected = deliveries["received"], deliveries["expected"]
    rows.append(("deliveries", f"{received} of {expected}", "all", received == expected))
    rows += [(kind, str(deliveries[kind]), "0", not deliveries[kind]) for kind in _KINDS]
    ended = sum(deliveries["ended"].values())
    rows.append(("ended by the server", f"{ended}", "0", not ended))
    for name in ("handshakes", "pings"):
        times = probes[name]
        rows += [
            (f"{name} meanwhile", f"{times['count']}", "", None),
            ("  ms p50", f"{times['p50_ms']:.1f}", "", None),
            *(
                (f"  ms {key}", f"{times[f'{key}_ms']:.1f}", f"<= {_MAX_MS}",
                 0 < times[f"{key}_ms"] <= _MAX_MS)
                for key in ("p99", "max")
            ),
        ]  # fmt: skip
    unanswered = probes["failed"] + probes["unanswered"]
    rows.append(("  of both without an answer", f"{unanswered}", "0", not unanswered))
    cpu = result["cpu_us_per_delivery"]
    rows.append(
        ("CPU us per delivery: Odin, load", f"{cpu['odin']:.1f}, {cpu['load']:.1f}", "", None)
    )
    return checked(rows)


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    """Exits with 0 if nothing failed and nothing was lost."""
    parser = argparse.ArgumentParser(prog="benchmarks.many", description=__doc__)
    parser.add_argument("--clients", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=6, help="0: one plain process")
    parser.add_argument("--messages", type=int, default=20, help="in all")
    parser.add_argument("--interval", type=float, default=1, help="seconds from one to the next")
    parser.add_argument("--bytes", type=int, default=200, help="of a message")
    parser.add_argument("--nap", type=float, default=5, help="ms between two looks of a load")
    parser.add_argument("--out", type=Path, default=Path("bench-results"))
    arguments = parser.parse_args()
    end_on_sigterm()
    arguments.out.mkdir(parents=True, exist_ok=True)
    result = measure(arguments)
    (arguments.out / "many.json").write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    sys.exit(not whole(result))


if __name__ == "__main__":
    main()
