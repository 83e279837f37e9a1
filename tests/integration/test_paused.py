"""Processes that stand still (SIGSTOP, as a paused container or machine does it), and go on."""

import os
import signal
import time
import urllib.error
import urllib.request

from tests.integration.crowd import Crowd, Ticker
from tests.integration.harness import Odin, eventually
from tests.integration.test_handover import PATIENCE_S, BrokenTestCase, ends
from tests.integration.test_workers import worker_pids

_TOOK = '            self._channel.send("took", '


class SupervisorTests(BrokenTestCase):
    """The supervisor, which here calls a worker hung after 10 s.

    Less would be too little for a worker to start on a busy machine.
    """

    def prepare(self) -> None:
        self.change("process/supervisor.py", "_HUNG_S: Final = 30.0", "_HUNG_S: Final = 10.0")

    def test_stood_still(self) -> None:
        """Alone, or with all its workers: it kills nobody, and nobody is cut off."""
        odin = self.fleet
        with Crowd(odin.host, 20) as crowd, Ticker(self.nats, 50) as ticker:
            eventually(lambda: crowd.have(20), "the feed")
            workers = worker_pids(odin)
            for pids in ([odin.pid], [odin.pid, *workers.values()]):
                for pid in pids:
                    os.kill(pid, signal.SIGSTOP)
                time.sleep(12)  # longer than a worker may be silent
                for pid in reversed(pids):
                    os.kill(pid, signal.SIGCONT)
                seen = ticker.sent
                eventually(lambda seen=seen: crowd.have(seen + 50), "the feed")
                self.assertEqual(worker_pids(odin), workers)
            ticker.stop()
            self.assertEqual(crowd.ended, [])
        self.assertEqual(odin.output().count("the supervisor stood still"), 2)

    def test_hung(self) -> None:
        """A worker that stands still is killed, and replaced; the clients of the other one stay."""
        odin = self.fleet
        workers = worker_pids(odin)
        os.kill(workers[0], signal.SIGSTOP)
        odin.says("worker 0 does not answer: killed")
        eventually(lambda: odin.metric("odin_workers") == 2, "both workers")
        now = worker_pids(odin)
        self.assertNotEqual(now[0], workers[0])
        self.assertEqual(now[1], workers[1])


class NewWorkerTests(BrokenTestCase):
    """A new worker that stands still in the middle of a hand-over."""

    def test_before_it_acknowledges(self) -> None:
        """Those it was given wait for some seconds, and stay with the old worker."""
        odin = self.fleet
        with Crowd(odin.host, 40) as crowd, Ticker(self.nats, 100) as ticker:
            eventually(lambda: crowd.have(20), "the feed")
            said = self.broken(
                "process/handover.py", _TOOK, "            os.kill(os.getpid(), 19)\n" + _TOOK
            )
            self.assertRegex(said, r"failed half-way \(it did not answer\); \d+ clients stay")
            self.assertWhole(crowd, ticker.stop())
            self.assertEqual(odin.clients(), 40)
            self.assertLess(crowd.longest_pause_s, 20)  # 42 when nobody looked
        self.assertRegex(self.hand_over(), "^handed over")

    def test_after_it_has_acknowledged(self) -> None:
        """Those it had taken are cut off, for nobody else may serve them; the others stay."""
        odin = self.fleet
        with Crowd(odin.host, 40) as crowd, Ticker(self.nats, 100) as ticker:
            eventually(lambda: crowd.have(20), "the feed")
            said = self.broken(
                "process/handover.py",
                "            self._side.settle(raw, sockets)",
                "            os.kill(os.getpid(), 19)",
            )
            self.assertRegex(said, r"failed half-way \(it did not (answer|listen)\)")
            ticker.stop()
            self.assertEqual(crowd.faults, [])
            eventually(lambda: odin.clients() == 40 - len(crowd.ended), "the end of the others")
            self.assertLess(len(crowd.ended), 40)
        self.assertRegex(self.hand_over(), "^handed over")


class LateTests(BrokenTestCase):
    """A single new worker that takes its time to say that it listens."""

    def start_fleet(self, *options: str, **environment: str) -> Odin:
        more = {"METRICS_PORT": str(self.inner)} | environment
        return super().start_fleet("--workers", "1", *options, **more)

    def prepare(self) -> None:
        listening = 'self._channel.send("listening")'
        self.change(
            "worker.py", listening, 'self._reactor.callLater(0.5, self._channel.send, "listening")'
        )

    def readiness(self) -> int:
        """What the supervisor says of itself."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.inner}/readyz") as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def test_twice(self) -> None:
        """The hand-over lasts until then, a second one comes after it, and the server is ready all
        the time."""
        odin = self.fleet
        odin.signal(signal.SIGHUP)
        time.sleep(0.1)
        odin.signal(signal.SIGHUP)
        odin.says("a hand-over is under way: another one follows")
        seen = set()

        def look() -> bool:
            seen.add(self.readiness())
            return len(ends(odin)) >= 2

        eventually(look, "the end of both", PATIENCE_S)
        self.assertEqual(seen, {200})
        for each in ends(odin):
            self.assertRegex(each, "^handed over 0 clients")
