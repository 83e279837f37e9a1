"""The embedded broker: it ends with the server, and leaves nothing behind."""

import os
import shutil
import signal
import socket
import tempfile
from pathlib import Path

from tests.integration.harness import Odin, OdinTestCase, eventually, free_port, program


class EmbeddedTestCase(OdinTestCase):
    def setUp(self) -> None:
        program("nats-server")
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.port = free_port()

    def begin(self) -> Odin:
        """A server with a worker and a broker that stores messages."""
        return self.start(
            "--workers", "1", "--embedded-nats", "--nats-url", f"nats://127.0.0.1:{self.port}",
            TMPDIR=str(self.folder), NATS_JETSTREAM_STREAM="FEED", NATS_JETSTREAM_CREATE="true",
            SERVER_SHUTDOWN_TIMEOUT="2",
        )  # fmt: skip

    def ready(self) -> Odin:
        odin = self.begin()
        odin.says(r"process\.supervisor.*Odin listens on")
        eventually(lambda: odin.get("/readyz").status == 200, "readiness")
        self.assertEqual(len(self.stores()), 1)
        return odin

    def stores(self) -> list[Path]:
        """What brokers have stored."""
        return list(self.folder.glob("odin-nats-*"))

    def broker(self, odin: Odin) -> int:
        """The process of the broker."""
        children = Path(f"/proc/{odin.pid}/task/{odin.pid}/children").read_text(encoding="ascii")
        return next(pid for pid in map(int, children.split()) if _name(pid) == "nats-server")


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class EndTests(EmbeddedTestCase):
    """Whatever end it is."""

    def test_stop(self) -> None:
        """SIGTERM: the folder is removed; also when the broker stands still, and must be killed."""
        for paused in (False, True):
            odin = self.ready()
            broker = self.broker(odin)
            if paused:
                os.kill(broker, signal.SIGSTOP)
            odin.signal(signal.SIGTERM)
            self.assertEqual(odin.wait(), 0)
            self.assertEqual(_name(broker), "")
            self.assertEqual(self.stores(), [])

    def test_second_signal(self) -> None:
        """An end at once leaves no broker and no folder either."""
        odin = self.ready()
        broker = self.broker(odin)
        os.kill(broker, signal.SIGSTOP)  # or it might be over before the second one
        odin.signal(signal.SIGTERM)
        odin.says("SIGTERM: stopping")
        odin.signal(signal.SIGTERM)
        self.assertEqual(odin.wait(), 143)
        eventually(lambda: _name(broker) == "", "the end of the broker")
        self.assertEqual(self.stores(), [])

    def test_killed(self) -> None:
        """What a supervisor that was killed has left, the next start removes."""
        odin = self.ready()
        broker, left = self.broker(odin), self.stores()
        odin.signal(signal.SIGKILL)
        odin.wait()
        eventually(lambda: _name(broker) == "", "the end of the broker")
        self.assertEqual(self.stores(), left)
        again = self.ready()
        self.assertNotEqual(self.stores(), left)
        again.signal(signal.SIGTERM)
        self.assertEqual(again.wait(), 0)
        self.assertEqual(self.stores(), [])

    def test_port_taken(self) -> None:
        """A broker that cannot start leaves nothing."""
        with socket.create_server(("127.0.0.1", self.port)):
            odin = self.begin()
            self.assertEqual(odin.wait(), 1)
        self.assertRegex(odin.output(), "nats-server ended: .*in use")
        self.assertEqual(self.stores(), [])
