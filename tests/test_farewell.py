"""What comes after our close frame: the client's close frame is found, and nothing is kept."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from odin.gateway.farewell import MOST_BYTES, MOST_FRAMES, Farewell
from odin.wire.codes import NO_STATUS
from tests.connections import frame

CLOSE = frame(b"\x03\xe9bye", 8)  # 1001
_HEADER = 14  # bytes, the longest there is
_CONTROL = 125


def announcing(length, first=0x82):
    """The header of a frame, and its mask."""
    return bytes((first, 0xFF)) + length.to_bytes(8) + b"mask"


class FarewellTests(SynchronousTestCase):
    LAST = (
        frame("x"),
        frame(""),
        frame(b"p" * 125, 9),
        frame("y" * 126, fin=False),
        frame("z" * 70_000, 0),
        frame(b"q" * 130, 9),  # too long for a control frame
        frame("rsv", rsv=7),
        frame("x", 3),
        b"\x81\x05hello",
        b"\x81\xfe\x00\x05" + b"\0\0\0\0hello",
    )

    @settings(max_examples=200, deadline=None)
    @given(
        st.integers(0, 300),
        st.lists(st.sampled_from(LAST), max_size=6),
        st.lists(st.integers(1, 200), max_size=30),
    )
    def test_cut_anywhere(self, skip, last, cuts):
        """The close frame is found behind whatever comes before it, and once it is whole."""
        stream = CLOSE * (skip // len(CLOSE)) + bytes(skip % len(CLOSE)) + b"".join(last) + CLOSE
        farewell, at = Farewell(skip), 0
        for size in [*cuts, len(stream)]:
            code = farewell.find(stream[at : at + size])
            at += size
            self.assertEqual(code, 1001 if at >= len(stream) else None)
            self.assertLessEqual(len(farewell._kept), _HEADER + _CONTROL)
            if code is not None:
                return
            self.assertFalse(farewell.hopeless)

    def test_codes(self):
        """What the close frame says, right or wrong: it is one."""
        for code, data in (
            (1000, frame(b"\x03\xe8", 8)),
            (4000, frame(b"\x0f\xa0why", 8)),
            (NO_STATUS, frame(b"", 8)),
            (NO_STATUS, frame(b"x", 8)),
            (1000, b"\x88\x02\x03\xe8"),
            (1000, frame(b"\x03\xe8", 8, fin=False)),
            (1000, frame(b"\x03\xe8" + b"r" * 123, 8, rsv=4)),
        ):
            self.assertEqual(Farewell(0).find(data), code, data)

    def test_a_close_frame_that_is_too_long(self):
        """It is one all the same, once it is over."""
        data = frame(b"\x03\xe8" * 100, 8)
        for at in range(1, len(data)):
            farewell = Farewell(0)
            self.assertIsNone(farewell.find(data[:at]))
            self.assertEqual(farewell.find(data[at:] + frame("x")), NO_STATUS)

    def test_too_much_is_announced(self):
        """A payload that will not end in time is not waited for."""
        for first in (0x82, 0x89, 0x88):
            farewell = Farewell(0)
            self.assertIsNone(farewell.find(announcing(1 << 40, first)))
            self.assertTrue(farewell.hopeless)
        self.assertTrue(Farewell(1 << 40).hopeless)
        farewell = Farewell(0)
        farewell.find(announcing(MOST_BYTES - 100))
        self.assertFalse(farewell.hopeless)

    def test_too_many_bytes(self):
        """However they are framed."""
        farewell, piece = Farewell(0), frame(b"x" * 65_000, 2)
        for _ in range(MOST_BYTES // len(piece)):
            farewell.find(piece)
            self.assertFalse(farewell.hopeless)
        farewell.find(piece)
        self.assertTrue(farewell.hopeless)
        self.assertIsNone(farewell.find(CLOSE))

    def test_too_many_frames(self):
        """Nobody has thousands of small frames under way; the rest is not looked at."""
        for pieces in (
            [frame(b"", 9) * 2 * MOST_FRAMES + CLOSE],
            [frame(b"", 9)] * MOST_FRAMES * 2,
        ):
            farewell = Farewell(0)
            self.assertEqual({farewell.find(each) for each in pieces}, {None})
            self.assertTrue(farewell.hopeless)
            self.assertIsNone(farewell.find(CLOSE))
        farewell = Farewell(0)
        self.assertEqual(farewell.find(frame(b"", 9) * MOST_FRAMES + CLOSE), 1001)
