"""All targets, a share of the time for each, as many at a time as there are cores.

Status 1 if an input failed; it is in fuzz-results/<target>/crash-.., with its traceback beside it.
Once the defect is mended, the input belongs into tests/fuzz/corpus/<target>/.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz import targets

_MARGIN_S = 120  # for the start, and for the last input
_MOST_KEPT = 60  # inputs of a target: they are replayed by each `make test`
_LONGEST_KEPT = 300  # bytes
_FAILED = ("crash-", "timeout-", "oom-", "leak-")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together")
    parser.add_argument("--target", action="append", choices=targets.NAMES, help="this one only")
    parser.add_argument("--out", type=Path, default=Path("fuzz-results"))
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--keep", action="store_true", help="put what is new into the corpus")
    arguments = parser.parse_args()
    names = arguments.target or targets.NAMES
    jobs = min(arguments.jobs, len(names))
    share_s = max(1, arguments.seconds * jobs // len(names))
    print(f"{'target':10} {'runs':>10} {'per s':>8} {'new':>6} {'crashes':>8}", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        done = list(pool.map(lambda name: _fuzz(name, share_s, arguments), names))
    sys.exit(any(done))


def _fuzz(name, seconds, arguments):
    """Fuzz one target and say what came of it; whether anything failed."""
    folder = arguments.out / name
    corpus = folder / "corpus"
    for old in [each for kind in _FAILED for each in folder.glob(f"{kind}*")]:
        old.unlink()
    before = len(list(corpus.glob("*")))
    began = time.monotonic()
    status = _run(name, arguments.out, seconds, f"--seconds={seconds}")
    took_s = time.monotonic() - began
    new = len(list(corpus.glob("*"))) - before
    failed = [each for kind in _FAILED for each in folder.glob(f"{kind}*") if not each.suffix]
    figures = {"runs": 0, "by": "nothing"}
    if (folder / "figures.json").exists():
        figures = json.loads((folder / "figures.json").read_text())
    rate = figures["runs"] / took_s
    lines = [f"{name:10} {figures['runs']:10} {rate:8.0f} {new:6} {len(failed):8}  {figures['by']}"]
    lines += [f"  {each}" for each in sorted(failed)]
    if status and not failed:
        lines.append(f"  ended with status {status}: see {folder}/log")
    print("\n".join(lines), flush=True)
    if arguments.keep:
        _keep(name, corpus)
    shutil.rmtree(folder / "seeds", ignore_errors=True)
    return bool(failed or status or not figures["runs"])


def _keep(name, found):
    """Put the shortest inputs that reached something new into the corpus that the tests replay."""
    folder = targets.CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    room = _MOST_KEPT - len(list(folder.iterdir()))
    short = [each for each in found.iterdir() if each.stat().st_size <= _LONGEST_KEPT]
    short.sort(key=lambda each: (each.stat().st_size, each.name))
    for each in short[: max(0, room)]:
        shutil.copy(each, folder / each.name[:16])


def _run(name, out, seconds, *options):
    """The status of a process that works on one target."""
    (out / name).mkdir(parents=True, exist_ok=True)
    (out / name / "figures.json").unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.fuzz.run", name, f"--out={out}", *options]
    with (out / name / "log").open("wb") as log:
        try:
            return subprocess.run(
                command, stdout=log, stderr=log, timeout=seconds + _MARGIN_S, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return "timeout"


if __name__ == "__main__":
    main()
