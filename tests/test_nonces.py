"""The window that drops duplicates."""

from twisted.trial.unittest import SynchronousTestCase

from odin.delivery.nonces import NonceWindow


class NonceTests(SynchronousTestCase):
    def test_window(self):
        """A nonce counts once within the window, and again after twice its length."""
        window = NonceWindow(600, 1000)
        self.assertTrue(window.add("c", "a", 1000.0))
        self.assertFalse(window.add("c", "a", 1599.0))
        self.assertFalse(window.add("c", "a", 1601.0))
        self.assertFalse(window.seen("c", "a", 9000.0))
        self.assertTrue(window.add("c", "a", 9000.0))

    def test_channels(self):
        """A nonce of one channel is none of another."""
        window = NonceWindow(600, 1000)
        self.assertTrue(window.add("c", "a", 0.0))
        self.assertFalse(window.seen("d", "a", 0.0))
        self.assertTrue(window.add("d", "a", 0.0))
        self.assertFalse(window.add("c", "a", 0.0))

    def test_bounded(self):
        """Of very many nonces the newest are kept; one channel may have all the room."""
        window = NonceWindow(600, 1000)
        for n in range(100_000):
            window.add("c", n, 1000.0)
        self.assertLessEqual(len(window), 1000)
        self.assertTrue(all(window.seen("c", n, 1000.0) for n in range(99_600, 100_000)))
        self.assertFalse(window.seen("c", 5, 1000.0))

    def test_one_channel_cannot_push_out_others(self):
        """Whatever one channel brings, the nonces of the others stay."""
        window = NonceWindow(600, 1000)
        for n in range(300):
            window.add(f"c{n % 10}", n, 0.0)
        for n in range(100_000):
            window.add("flood", n, 1.0)
        self.assertTrue(all(window.seen(f"c{n % 10}", n, 2.0) for n in range(300)))

    def test_bounded_in_all(self):
        """However nonces spread over channels, no more than the limit are kept: the newest."""
        for channels in (3, 7, 20, 90, 5000):
            window, most = NonceWindow(600, 1000), 0
            for n in range(20_000):
                window.add(f"c{n * n % channels}", n, n / 100)
                most = max(most, len(window) if n % 50 == 0 else 0)
            self.assertLessEqual(most, 1000)
            self.assertTrue(window.seen(f"c{19_999 * 19_999 % channels}", 19_999, 200.0))

    def test_bounded_memory_of_channels(self):
        """A channel with one nonce counts as several: its set takes the memory of some nonces."""
        window = NonceWindow(600, 1000)
        for n in range(20_000):
            window.add(f"c{n}", 1, 0.0)
        self.assertLessEqual(len(window), 250)

    def test_handed_over(self):
        """Another window goes on with what this one has seen, and with its bounds."""
        old, new = NonceWindow(600, 1000), NonceWindow(600, 1000)
        for n in range(2000):
            old.add(f"c{n % 7}", n, 500.0 + n / 10)
        new.refill(*old.contents())
        self.assertEqual((len(new), new.contents()), (len(old), old.contents()))
        for n in range(2000, 4000):
            self.assertEqual(
                old.add(f"c{n % 7}", n, 700.0 + n / 10), new.add(f"c{n % 7}", n, 700.0 + n / 10)
            )
            self.assertEqual(len(new), len(old))

    def test_long_nonces(self):
        """A long nonce is known by its digest; 1 and "1" are two."""
        window = NonceWindow(600, 1000)
        self.assertTrue(window.add("c", "x" * 100_000, 0.0))
        self.assertTrue(window.seen("c", "x" * 100_000, 0.0))
        self.assertFalse(window.seen("c", "x" * 99_999, 0.0))
        self.assertTrue(window.add("c", 1, 0.0))
        self.assertTrue(window.add("c", "1", 0.0))
