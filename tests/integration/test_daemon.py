"""`twistd odin` without `-n`: a daemon, and a start that fails."""

import contextlib
import os
import shutil
import signal
import socket
import tempfile
from pathlib import Path

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
                    said = self.log.read_text(encoding="utf-8")
                    self.assertNotIn("Traceback", process.output() + said)
                    line = f"cannot listen on 127.0.0.1:{port}: Address already in use"
                    self.assertIn(line, process.output() if daemon else said + process.output())
                    self.assertIn(f"odin: {line}", said + process.output())
                    self.assertFalse(self.pid.exists())
                    self.log.unlink()


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
