"""A process that runs test classes one after another, for `tests.run`.

    <-  {"name": "tests.test_x.XTests", "tests": ["tests.test_x.XTests.test_y", ..]}
    ->  ["tests.test_x.XTests.test_y", "begun" | "passed" | "failed" | "skipped", reason]
    ->  [null, "done", ""]

A line each, in on standard input, out on standard output. What a class prints, and trial's report
of it, goes to `<folder>/<name>.out`; its temporary files are in `<folder>/<name>/`.
"""

import argparse
import faulthandler
import json
import os
import shutil
import sys
from typing import Any, TextIO

from twisted.logger import globalLogBeginner, globalLogPublisher, textFileLogObserver
from twisted.python import log
from twisted.trial.reporter import Reporter
from twisted.trial.runner import LoggedSuite, TestLoader


def main() -> None:
    """Serve until the end of standard input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--limit", type=float, required=True, help="seconds for one test")
    arguments = parser.parse_args()
    folder = os.path.abspath(arguments.folder)
    told = os.fdopen(os.dup(1), "w")  # the descriptor is not for the processes of the tests
    faulthandler.enable()
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False)
    for line in sys.stdin:
        job = json.loads(line)
        with open(f"{folder}/{job['name']}.out", "w", encoding="utf-8") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        _enter(f"{folder}/{job['name']}")
        faulthandler.dump_traceback_later(arguments.limit, exit=True)  # for its import
        _run(job["tests"], _Telling(told, arguments.limit))
        sys.stdout.flush()
        _tell(told, None, "done")


def _enter(folder: str) -> None:
    """Make it the working directory, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    os.mkdir(folder)
    os.chdir(folder)


def _run(tests: list[str], reporter: "_Telling") -> None:
    """Run the tests of one class as trial does, with their log in `test.log`.

    TrialRunner would fire the reactor's shutdown at the end: that can be done only once.
    """
    with open("test.log", "w", encoding="utf-8") as file:
        observer = textFileLogObserver(file)
        globalLogPublisher.addObserver(observer)
        LoggedSuite([TestLoader().loadByNames(tests)]).run(reporter)
        globalLogPublisher.removeObserver(observer)
    faulthandler.cancel_dump_traceback_later()
    reporter.done()


class _Telling(Reporter):
    """Tells the outcome of each test at once, beside trial's own report at the end.

    A test that takes longer than its limit ends the process, with the stacks of all threads.
    """

    def __init__(self, told: TextIO, limit_s: float) -> None:
        super().__init__(sys.stderr, publisher=log)
        self._told = told
        self._limit_s = limit_s

    def startTest(self, test: Any) -> None:
        super().startTest(test)
        faulthandler.dump_traceback_later(self._limit_s, exit=True)
        _tell(self._told, test.id(), "begun")

    def addSuccess(self, test: Any) -> None:
        super().addSuccess(test)
        _tell(self._told, test.id(), "passed")

    def addExpectedFailure(self, test: Any, error: Any, todo: Any = None) -> None:
        super().addExpectedFailure(test, error, todo)
        _tell(self._told, test.id(), "passed")

    def addSkip(self, test: Any, reason: Any) -> None:
        super().addSkip(test, reason)
        _tell(self._told, test.id(), "skipped", str(reason))

    def addFailure(self, test: Any, fail: Any) -> None:
        super().addFailure(test, fail)
        _tell(self._told, test.id(), "failed")

    def addError(self, test: Any, error: Any) -> None:
        super().addError(test, error)
        _tell(self._told, test.id(), "failed")

    def addUnexpectedSuccess(self, test: Any, todo: Any = None) -> None:
        super().addUnexpectedSuccess(test, todo)
        _tell(self._told, test.id(), "failed")


def _tell(told: TextIO, test: str | None, outcome: str, reason: str = "") -> None:
    told.write(json.dumps([test, outcome, reason]) + "\n")
    told.flush()


if __name__ == "__main__":
    main()
