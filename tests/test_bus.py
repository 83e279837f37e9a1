"""The bridge, the memory bus, and what can be said of NATS without a broker."""

import asyncio

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from odin.bus.bridge import Bridge
from odin.bus.interfaces import IBus, IReceiver, Stored
from odin.bus.memory import MemoryBus
from odin.bus.nats import NatsBus
from odin.bus.overlap import digest_of
from odin.config import Nats
from odin.delivery.history import Bounds, History
from odin.delivery.nonces import NonceWindow
from odin.errors import BadChannel, Duplicate, Forbidden, NotJSON, Unavailable
from odin.wire.frames import payload_of
from odin.wire.subjects import PatternSet


class NotingHub:
    def __init__(self):
        self.delivered, self.notices = [], []

    def deliver(self, message, arrived):
        self.delivered.append((message.channel, payload_of(message.frame), arrived))

    def notify(self, frame):
        self.notices.append(frame[2:])


class NotingMeter:
    def __init__(self):
        self.sizes = []

    def message(self, size):
        self.sizes.append(size)


class BridgeTests(SynchronousTestCase):
    def setUp(self):
        self.hub, self.bus, self.meter, self.now = NotingHub(), MemoryBus(), NotingMeter(), 50.0
        self.bridge = Bridge(
            self.bus,
            self.hub,
            NonceWindow(600, 100),
            History(Bounds(100, 10_000, 60, 100, 10_000)),
            conflate=("price.*",),
            publishable=(">",),
            control=lambda *_: None,
            clock=lambda: self.now,
            wall=lambda: self.now,
            meter=self.meter,
        )
        self.bus.startService()

    def test_interfaces(self):
        """Bus and bridge are what they say they are."""
        verifyObject(IBus, self.bus)
        verifyObject(IReceiver, self.bridge)
        verifyObject(IBus, NatsBus(Nats(), asyncio.new_event_loop(), "n"))

    def test_numbered(self):
        """Messages are numbered across channels, without gaps for those that are dropped."""
        for subject, payload in (
            ("a", b'{"x":1,"nonce":"n"}'), ("b", b"bad"), ("a", b'{"nonce":"n"}'), ("b", b"[1]"),
        ):  # fmt: skip
            self.bridge.received(subject, payload)
        self.assertEqual(
            self.hub.delivered,
            [
                ("a", b'{"channel":"a","offset":1,"x":1,"nonce":"n"}', 50.0),
                ("b", b'{"channel":"b","offset":2,"data":[1]}', 50.0),
            ],
        )
        counts = self.bridge.messages, self.bridge.duplicates, self.bridge.malformed
        self.assertEqual((counts, len(self.meter.sizes)), ((4, 1, 1), 2))

    def test_subject_that_is_not_utf8(self):
        """Such a message is malformed, live and stored, and its nonce stays unused."""
        for _ in range(3):
            self.bridge.received("a.\udcff", b'{"nonce":"n"}')
        self.bridge.received("a.b", b'{"nonce":"n"}')
        self.bridge.remember("a.\udcff", b"{}", 7, ring=False)
        self.assertEqual(self.bridge.encoded([Stored("a.\udcff", b"{}", 7)]), [])
        self.assertEqual(self.bridge.malformed, 3)
        self.assertEqual([channel for channel, *_ in self.hub.delivered], ["a.b"])
        self.assertNotEqual(digest_of("a.\udcff", b"p"), digest_of("a.\udcfe", b"p"))

    def test_publish(self):
        """What is published comes back; what cannot be is refused with its reason."""
        self.successResultOf(self.bridge.publish("a.b", b'{"nonce":1}'))
        self.assertEqual(self.hub.delivered[0][0], "a.b")
        self.assertRaises(Duplicate, self.bridge.publish, "a.b", b'{"nonce":1}')
        self.assertEqual(self.bridge.duplicates, 1)
        for subject, payload, kind in (
            ("a.*", b"{}", BadChannel), ("", b"{}", BadChannel), ("a\r\nb", b"{}", BadChannel),
            ("a", b"nonsense", NotJSON), ("a", b"", NotJSON),
        ):  # fmt: skip
            self.assertRaises(kind, self.bridge.publish, subject, payload)
        self.bus.stopService()
        self.failureResultOf(self.bridge.publish("a", b"{}"), Unavailable)

    def test_nonces_of_other_channels(self):
        """A nonce counts with its channel: live, of the store, and where clients publish."""
        for subject in ("a", "b", "a"):
            self.bridge.received(subject, b'{"nonce":"n"}')
        self.assertEqual([channel for channel, *_ in self.hub.delivered], ["a", "b"])
        stored = [Stored(each, b'{"nonce":"n"}', n) for n, each in enumerate("abab")]
        self.assertEqual([each.offset for each in self.bridge.encoded(stored)], [0, 1])
        self.assertRaises(Duplicate, self.bridge.publish, "a", b'{"nonce":"n"}')
        self.successResultOf(self.bridge.publish("c", b'{"nonce":"n"}'))

    def test_members_of_the_server(self):
        """Channel and offset are ours, live and of the store."""
        payload = b'{"channel":"b","off\\u0073et":9,"x":1}'
        self.bridge.received("a", payload)
        (stored,) = self.bridge.encoded([Stored("a", payload, 1)])
        for message in (self.hub.delivered[0][1], payload_of(stored.frame)):
            self.assertEqual(message, b'{"channel":"a","offset":1,"x":1}')

    def test_publish_to_the_feed_only(self):
        """What clients may publish to are the subjects of the feed, and never the broker's own."""
        for publishable in (("odin.token.*.price", "odin.trades.>"), (">",)):
            self.bridge._publishable = PatternSet(publishable)
            self.successResultOf(self.bridge.publish("odin.trades.a.b", b"{}"))
            for subject in (
                "$JS.API.STREAM.DELETE.FEED", "$SYS.REQ.SERVER.PING", "$x", "_INBOX.a.b", "_INBOXES",
                "odin.control.disconnect", "odin.control.fence",
            ):  # fmt: skip
                self.assertRaises(Forbidden, self.bridge.publish, subject, b"{}")
            elsewhere = "odin.token.a.volume", b"{}"
            if publishable != (">",):
                self.assertRaises(Forbidden, self.bridge.publish, *elsewhere)
        self.successResultOf(self.bridge.publish(*elsewhere))

    def test_status(self):
        """Each change is told once; live at the start, too."""
        for connected in (True, False, False, True):
            self.bridge.status_changed(connected)
        words = [b"live" in each for each in self.hub.notices]
        self.assertEqual(words, [True, False, True])


class NatsTests(SynchronousTestCase):
    def bus(self, *subjects, **settings):
        bus = NatsBus(Nats(subjects=subjects or ("a",), **settings), asyncio.new_event_loop(), "n")
        got = []

        class Receiver:
            def received(self, subject, payload):
                got.append(subject)

        bus.attach(Receiver())
        return bus, got

    def test_overlapping_patterns_deliver_once(self):
        """A message that the broker sends for two patterns is taken for the first."""
        bus, got = self.bus("a.*", "*.b", "c", "a.b")
        self.assertEqual(bus._subjects, ["a.*", "*.b", "c"])
        takers = [bus._taker(n, subject) for n, subject in enumerate(bus._subjects)]
        takers[0]("a.b", b"", b"", b"")
        takers[1]("a.b", b"", b"", b"")
        takers[1]("x.b", b"", b"", b"")
        self.assertEqual(got, ["a.b", "x.b"])
