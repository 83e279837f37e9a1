"""`make test`: run all tests, several classes at a time.

    python -m tests.run [--jobs N] [names ...]

A name is that of a package, module, class or test; without one it is `tests`. A class runs whole
in one of N worker processes (`tests.worker`), because its tests may share a server. The longest
class starts first, as measured by the run before, and the shortest beside it.

The last line is `N passed, N failed, N skipped`; the exit status is 1 if a test failed. A class
that ends its process, or hangs, fails: the tests that it still owed count as failed.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import TestCase, TestSuite

from twisted.trial.runner import TestLoader

_FOLDER: Final = "_trial_temp_run"  # trial erases _trial_temp
_LIMIT_S: Final = 600.0  # for one test: chaos takes 45 s, and much longer on a busy machine
_SECONDS: Final = "seconds.json"  # of each class, in the folder
_GUESS_S: Final = (  # for one test, where nothing was measured yet
    ("tests.integration.test_chaos.", 40.0),
    ("tests.integration.test_handover.", 6.0),
    ("tests.integration.test_paused.", 15.0),
    ("tests.integration.test_workers.", 4.0),
    ("tests.hostile.", 3.0),
    ("tests.integration.", 1.5),
    ("", 0.1),
)


@dataclass(slots=True)
class Job:
    """A test class, or what stands for a module that cannot be loaded."""

    name: str
    tests: list[str] = field(default_factory=list)
    outcomes: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)  # of skipped tests
    seconds: float = 0.0
    verdict: str = ""  # why it ended early

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.outcomes.values())

    @property
    def owes(self) -> bool:
        """Whether a test of it has no outcome."""
        return any(self.outcomes.get(test, "begun") == "begun" for test in self.tests)

    def take(self, test: str, outcome: str, reason: str) -> None:
        """Note what became of a test. A failure stays one, whatever follows."""
        if self.outcomes.get(test) != "failed":
            self.outcomes[test] = outcome
        if outcome == "skipped":
            self.reasons[test] = reason

    def broken(self, why: str) -> None:
        """Its worker has ended: what has not been decided has failed."""
        during = next((t for t, outcome in self.outcomes.items() if outcome == "begun"), "")
        self.verdict = f"{why} in {during}" if during else why
        for test in self.tests:
            if self.outcomes.get(test) not in {"passed", "skipped"}:
                self.outcomes[test] = "failed"
        if not self.counts["failed"]:  # it ended behind its last test
            self.outcomes[self.name] = "failed"


class Worker:
    """A process that runs classes, in a session of its own so that nothing outlives it."""

    def __init__(self, folder: Path, limit_s: float) -> None:
        self._limit_s = limit_s
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.worker", str(folder), "--limit", str(limit_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, job: Job) -> bool:
        """Run a class; whether the process can run another one."""
        assert self._process.stdin is not None and self._process.stdout is not None
        began = heard = time.monotonic()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"name": job.name, "tests": job.tests}) + "\n")
            self._process.stdin.flush()
        done = False
        for line in self._process.stdout:
            test, outcome, reason = json.loads(line)
            if done := outcome == "done":
                break
            job.take(test, outcome, reason)
            heard = time.monotonic()
        now = time.monotonic()
        job.seconds = now - began
        if not done:
            status = self._process.wait()
            how = signal.Signals(-status).name if status < 0 else f"status {status}"
            hung = f"no result within {self._limit_s:.0f} s" if now - heard >= self._limit_s else ""
            job.broken(hung or f"the process ended with {how}")
        return done

    def end(self) -> None:
        """Let it stop the servers of its tests; then kill what is left."""
        with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
            self._process.communicate(timeout=20)
        self.kill()

    def kill(self) -> None:
        for name in os.listdir("/proc"):
            with contextlib.suppress(ProcessLookupError):
                if name.isdigit() and os.getsid(int(name)) == self._process.pid:
                    os.kill(int(name), signal.SIGKILL)
        self._process.wait()


class Run:
    """All jobs of one call, and the report of them."""

    def __init__(self, jobs: list[Job], folder: Path, limit_s: float) -> None:
        self.jobs = jobs
        self._folder = folder
        self._limit_s = limit_s
        self._waiting = deque(jobs)
        self._workers: set[Worker] = set()
        self._lock = threading.Lock()
        self._finished = 0

    def run(self, processes: int) -> None:
        takes = (self._waiting.popleft, self._waiting.pop)
        threads = [
            threading.Thread(target=self._work, args=(takes[number % 2],), daemon=True)
            for number in range(processes)
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:  # at Ctrl-C and SIGTERM, too
            self._waiting.clear()
            for worker in list(self._workers):
                worker.kill()
        for job in self.jobs:
            if job.owes:
                job.broken("it did not run to its end")

    def _work(self, take: Callable[[], Job]) -> None:
        """Run what `take` gives: for one half the longest, which mostly wait; for the other half
        the shortest, which mostly compute."""
        worker = None
        while (job := self._next()) is not None:
            if worker is None:
                worker = Worker(self._folder, self._limit_s)
                self._workers.add(worker)
            goes_on = worker.run(job)
            self._say(job)
            if not goes_on:
                self._end(worker)
                worker = None
        if worker is not None:
            self._end(worker)

    def _next(self) -> Job | None:
        try:
            return self._waiting.popleft()
        except IndexError:
            return None

    def _end(self, worker: Worker) -> None:
        worker.end()
        self._workers.discard(worker)

    def _say(self, job: Job) -> None:
        """The line of a class that has finished."""
        counts = job.counts
        verdict = f"FAILED ({counts['failed']})" if counts["failed"] else "ok"
        with self._lock:
            self._finished += 1
            of = f"{self._finished:3}/{len(self.jobs)}"
            tests = f"{len(job.outcomes):3} tests {job.seconds:6.1f} s"
            print(f"{of} {tests}  {verdict:4} {job.name}", flush=True)

    def report(self) -> Counter[str]:
        """Print what was skipped and what failed, with its output; the sum of all."""
        reasons = Counter(reason for job in self.jobs for reason in job.reasons.values())
        for reason, count in reasons.items():
            print(f"skipped {count}: {reason}")
        failed = [job for job in self.jobs if job.counts["failed"]]
        for job in failed:
            print(f"\n{'=' * 100}\n{job.name}: {job.verdict or 'failed'}")
            print(_output(self._folder, job.name))
        if failed:
            print("=" * 100)
        for job in failed:
            for test, outcome in job.outcomes.items():
                if outcome == "failed":
                    print(f"FAILED {test}")
        return sum((job.counts for job in self.jobs), Counter())


def main() -> int:
    """The exit status: 0 if every test passed or was skipped."""
    parser = argparse.ArgumentParser(prog="python -m tests.run", description=__doc__)
    parser.add_argument("names", nargs="*", default=["tests"])
    parser.add_argument("--jobs", type=int, default=3 * (os.cpu_count() or 1))
    parser.add_argument("--limit", type=float, default=_LIMIT_S, help="seconds for one test")
    parser.add_argument("--folder", type=Path, default=Path(_FOLDER), help="for temporary files")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    began = time.monotonic()
    arguments.folder.mkdir(exist_ok=True)
    before = _seconds(arguments.folder)
    jobs = find(arguments.names)
    jobs.sort(key=lambda job: before.get(job.name, _guess(job)), reverse=True)
    run = Run(jobs, arguments.folder, arguments.limit)
    run.run(arguments.jobs)
    measured = before | {job.name: round(job.seconds, 2) for job in jobs}
    (arguments.folder / _SECONDS).write_text(json.dumps(measured, indent=1), encoding="utf-8")
    sum_ = run.report()
    took = time.monotonic() - began
    print(f"{sum_.total()} tests of {len(jobs)} classes in {took:.0f} s")
    print(f"{sum_['passed']} passed, {sum_['failed']} failed, {sum_['skipped']} skipped")
    return 1 if sum_["failed"] or not sum_["passed"] else 0


def find(names: list[str]) -> list[Job]:
    """The classes of these names, each with the tests that were asked for."""
    jobs: dict[str, Job] = {}
    for test in _tests(TestLoader().loadByNames(names, recurse=True)):
        owner = type(test)
        whole = isinstance(test, TestCase)  # else it stands for something that cannot be loaded
        name = f"{owner.__module__}.{owner.__qualname__}" if whole else test.id()
        jobs.setdefault(name, Job(name)).tests.append(test.id())
    return list(jobs.values())


def _tests(suite: Any) -> Iterator[Any]:
    """The single tests of a suite of suites."""
    for each in suite:
        if isinstance(each, TestSuite):
            yield from _tests(each)
        else:
            yield each


def _guess(job: Job) -> float:
    return len(job.tests) * next(each for start, each in _GUESS_S if job.name.startswith(start))


def _seconds(folder: Path) -> dict[str, float]:
    """How long each class took when it last ran."""
    try:
        found: dict[str, float] = json.loads((folder / _SECONDS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _output(folder: Path, name: str) -> str:
    try:
        return (folder / f"{name}.out").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "(no output)"


if __name__ == "__main__":
    sys.exit(main())
