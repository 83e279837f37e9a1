"""Folders of the embedded broker: whose are they, and when are they removed?"""

import os
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from odin.process import store
from odin.process.store import Store, remove_abandoned


class StoreTests(SynchronousTestCase):
    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.patch(tempfile, "tempdir", str(self.folder))

    def there(self):
        return sorted(self.folder.iterdir())

    def die(self, store):
        """As its process does: the descriptor is closed, the folder is not removed."""
        os.close(store.lock)
        store.lock = -1

    def test_removed(self):
        """With all that is in it; twice does no harm."""
        made = Store()
        (made.path / "jetstream").mkdir()
        (made.path / "jetstream" / "1.blk").write_bytes(b"x")
        self.assertEqual(made.path.stat().st_mode & 0o777, 0o700)
        made.remove()
        made.remove()
        self.assertEqual(self.there(), [])

    def test_of_the_dead(self):
        """The next start removes the folders of the dead, and not of the living."""
        living, dead = Store(), Store()
        self.addCleanup(living.remove)
        self.die(dead)
        mine = Store()
        self.addCleanup(mine.remove)
        self.assertEqual(self.there(), sorted((living.path, mine.path)))

    def test_the_broker_lives(self):
        """It holds the lock as well: its folder stays as long as it lives."""
        made = Store()
        inherited = os.dup(made.lock)
        self.die(made)
        remove_abandoned()
        self.assertEqual(self.there(), [made.path])
        os.close(inherited)
        remove_abandoned()
        self.assertEqual(self.there(), [])

    def test_of_others(self):
        """What only looks like one of ours stays: without a lock, a file, a link, another user's."""
        (self.folder / "odin-nats-1").mkdir()
        (self.folder / "odin-nats-2").write_bytes(b"")
        dead = Store()
        elsewhere = dead.path.rename(self.folder / "elsewhere")
        (self.folder / "odin-nats-3").symlink_to(elsewhere)
        self.die(dead)
        remove_abandoned()
        self.assertEqual(len(self.there()), 4)
        elsewhere.rename(self.folder / "odin-nats-4")
        self.patch(os, "geteuid", lambda: os.getuid() + 1)
        remove_abandoned()
        self.assertEqual(len(self.there()), 4)

    def test_taken_for_an_abandoned_one(self):
        """Another start may look between the making of a folder and its lock: make another one."""
        lock, first = store._lock, []

        def slow(descriptor):
            if not first:
                first.append(descriptor)
                remove_abandoned()
            return lock(descriptor)

        self.patch(store, "_lock", slow)
        made = Store()
        self.addCleanup(made.remove)
        self.assertEqual(self.there(), [made.path])
