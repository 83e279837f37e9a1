"""The runner of the tests: what it counts, and what it says of the tests that fail (tests.run)."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.harness import eventually

_ROOT = Path(__file__).resolve().parents[2]

GOOD = """
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

class OneTests(SynchronousTestCase):
    def test_a(self): print("not of interest")
    def test_b(self): raise SkipTest("no such program")

class TwoTests(TestCase):
    def test_c(self): pass
"""

BAD = """
import os, signal, time
from twisted.trial.unittest import SynchronousTestCase

class FailTests(SynchronousTestCase):
    def test_fails(self): self.assertEqual("this", "that")
    def test_works(self): pass

class TwiceTests(SynchronousTestCase):
    def tearDown(self): raise ValueError("in tearDown")
    def test_twice(self): self.fail("in the test")

class CrashTests(SynchronousTestCase):
    def test_1(self): pass
    def test_2(self): os.kill(os.getpid(), signal.SIGSEGV)
    def test_3(self): pass

class HangTests(SynchronousTestCase):
    def test_hangs(self): time.sleep(600)
"""

# a process that nobody waits for, told from those of other runs by its argument
LEFT = ["sleep", f"{1_000_000 + os.getpid()}"]
LEAVES = f"""
import subprocess, time
from twisted.trial.unittest import SynchronousTestCase

class LeavesTests(SynchronousTestCase):
    def test_leaves(self): subprocess.Popen({LEFT})

class StaysTests(SynchronousTestCase):
    def test_stays(self):
        subprocess.Popen({LEFT})
        time.sleep(600)
"""


def left():
    """Whether the process is there."""
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if each.read_bytes().decode().split("\0")[:-1] == LEFT:
                return True
    return False


class RunTestCase(SynchronousTestCase):
    """A folder with test modules of its own."""

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp()).resolve()
        self.addCleanup(subprocess.run, ["rm", "-rf", self.folder], check=True)

    def module(self, name, text):
        (self.folder / f"{name}.py").write_text(text, encoding="utf-8")

    def start(self, *arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "tests.run", "--jobs", "2",
             "--folder", str(self.folder / "temp"), *arguments],
            cwd=_ROOT, env={"PYTHONPATH": str(self.folder)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run_tests(self, *arguments):
        """(exit status, lines) of the runner."""
        with self.start(*arguments) as runner:
            output, _ = runner.communicate(timeout=120)
        return runner.returncode, output.splitlines()


class GoodTests(RunTestCase):
    def test_all(self):
        """All classes of a module: a line each, the reasons of what was skipped, the sum."""
        self.module("test_good_x", GOOD)
        status, lines = self.run_tests("test_good_x")
        self.assertEqual((status, lines[-1]), (0, "2 passed, 0 failed, 1 skipped"))
        said = sorted(re.sub(r"^ *\d/2| +[\d.]+ s ", "", line).split()[0] for line in lines[:2])
        self.assertEqual(said, ["1", "2"])
        self.assertIn("skipped 1: no such program", lines)
        self.assertNotIn("not of interest", lines)

    def test_names(self):
        """A class or a test can be asked for, and nothing else runs."""
        self.module("test_good_x", GOOD)
        for name in ("test_good_x.TwoTests", "test_good_x.OneTests.test_a"):
            status, lines = self.run_tests(name)
            self.assertEqual((status, lines[-1]), (0, "1 passed, 0 failed, 0 skipped"))

    def test_longest_first(self):
        """What took longest the last time begins first."""
        self.module("test_good_x", GOOD)
        (self.folder / "temp").mkdir()
        times = '{"test_good_x.OneTests": 1, "test_good_x.TwoTests": %d}'
        for seconds, first in ((2, "TwoTests"), (0, "OneTests")):
            (self.folder / "temp/seconds.json").write_text(times % seconds, encoding="utf-8")
            _, lines = self.run_tests("--jobs", "1", "test_good_x")
            self.assertTrue(lines[0].endswith(first), lines)


class BadTests(RunTestCase):
    def test_all_kinds(self):
        """A failure, a crash and a hang: each is named, with its output; the other tests count."""
        self.module("test_bad_x", BAD)
        status, lines = self.run_tests("--jobs", "4", "--limit", "2", "test_bad_x")
        self.assertEqual((status, lines[-1]), (1, "2 passed, 5 failed, 0 skipped"))
        text = "\n".join(lines)
        self.assertIn("'this' != 'that'", text)
        self.assertIn("in tearDown", text)
        crash, hang = "test_bad_x.CrashTests", "test_bad_x.HangTests"
        self.assertIn(f"{crash}: the process ended with SIGSEGV in {crash}.test_2", lines)
        self.assertIn(f"{hang}: no result within 2 s in {hang}.test_hangs", lines)
        self.assertIn("in test_hangs", text.partition("Timeout")[2])  # the stack
        start = "FAILED test_"
        named = {line.removeprefix("FAILED ") for line in lines if line.startswith(start)}
        self.assertEqual(
            named,
            {
                "test_bad_x.FailTests.test_fails",
                "test_bad_x.TwiceTests.test_twice",
                f"{crash}.test_2",
                f"{crash}.test_3",
                f"{hang}.test_hangs",
            },
        )

    def test_not_loaded(self):
        """A module that cannot be imported, a name that nobody has, and nothing at all fail."""
        self.module("test_broken_x", "import no_such_module")
        self.module("test_empty_x", "")
        for name, word in (("test_broken_x", "no_such_module"), ("test_none_x", "test_none_x")):
            status, lines = self.run_tests(name)
            self.assertEqual((status, lines[-1]), (1, "0 passed, 1 failed, 0 skipped"))
            self.assertIn(word, "\n".join(lines))
            self.assertIn(f"FAILED {name}", lines)
        status, lines = self.run_tests("test_empty_x")
        self.assertEqual((status, lines[-1]), (1, "0 passed, 0 failed, 0 skipped"))

    def test_leaves_nothing(self):
        """Processes that a class leaves behind are ended, and hold nothing up."""
        self.module("test_left_x", LEAVES)
        status, _ = self.run_tests("test_left_x.LeavesTests")
        self.assertEqual((status, left()), (0, False))

    def test_stopped(self):
        """At SIGTERM everything ends."""
        self.module("test_left_x", LEAVES)
        with self.start("test_left_x.StaysTests") as runner:
            eventually(left, "the test")
            runner.terminate()
            self.assertEqual(runner.wait(60), 128 + signal.SIGTERM)
        self.assertFalse(left())
