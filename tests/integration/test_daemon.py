"""`twistd odin` without `-n`: a daemon, and a start that fails."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SkipTest

import odin
from tests.integration.clients import Wire
from tests.integration.harness import MEMORY, OdinTestCase, Process, eventually, free_port, program


class DaemonTests(OdinTestCase):
    """A pid file and a log in a folder of their own."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.pid, self.log = self.folder / "odin.pid", self.folder / "odin.log"

    def launch(self, *options: str, daemon: bool = True, **environment: str) -> Process:
        """What the caller of `twistd odin` sees."""
        where = [f"--pidfile={self.pid}", f"--logfile={self.log}"]
        process = Process(
            [program("twistd"), *([] if daemon else ["-n"]), *where, "odin", *MEMORY,
             "--host", "127.0.0.1", *options],
            environment,
        )  # fmt: skip
        self.addCleanup(process.stop)
        return process

    def test_starts(self) -> None:
        """Status 0 once it listens; SIGTERM ends it, and the pid file is gone."""
        port = free_port()
        process = self.launch("--port", str(port))
        self.assertEqual(process.wait(), 0, process.output())
        pid = int(self.pid.read_text(encoding="ascii"))
        self.addCleanup(_kill, pid)
        socket.create_connection(("127.0.0.1", port), 5).close()
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: not self.pid.exists(), "the end")

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def test_port_taken(self) -> None:
        """Either port, in the background or not, with workers or without: status 1, one line that
        says which, and no pid file."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            for daemon in (True, False):
                for options, environment in (
                    (("--port", port), {}),
                    (("--port", "0"), {"METRICS_PORT": port}),
                    (("--port", port, "--workers", "1"), {}),
                ):
                    process = self.launch(*options, daemon=daemon, **environment)
                    self.assertEqual(process.wait(), 1)
                    said = self.said()
                    line = f"cannot listen on 127.0.0.1:{port}: Address already in use"
                    self.assertIn(line, process.output() if daemon else said + process.output())
                    eventually(  # the parent ends before its child, which says it last
                        lambda: f"odin: {line}" in self.said() + process.output(),  # noqa: B023
                        "the line",
                    )
                    self.assertNotIn("Traceback", process.output() + self.said())
                    self.assertFalse(self.pid.exists())
                    self.log.unlink()


class PrivilegesTests(OdinTestCase):
    """`--uid` and `--gid`, with a log in a folder that only root can write."""

    def test_log(self) -> None:
        """The server, with workers or without, logs there after it has given up its rights; so do
        the workers that follow."""
        packages = [str(Path(odin.__file__).parents[1])]
        packages += [each for each in sys.path if each.endswith("site-packages")]
        nobody, path = 65534, {"PYTHONPATH": ":".join(packages)}
        python = _python_for(nobody, path)
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        for workers in ((), ("--workers", "1")):
            log = folder / f"odin{len(workers)}.log"
            process = Process(
                [python, program("twistd"), "-n", "--pidfile=", f"--uid={nobody}", f"--gid={nobody}",
                 f"--logfile={log}", "odin", "--port", "0", "--host", "127.0.0.1", *MEMORY,
                 *workers],
                path, family=True,
            )  # fmt: skip
            self.addCleanup(process.stop)
            last = log.with_suffix(".0.log") if workers else log
            eventually(lambda last=last: last.exists(), "the log")
            eventually(lambda last=last: "Odin listens on" in last.read_text(), "the start")
            if workers:
                eventually(lambda log=log: "process.supervisor" in log.read_text(), "its own")
                process.signal(signal.SIGHUP)
                eventually(lambda log=log: "handed over" in log.read_text(), "the hand-over")
                self.assertEqual(last.read_text().count("Odin listens on"), 2)
            port = re.findall(r"Odin listens on [\d.]+:(\d+)", last.read_text())[-1]
            wire = Wire(f"127.0.0.1:{port}")  # an answer: the reactor runs, and heeds signals
            self.assertEqual(wire.upgrade().status, 101)
            wire.close()
            process.signal(signal.SIGTERM)
            self.assertEqual(process.wait(), 0)
            for each in {log, last}:
                self.assertNotIn("Traceback", each.read_text())
            self.check(process)


def _python_for(user: int, environment: dict[str, str]) -> str:
    """A Python that another user may run, with what Odin needs; else the test is skipped."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run(
                [python, "-c", "import odin.tap"], user=user, env=environment, check=True
            )
            return python
    raise SkipTest("needs root, and a Python that others may run")


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
