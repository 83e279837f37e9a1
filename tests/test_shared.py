"""What several workers share: seats and addresses (odin.process.shared, odin.access.limits)."""

import os
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from odin.access.limits import AddressLimit, Seats, SharedAddressLimit
from odin.errors import RateLimited
from odin.process.shared import ADDRESS_SETS, SEATS, SharedMemory

KEY = b"k" * 16
WORKERS = st.integers(1, 5)

# Another process of the same server: it takes three seats and two turns of an address.
OTHER = """
import sys
from odin.access.limits import Seats, SharedAddressLimit
from odin.errors import RateLimited
from odin.process.shared import SharedMemory
memory = SharedMemory(int(sys.argv[1]))
print(list(memory.seats[:3]), memory.addresses.nbytes)
Seats(100, 100, memory.seats, 1).change(3)
limit = SharedAddressLimit(4, memory.addresses, b"k" * 16)
for _ in range(4):
    try:
        limit.take("192.0.2.1", 50.0)
        print("yes")
    except RateLimited:
        print("no")
"""


class SharedTestCase(SynchronousTestCase):
    def memory(self):
        """A new one, and a second mapping of it as another process has it."""
        first = SharedMemory()
        second = SharedMemory(first.descriptor)
        os.close(first.descriptor)  # the mappings stay
        return first, second

    def limits(self, rate, *, sets=ADDRESS_SETS, key=KEY):
        """Two workers' limits over the same table, and the table."""
        first, second = self.memory()
        size = sets * 64
        tables = first.addresses[:size], second.addresses[:size]
        return *(SharedAddressLimit(rate, table, key) for table in tables), tables[0]

    def passes(self, limit, address, now):
        try:
            limit.take(address, now)
        except RateLimited:
            return False
        return True


# A process that counts up in the shared memory, alone or not.
COUNTER = """
import sys
from odin.process.shared import SharedMemory
memory = SharedMemory(int(sys.argv[1]))
for _ in range(3000):
    with memory.alone():
        memory.seats[0] += 1
"""


