"""The supervisor and its hand-overs on a clock, with workers that are played."""

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from odin.errors import ConfigError
from odin.process import upgrade
from odin.process.listeners import Listening
from odin.process.supervisor import Supervisor
from odin.process.upgrade import Upgrades
from odin.process.workers import Keeper


class PlayedWorker:
    """A worker that does what the test says; what it was told is in `sent`."""

    def __init__(self, clock, keeper: Keeper, number: int, *, successor=False):
        self.clock, self.keeper, self.number, self.successor = clock, keeper, number, successor
        self.pid, self.cell, self.metrics, self.last_report = id(self), number, [], None
        self.ready, self.listening, self.running = not successor, not successor, True
        self.started, self.unsent, self.status, self.last_words = True, 0, "", ""
        self.began_at = self.heard_at = clock.seconds()
        self.events, self.sent, self.over = [], [], Deferred()
        self.kill_after_s = None

    def send(self, kind, body=None, descriptors=()):
        self.sent.append((kind, body))

    @property
    def kinds(self):
        return [kind for kind, _ in self.sent]

    def report(self, *, metrics):
        return succeed(None)

    def drain(self, *, last=False):
        self.sent.append(("drain", last))

    def kill(self):
        if self.running:
            self.end("signal 9")

    def kill_after(self, seconds):
        self.kill_after_s = seconds

    def say(self, event, value=None):
        for each in list(self.events):
            each(event, value)

    def end(self, status):
        self.running = self.listening = False
        self.status = status
        self.keeper.ended(self)
        self.say("ended", status)
        self.over.callback(None)


class SupervisorTestCase(SynchronousTestCase):
    count = 1

    def setUp(self):
        self.clock, self.spawned = Clock(), []
        self.supervisor = Supervisor(
            self.clock,
            count=self.count,
            arguments=[],
            log_file=lambda _number: None,
            open_log=lambda _path: 0,
            node="n",
            secret="s",
            open_sockets=lambda: Listening([]),
            send_buffer=0,
            answer=lambda _page: succeed((200, b"")),
            shutdown_timeout_s=5.0,
            broker=None,
        )
        self.supervisor.spawn = self.spawn
        self.supervisor.privilegedStartService()
        self.supervisor.startService()
        self.supervisor._announced = True

    def spawn(self, slot, *, successor=False):
        worker = PlayedWorker(self.clock, self.supervisor, slot.number, successor=successor)
        self.spawned.append(worker)
        return worker

    def run_for(self, seconds, *, heard=()):
        for _ in range(int(seconds * 10)):
            for each in heard:
                each.heard_at = self.clock.seconds()
            self.clock.advance(0.1)


class HungTests(SupervisorTestCase):
    count = 2

    def test_hung(self):
        """A worker that says nothing for 30 s is killed, and replaced; the other one is not."""
        first, second = self.spawned
        self.run_for(29, heard=[second])
        self.assertTrue(first.running)
        self.run_for(3, heard=[second])
        self.assertEqual((first.running, second.running), (False, True))
        self.assertEqual(len(self.spawned), 3)

    def test_the_supervisor_stood_still(self):
        """Alone or with its workers: each gets a new period before it is judged."""
        first, second = self.spawned
        self.run_for(20)
        self.clock.advance(33)
        self.assertTrue(first.running and second.running)
        self.assertTrue(self.supervisor.well())
        self.run_for(20, heard=[second])
        self.assertTrue(first.running)
        self.run_for(12, heard=[second])
        self.assertEqual((first.running, second.running), (False, True))

    def test_well(self):
        """Not when no worker has answered for 15 s."""
        self.run_for(14)
        self.assertTrue(self.supervisor.well())
        self.run_for(2)
        self.assertFalse(self.supervisor.well())


class UpgradeTestCase(SupervisorTestCase):
    def setUp(self):
        super().setUp()
        self.errors = []
        self.upgrades = Upgrades(self.clock, self.supervisor, self.check)
        self.slot = self.supervisor.slots[0]
        self.old = self.spawned[0]

    def check(self):
        if self.errors:
            raise ConfigError(self.errors[0])

    def begin(self):
        """As far as the exchange of the first slot; (what comes out, the new worker)."""
        result = self.upgrades.upgrade()
        self.clock.advance(0)
        new = self.spawned[-1]
        new.ready = True
        self.run_for(0.1)
        self.assertEqual((new.kinds, self.old.kinds[-1]), (["take"], "give"))
        return result, new

    def failed(self, result):
        found = self.successResultOf(result)
        self.assertEqual(found["status"], "failed")
        return found["reason"]


