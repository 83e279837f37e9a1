"""Hand-overs under load: `python -m benchmarks.handovers`.

Clients that never reconnect have a steady feed while all workers are replaced, again and again.
With `--crashes` some of the new versions break: at import, when they are ready, and half-way.
"""

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.cluster import Cluster, Helper, asked, end_on_sigterm
from benchmarks.feed import Feed
from benchmarks.figures import checked

_ROOT = Path(__file__).resolve().parent.parent
_MAX_PAUSE_MS = 500
_SETTLE_S = 2
# (what breaks, in which file, what is there, what is put in its place)
_BREAKS = (
    ("at import", "worker.py", "import os\n", "raise ImportError('on purpose')\nimport os\n"),
    ("when ready", "worker.py", 'self._channel.send("ready")', "os._exit(3)"),
    (
        "half-way",
        "process/handover.py",
        '            self._channel.send("took", ',
        '            if self._taken: os._exit(4)\n            self._channel.send("took", ',
    ),
)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run."""
    results = []
    with contextlib.ExitStack() as stack:
        tree = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="odin-")))
        for part in ("odin", "twisted"):
            shutil.copytree(_ROOT / part, tree / part)
        cluster = stack.enter_context(
            Cluster(arguments.workers, arguments.out / "handovers.log", tree)
        )
        share = -(-arguments.clients // arguments.loads)
        loads = [
            stack.enter_context(
                Helper(
                    "mirror",
                    port=cluster.port,
                    clients=share,
                    first=at * share,
                    nap=arguments.nap,
                )
            )
            for at in range(arguments.loads)
        ]
        asked(loads, "opened", "open", within_s=120)
        feed = Feed(cluster.nats_port, arguments.rate, 200)
        feed.start()
        time.sleep(_SETTLE_S)
        asked(loads, "begun", "begin")
        time.sleep(_SETTLE_S)
        before = asked(loads, "report", "report")
        for number in range(arguments.handovers):
            results.append({"break": "", **cluster.upgrade()})
            _say(f"{number + 1}: {results[-1]}")
            time.sleep(arguments.pause)
        if arguments.crashes:
            for name, file, there, instead in _BREAKS:
                path = tree / "odin" / file
                good = path.read_text()
                assert there in good
                path.write_text(good.replace(there, instead, 1))
                results.append({"break": name, **cluster.upgrade()})
                path.write_text(good)
                _say(f"{name}: {results[-1]}")
                time.sleep(arguments.pause)
        feed.stop()
        time.sleep(_SETTLE_S)
        reports = asked(loads, "report", "report")
        stats = cluster.stats()
    return {
        "clients": share * arguments.loads,
        "rate": arguments.rate,
        "workers": arguments.workers,
        "handovers": results,
        "published": feed.sent,
        "faults": sum(each["faults"] for each in reports),
        "examples": [example for each in reports for example in each["examples"]][:5],
        "ends": dict(sum((Counter(each["ends"]) for each in reports), Counter())),
        "still_there": sum(each["clients"] for each in reports)
        - sum(sum(each["ends"].values()) for each in reports),
        "have_the_last": all(each["last"] == feed.sent - 1 for each in reports),
        "behind": sum(each["behind"] for each in reports),
        "pause_before_ms": max(each["pause_ms"] for each in before),
        "pause_ms": max(each["pause_ms"] for each in reports),
        "pause_p50_ms": max(each["pause_p50_ms"] for each in reports),
        "connections": stats["connections"]["active"],
    }


def table(result: dict[str, Any], crashes: bool) -> str:
    """The figures beside their musts."""
    done = [each["seconds"] for each in result["handovers"] if each["status"] == "done"]
    failed = [each for each in result["handovers"] if each["status"] != "done"]
    there, clients = result["still_there"], result["clients"]
    took = f"{sorted(done)[len(done) // 2]:.1f} s (median)" if done else "-"
    pause = result["pause_ms"]
    rows: list[tuple[str, str, str, bool | None]] = [
        ("clients, msg/s", f"{clients}, {result['rate']:g}", "", None),
        ("hand-overs done", f"{len(done)}, {took}", "", None),
        *((f"broken {each['break']}", each["reason"][:70], "refused", True) for each in failed),
        (
            "still on their first connection",
            f"{there}",
            "all but some of the broken half-way" if crashes else "all",
            None if crashes else there == clients,
        ),
        ("bytes lost, repeated or out of order", f"{result['faults']} clients", "0",
         not result["faults"]),
        ("have the last message", "all" if result["have_the_last"] else "NOT all", "all",
         result["have_the_last"]),
        ("longest pause before, ms", f"{result['pause_before_ms']:.0f}", "", None),
        ("longest pause of any client, ms", f"{pause:.0f}", f"< {_MAX_PAUSE_MS}",
         pause < _MAX_PAUSE_MS),
        ("longest pause of the median client, ms", f"{result['pause_p50_ms']:.0f}", "", None),
    ]  # fmt: skip
    return checked(rows)


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    """Exits with 0 if no client lost its connection, or a byte."""
    parser = argparse.ArgumentParser(prog="benchmarks.handovers", description=__doc__)
    parser.add_argument("--clients", type=int, default=5000)
    parser.add_argument("--rate", type=float, default=200, help="messages per second")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--loads", type=int, default=1, help="load processes")
    parser.add_argument("--nap", type=float, default=5, help="ms that a load process rests")
    parser.add_argument("--handovers", type=int, default=10)
    parser.add_argument("--pause", type=float, default=2, help="seconds between them")
    parser.add_argument("--crashes", action="store_true", help="then three that break")
    parser.add_argument("--out", type=Path, default=Path("bench-results"))
    arguments = parser.parse_args()
    end_on_sigterm()
    arguments.out.mkdir(parents=True, exist_ok=True)
    result = measure(arguments)
    (arguments.out / "handovers.json").write_text(json.dumps(result, indent=1) + "\n")
    print(table(result, arguments.crashes))
    whole = not result["faults"] and result["have_the_last"]
    sys.exit(not (whole and (arguments.crashes or result["still_there"] == result["clients"])))


if __name__ == "__main__":
    main()