class AloneTests(SharedTestCase):
    def test_alone(self):
        """Processes that change the same number do not undo each other."""
        memory = SharedMemory()
        self.addCleanup(os.close, memory.descriptor)
        command = [sys.executable, "-c", COUNTER, str(memory.descriptor)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        ran = [
            subprocess.Popen(command, pass_fds=(memory.descriptor,), env=environment)
            for _ in range(3)
        ]
        self.assertEqual([each.wait(30) for each in ran], [0, 0, 0])
        self.assertEqual(memory.seats[0], 9000)

    def test_stopped_inside(self):
        """One that never leaves is not waited for, and one that died keeps nobody out."""
        memory = SharedMemory()
        self.addCleanup(os.close, memory.descriptor)
        code = COUNTER.partition("for _")[0] + (
            "import fcntl\nfcntl.lockf(memory.descriptor, fcntl.LOCK_EX)\n"
            "print(flush=True)\nsys.stdin.read()"
        )
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen(
            [sys.executable, "-c", code, str(memory.descriptor)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, pass_fds=(memory.descriptor,), env=environment,
        ) as holder:  # fmt: skip
            assert holder.stdout is not None
            holder.stdout.readline()
            with memory.alone():
                memory.seats[0] += 1
            holder.kill()
        with memory.alone():
            self.assertEqual(memory.seats[0], 1)


class MemoryTests(SharedTestCase):
    def test_new(self):
        """All zeros, a cell for each worker and its successor, the table behind them."""
        memory, again = self.memory()
        self.assertEqual(memory.seats.tolist(), [0] * SEATS)
        self.assertFalse(any(memory.addresses))
        memory.seats[SEATS - 1] = -1
        self.assertFalse(any(memory.addresses))
        memory.addresses[:4] = b"abcd"
        self.assertEqual((again.seats[SEATS - 1], bytes(again.addresses[:4])), (-1, b"abcd"))

    def test_other_process(self):
        """A process that gets the descriptor sees the same, and what it does is seen here."""
        memory = SharedMemory()
        self.addCleanup(os.close, memory.descriptor)
        seats = Seats(100, 10, memory.seats, 0)
        seats.change(6)
        limit = SharedAddressLimit(4, memory.addresses, KEY)
        for _ in range(2):
            limit.take("192.0.2.1", 50.0)
        ran = subprocess.run(
            [sys.executable, "-c", OTHER, str(memory.descriptor)],
            pass_fds=[memory.descriptor], stdout=subprocess.PIPE, check=True, timeout=30,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        self.assertEqual(
            ran.stdout.decode().splitlines(),
            [f"[6, 0, 0] {ADDRESS_SETS * 64}", "yes", "yes", "no", "no"],
        )
        self.assertEqual((seats.taken, seats.full, memory.seats[1]), (6, False, 3))
        seats.change(1)
        self.assertTrue(seats.full)
        self.assertFalse(self.passes(limit, "192.0.2.1", 50.0))


class SeatsTests(SharedTestCase):
    def test_alone(self):
        """Without others only the room in this process counts."""
        seats = Seats(2)
        for taken, full in ((0, False), (1, False), (2, True)):
            self.assertEqual((seats.taken, seats.full), (taken, full))
            seats.change(1)
        seats.change(-2)
        self.assertEqual((seats.taken, seats.full), (1, False))

    def test_no_maximum(self):
        """With 0 for any number, each has its own room; a room that is used up is full."""
        memory, _ = self.memory()
        first, second = (Seats(3, 0, memory.seats, cell) for cell in range(2))
        first.change(3)
        self.assertEqual((first.full, second.full), (True, False))

    @given(WORKERS, st.integers(1, 12), st.lists(st.tuples(st.integers(0, 4), st.booleans())))
    def test_never_more(self, workers, most, steps):
        """Who looks before each seat: never more than the maximum, and always as many as that."""
        memory, _ = self.memory()
        seats = [Seats(8, most, memory.seats, cell) for cell in range(workers)]
        for worker, takes in steps:
            mine = seats[worker % workers]
            taken = sum(each.taken for each in seats)
            self.assertEqual(mine.full, taken == most or mine.taken == 8)
            if takes and not mine.full:
                mine.change(1)
            elif not takes and mine.taken:
                mine.change(-1)
            self.assertLessEqual(sum(memory.seats), most)
            self.assertEqual(memory.seats.tolist()[:workers], [each.taken for each in seats])

    @given(WORKERS, st.integers(1, 12), st.lists(st.integers(0, 4), max_size=80))
    def test_at_the_same_instant(self, workers, most, steps):
        """Whoever looks while others are between look and seat: at most one too many for each."""
        memory, _ = self.memory()
        seats = [Seats(100, most, memory.seats, cell) for cell in range(workers)]
        looked = [False] * workers
        for worker in (step % workers for step in steps):
            if looked[worker]:
                seats[worker].change(1)
            looked[worker] = not looked[worker] and not seats[worker].full
            self.assertLess(sum(memory.seats), most + workers)


class AddressTests(SharedTestCase):
    @given(
        st.sampled_from((0.5, 1, 3, 10)),
        st.lists(st.tuples(st.booleans(), st.sampled_from("abc"), st.floats(0, 1.5)), max_size=60),
    )
    def test_as_one(self, rate, steps):
        """Two workers decide as one that has all the connections would."""
        first, second, _ = self.limits(rate)
        alone, now = AddressLimit(rate), 1000.0
        for left, address, later_s in steps:
            now += later_s
            passes = self.passes(first if left else second, address, now)
            self.assertEqual(passes, self.passes(alone, address, now))

    def test_off(self):
        """A rate of 0 limits nothing and writes nothing."""
        first, _, table = self.limits(0)
        self.assertTrue(all(self.passes(first, "a", 1.0) for _ in range(100)))
        self.assertEqual((first.active, any(table)), (False, False))

    def test_refusal(self):
        """Says how long to wait, and costs nothing."""
        first, second, table = self.limits(2)
        for limit in (first, second):
            limit.take("a", 100.0)
        before = bytes(table)
        for limit in (first, second):
            error = self.assertRaises(RateLimited, limit.take, "a", 100.0)
            self.assertAlmostEqual(error.retry_after_s, 0.5)
        self.assertEqual(bytes(table), before)
        self.assertTrue(self.passes(second, "a", 100.5))

    def test_same_instant(self):
        """Two that read before either has written let one too many in: L + N - 1."""
        first, second, table = self.limits(4)
        before = bytes(table)
        first.take("a", 100.0)
        table[:] = before  # as the second has read it
        taken = 1 + sum(self.passes(limit, "a", 100.0) for limit in (second, first) * 5)
        self.assertEqual(taken, 5)

    def test_full_set(self):
        """Four share a set; a fifth takes the place of the one that has rested longest."""
        limit, other, _ = self.limits(1, sets=1)
        for moment, address in enumerate("abcd"):
            limit.take(address, 100.0 + moment / 10)
        self.assertEqual([self.passes(other, each, 100.4) for each in "abcd"], [False] * 4)
        self.assertTrue(self.passes(other, "e", 100.4))
        self.assertEqual([self.passes(limit, each, 100.5) for each in "bcde"], [False] * 4)
        self.assertTrue(self.passes(limit, "a", 100.5))  # forgotten; now it is b's turn
        self.assertEqual([self.passes(other, each, 100.5) for each in "cdea"], [False] * 4)
        self.assertTrue(self.passes(other, "b", 100.5))

    def test_rested_first(self):
        """An address that is back in time keeps its place: it is not the order of coming."""
        limit, _, _ = self.limits(2, sets=1)
        for moment, address in enumerate("abcda"):
            limit.take(address, 100.0 + moment / 10)
        limit.take("e", 100.5)
        self.assertEqual([self.passes(limit, "a", 100.5) for _ in range(2)], [True, False])

    def test_room(self):
        """There is room for many at once."""
        limit, other, _ = self.limits(1)
        addresses = [f"2001:db8::{number:x}" for number in range(2000)]
        for address in addresses:
            limit.take(address, 100.0)
        self.assertFalse(any(self.passes(other, each, 100.5) for each in addresses))

    def test_key(self):
        """The key decides where an address is: who does not know it cannot aim at a set."""
        wheres = []
        for key in (b"a" * 16, b"b" * 16, b"a" * 16):
            limit, _, table = self.limits(1, key=key)
            limit.take("192.0.2.1", 100.0)
            wheres.append(bytes(table).index(next(filter(None, table))) // 64)
        self.assertEqual(wheres[0], wheres[2])
        self.assertNotEqual(wheres[0], wheres[1])
