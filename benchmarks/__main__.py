"""`python -m benchmarks`: run the scenarios, print the table, save the results."""

import argparse
import sys
from pathlib import Path

from benchmarks.report import Runs, save, table
from benchmarks.scenarios import SCENARIOS, Scale


def main() -> None:
    """Odin and the baseline take turns, so that what disturbs the machine disturbs both."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small, one run: under three minutes")
    parser.add_argument("--only", help=f"of {','.join(SCENARIOS)}")
    parser.add_argument("--runs", type=int, help="runs of each [3; 1 when quick]")
    parser.add_argument("--out", type=Path, default=Path("bench-results"))
    arguments = parser.parse_args()
    if sys.platform != "linux":
        sys.exit("the benchmark reads /proc and uses epoll: Linux only")
    chosen = arguments.only.split(",") if arguments.only else list(SCENARIOS)
    unknown = [name for name in chosen if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    scale = Scale(arguments.quick)
    arguments.out.mkdir(parents=True, exist_ok=True)
    runs: Runs = {"odin": {}, "baseline": {}}
    for run in range(arguments.runs or (1 if arguments.quick else 3)):
        for scenario in chosen:
            for name, figures in runs.items():
                print(f"run {run + 1}, {scenario}, {name}", file=sys.stderr, flush=True)
                log = arguments.out / f"{name}.log"
                for figure, value in SCENARIOS[scenario](name, log, scale).items():
                    figures.setdefault(figure, []).append(value)
    save(runs, arguments.out)
    print(table(runs))


if __name__ == "__main__":
    main()
