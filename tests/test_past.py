"""What is fetched from a stream for one client is bounded; so is the way to ask for it."""

import asyncio
from types import SimpleNamespace
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from odin.bus import past
from odin.bus.consumer import Created, Place

STATE = SimpleNamespace(num_deleted=0, first_seq=1)


class FakeStream:
    """One that holds everything."""

    client, name = None, "FEED"

    async def info(self):
        return SimpleNamespace(state=STATE)

    async def whole_above(self, _state, _until):
        return 0


class FakeConsumer:
    """Hands `messages` on, and notes what it was asked for."""

    messages = ()

    def __init__(self, _client, _name, take):
        self._take = take

    async def start(self, **asked):
        type(self).asked = asked
        type(self).taken = 0
        for number, (subject, payload) in enumerate(self.messages, 1):
            place = Place(number, number, 0, len(self.messages) - number)
            self._take(subject, payload, place)
            type(self).taken += 1
        return Created(0, bool(self.messages))

    def stop(self):
        pass


class FetchTests(SynchronousTestCase):
    def fetch(self, messages, patterns, most=1000, until=10**9):
        numbering = SimpleNamespace(shift=0, holds=lambda _info: True)
        FakeConsumer.messages = messages
        self.patch(past, "Consumer", FakeConsumer)
        work = past.fetch(
            FakeStream(), numbering, lambda _subject: True, frozenset(patterns), 0, until, most
        )
        found = asyncio.run(work)
        return None if found is None else [each.offset for each in found]

    def test_found(self):
        """What is on the patterns, up to an offset; None for more than is wanted."""
        messages = [(f"c{n % 2}", b"{}") for n in range(100)]
        self.assertEqual(self.fetch(messages, ["c1"]), list(range(2, 101, 2)))
        self.assertEqual(self.fetch(messages, ["c1"], until=10), [2, 4, 6, 8, 10])
        self.assertEqual(self.fetch(messages, ["c1"], most=50), list(range(2, 101, 2)))
        self.assertIsNone(self.fetch(messages, ["c1"], most=49))
        self.assertEqual(self.fetch([], ["c1"]), [])

    def test_bytes(self):
        """Few messages may be too much as well."""
        self.patch(past, "_MOST_BYTES", 10_000)
        for count, found in ((10, list(range(1, 11))), (11, None)):
            self.assertEqual(self.fetch([("a", b"x" * 1000)] * count, ["a"]), found)

    def test_looks(self):
        """Where the broker sends all, not all of it is looked through."""
        self.patch(past, "_MOST_LOOKS", 100)
        many = [f"a.*.x{n}" for n in range(300)]
        for count, found in ((100, []), (101, None)):
            self.assertEqual(self.fetch([("b", b"{}")] * count, many), found)


class FilterTests(SynchronousTestCase):
    def test_bounded(self):
        """Few patterns are asked of the broker; with many it sends all, and none is compared."""
        literals = [f"odin.c{n}" for n in range(1000)]
        stars = [f"odin.*.x{n}" for n in range(1000)]
        for names in (literals, stars):
            with mock.patch.object(past, "overlaps", wraps=past.overlaps) as overlaps:
                self.assertEqual(
                    sorted(past.client_filter(frozenset(names[:30]))["filter_subjects"]),
                    sorted(names[:30]),
                )
                self.assertEqual(past.client_filter(frozenset(names[:200])), {})
                self.assertEqual(past.client_filter(frozenset(names)), {})
                self.assertLess(overlaps.call_count, 500)
        with mock.patch.object(past, "reduced") as reduced:
            past.client_filter(frozenset(stars))
            reduced.assert_not_called()

    def test_reduced(self):
        """Patterns that others cover are not asked for; with an overlap the broker sends all."""
        self.assertEqual(
            past.client_filter(frozenset(("a.>", *(f"a.b{n}" for n in range(200))))),
            {"filter_subjects": ["a.>"]},
        )
        self.assertEqual(past.client_filter(frozenset(("a.*", "*.b"))), {})
        self.assertEqual(past.client_filter(frozenset((">", "a"))), {})
