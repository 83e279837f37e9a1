"""`make attack`: all attacks, and what each of them cost.

    python -m tests.hostile [--search] [names ...]

`--search`: then look for the worst legal request, which takes some minutes (`tests.hostile.legal`).
With the Python of another checkout's environment it is that one's server which is attacked.
"""

import sys
import time
import unittest
from typing import Any

from twisted.trial.runner import TestLoader

from tests.hostile import field, legal

_SEARCH = "--search"
_WIDTH = 200  # of what is said about a failure


class _Said(unittest.TestResult):
    """Tells on standard error how far it is."""

    def startTest(self, test: Any) -> None:
        super().startTest(test)
        print(f"{time.strftime('%H:%M:%S')} {test.id()}", file=sys.stderr, flush=True)


def main() -> int:
    """The exit status: 1 if an attack succeeds."""
    result = _Said()
    names = [each for each in sys.argv[1:] if each != _SEARCH]
    suite = TestLoader().loadByNames(names or ["tests.hostile"], recurse=True)
    suite.run(result)
    print(field.table(field.RECORDS))
    for test, text in (*result.errors, *result.failures):
        last = next(each for each in reversed(text.splitlines()) if each.strip())
        print(f"{test.id()}: {last[:_WIDTH]}", file=sys.stderr)
    failed = len(result.errors) + len(result.failures)
    skipped = f", {len(result.skipped)} skipped" if result.skipped else ""
    print(f"{result.testsRun - failed} held, {failed} did not{skipped}")
    if _SEARCH in sys.argv:
        print(legal.report(legal.Search().search()))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
