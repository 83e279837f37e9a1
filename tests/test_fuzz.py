"""Every input that ever failed, and what the fuzzer found worth keeping (tests/fuzz)."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz import targets
from tests.fuzz.crashes import Crashes
from tests.fuzz.source import Source


class CorpusTests(SynchronousTestCase):
    def replay(self, name):
        target, inputs = targets.load(name), targets.known(name)
        self.assertGreater(len(inputs), 2)
        for title, data in inputs:
            try:
                target.check(data)
            except Exception as error:
                raise AssertionError(f"{name}: {title}: {data!r}") from error

    def test_heads(self):
        """Request heads have one meaning, or get their 4xx."""
        self.replay("heads")

    def test_frames(self):
        """What follows a handshake means the same in any cuts, and is not hoarded."""
        self.replay("frames")

    def test_requests(self):
        """Each request has one reply, and none gets around the token."""
        self.replay("requests")

    def test_subjects(self):
        """Subjects, patterns, permissions and routes are as NATS has them."""
        self.replay("subjects")

    def test_payloads(self):
        """A client reads our channel and offset, whatever a publisher sends."""
        self.replay("payloads")

    def test_tokens(self):
        """A token is an identity or refused."""
        self.replay("tokens")

    def test_broker(self):
        """The broker's bytes are split alike in any cuts, its answers values or BrokerErrors."""
        self.replay("broker")

    def test_plain(self):
        """Plain HTTP causes no traceback and means the same in any cuts."""
        self.replay("plain")

    def test_every_target_is_replayed(self):
        """The corpus has no folder that nobody looks at."""
        folders = {each.name for each in targets.CORPUS.iterdir()}
        self.assertLessEqual(folders, set(targets.NAMES))
        for name in targets.NAMES:
            self.assertTrue(hasattr(self, f"test_{name}"), name)


class CrashesTests(SynchronousTestCase):
    def test_one_file_for_each_place(self):
        """The shortest input of each failure is kept; the run goes on."""

        def check(data):
            if data[:1] == b"a":
                raise ValueError(data)
            assert data[:1] != b"b"

        folder = Path(self.mktemp())
        folder.mkdir()
        crashes = Crashes(check, folder)
        for data in (b"aaa", b"ok", b"bb", b"a", b"aa"):
            crashes.attempt(data)
        kept = [each.read_bytes() for each in folder.iterdir() if not each.suffix]
        self.assertEqual((sorted(kept), crashes.runs), ([b"a", b"bb"], 5))


class SourceTests(SynchronousTestCase):
    def test_cuts(self):
        """However it is cut, nothing is lost."""
        for spacing in (b"", b"\x00", b"\x02\x10\xf0", b"\x04\xff\xff\x00\x80"):
            pieces = Source(spacing).cuts(b"0123456789")
            self.assertEqual(b"".join(pieces), b"0123456789")
        self.assertEqual(len(Source(b"\x02\x40\x80").cuts(b"0123456789")), 3)