class UpgradeTests(UpgradeTestCase):
    def test_done_when_it_listens(self):
        """Not before the new worker listens; until then the old one has the place, so that nobody
        is missing."""
        result, new = self.begin()
        self.old.say("released")
        self.assertIn("listen", new.kinds)
        self.old.say("given", 3)
        self.run_for(1)
        self.assertNoResult(result)
        self.assertIs(self.slot.worker, self.old)
        self.assertEqual(self.supervisor.missing, 0)
        new.listening = True
        self.run_for(0.1)
        self.assertEqual(self.successResultOf(result)["clients"], 3)
        self.assertIs(self.slot.worker, new)
        self.assertEqual((self.supervisor.missing, self.old.kinds[-1]), (0, "drain"))

    def test_a_second_one_waits(self):
        """It begins when the workers of the first listen."""
        first, new = self.begin()
        second = self.upgrades.upgrade()
        self.old.say("given", 0)
        self.run_for(1)
        self.assertEqual(len(self.spawned), 2)
        new.listening = True
        self.run_for(0.1)
        self.assertEqual(self.successResultOf(first)["status"], "done")
        self.assertEqual(len(self.spawned), 3)
        self.old, last = new, self.spawned[-1]
        last.ready = last.listening = True
        self.run_for(0.1)
        self.old.say("given", 0)
        self.run_for(0.1)
        self.assertEqual(self.successResultOf(second)["status"], "done")

    def test_it_never_listens(self):
        """After ten seconds it is killed, the hand-over has failed, and the old one listens."""
        result, new = self.begin()
        self.old.say("given", 3)
        self.run_for(11)
        self.assertFalse(new.running)
        self.assertIn("it did not listen", self.failed(result))
        self.assertIs(self.slot.worker, self.old)
        self.assertIn("listen", self.old.kinds)

    def test_it_ends_before_it_listens(self):
        """The same, with its own reason."""
        result, new = self.begin()
        self.old.say("given", 3)
        new.end("status 3")
        self.run_for(0.1)
        self.assertIn("it ended: status 3", self.failed(result))
        self.assertIn("listen", self.old.kinds)

    def test_the_old_one_ends_meanwhile(self):
        """The new one has everybody: it takes the place, and no third one is started."""
        result, new = self.begin()
        self.old.say("given", 3)
        self.old.end("status 1")
        self.run_for(0.1)
        new.listening = True
        self.run_for(0.1)
        self.assertEqual(self.successResultOf(result)["clients"], 3)
        self.assertEqual((self.slot.worker, len(self.spawned)), (new, 2))

    def test_stuck(self):
        """A new worker that does not answer is killed before the old one serves its clients."""
        result, new = self.begin()
        self.old.say("stuck")
        self.assertFalse(new.running)
        self.old.say("kept", 3)
        self.run_for(0.1)
        reason = self.failed(result)
        self.assertIn("it did not answer", reason)
        self.assertIn("3 clients stay", reason)
        self.assertIn("listen", self.old.kinds)

    def test_stuck_at_the_end(self):
        """When the server stops both let their clients go: nobody is killed for that."""
        _result, new = self.begin()
        self.supervisor.stopping = True
        self.old.say("stuck")
        self.assertTrue(new.running)

    def test_the_old_one_says_nothing(self):
        """After 40 s it is told that it is enough, after 45 s the new one is killed."""
        result, new = self.begin()
        self.run_for(41, heard=[self.old])
        self.assertEqual((self.old.kinds[-1], new.running), ("enough", True))
        self.run_for(5, heard=[self.old])
        self.assertFalse(new.running)
        self.run_for(2, heard=[self.old])
        self.failed(result)

    def test_the_supervisor_stood_still(self):
        """Then all of its limits start anew."""
        result = self.upgrades.upgrade()
        self.clock.advance(0)
        self.clock.advance(60)
        self.assertNoResult(result)
        self.run_for(15, heard=[self.old])
        new = self.spawned[-1]
        new.ready = True
        self.run_for(0.1)
        self.clock.advance(60)
        self.run_for(30, heard=[self.old])
        self.assertEqual((self.old.kinds[-1], new.running), ("give", True))
        self.old.say("given", 1)
        self.clock.advance(60)
        self.run_for(5, heard=[self.old])
        new.listening = True
        self.run_for(0.1)
        self.assertEqual(self.successResultOf(result)["status"], "done")

    def test_never_ready(self):
        """A new worker has 20 s; nothing has moved."""
        result = self.upgrades.upgrade()
        self.run_for(21, heard=[self.old])
        self.assertIn("did not become ready", self.failed(result))
        self.assertFalse(self.spawned[-1].running)
        self.assertIs(self.slot.worker, self.old)

    def test_a_worker_is_being_started(self):
        """It is waited for; but not for ever."""
        self.old.listening = False
        result = self.upgrades.upgrade()
        self.run_for(5, heard=[self.old])
        self.assertEqual(len(self.spawned), 1)
        self.old.listening = True
        self.run_for(0.1)
        self.assertEqual(len(self.spawned), 2)
        self.spawned[-1].end("status 3")
        self.run_for(0.1)
        self.failed(result)
        self.old.listening = False
        result = self.upgrades.upgrade()
        self.run_for(upgrade._ALL_THERE_S + 1, heard=[self.old])
        self.assertEqual(self.failed(result), "a worker is missing")
        self.assertEqual((self.upgrades.done, self.upgrades.failed), (0, 2))

    def test_refused(self):
        """A configuration that cannot be used; a server that stops."""
        self.errors = ["nonsense"]
        self.assertEqual(self.failed(self.upgrades.upgrade()), "nonsense")
        self.supervisor.stopping = True
        self.assertEqual(self.failed(self.upgrades.upgrade()), "the server stops")
