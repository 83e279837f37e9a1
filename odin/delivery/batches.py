"""Batches: what waits for a group, cut and merged to what is worth sending."""

from bisect import bisect_right
from itertools import accumulate
from typing import Final

from odin.delivery.message import Message, joined, notice
from odin.wire.frames import text_frame
from odin.wire.messages import Conflated, encode

# In one send, which costs as much as 40 KiB do; one message may be longer.
BATCH_BYTES: Final = 32 << 10
_BATCH_MESSAGES: Final = 512
_FEW: Final = 128  # messages are joined first, and counted afterwards


class Batches:
    """Cuts batches for all groups of a hub.

    Groups with the same messages waiting get the same batch: it is joined once, and kept once
    while clients that are behind hold parts of it.
    """

    __slots__ = ("_data", "_last", "_whole", "merged", "waiting")

    def __init__(self) -> None:
        self.waiting = 0  # messages that are in no batch yet, counted in each group
        self.merged = 0  # messages replaced by newer ones, once for each client they were for
        self._last: list[Message] = []
        self._data = b""
        self._whole = False  # whether `_last` is all that its group had

    def cut(self, pending: list[Message], at: int) -> tuple[list[Message], bytes]:
        """The next batch of `pending[at:]`, which is not empty, and its frames joined.

        It may be `pending` itself, and nobody may change it.
        """
        waiting, last = len(pending) - at, self._last
        many = len(last)
        if last and last[0] is pending[at]:
            if waiting == many:
                if self._whole and (pending[at:] if at else pending) == last:
                    return last, self._data
            elif waiting > many and not self._whole and pending[at : at + many] == last:
                return last, self._data
        batch = pending[at : at + _BATCH_MESSAGES] if at or waiting > _BATCH_MESSAGES else pending
        data = joined(batch) if waiting < _FEW else b""
        if not data or len(data) > BATCH_BYTES:
            ends = list(accumulate([len(each.frame) for each in batch]))
            batch = batch[: max(1, bisect_right(ends, BATCH_BYTES))]
            data = joined(batch)
        self._last, self._data, self._whole = batch, data, len(batch) == waiting
        return batch, data


def newest(messages: list[Message]) -> tuple[list[Message], int]:
    """Of each channel that may be conflated only the newest, and how many others there were.

    In the same order; what is left out is told by a notice at the front.
    """
    last = {each.channel: number for number, each in enumerate(messages) if each.conflate}
    kept: list[Message] = []
    gone: list[Message] = []
    for number, each in enumerate(messages):
        (gone if each.conflate and last[each.channel] != number else kept).append(each)
    if not gone:
        return messages, 0
    offsets = [each.offset for each in gone]
    told = Conflated(
        channels=len({each.channel for each in gone}),
        skipped=len(gone),
        from_=min(offsets),
        to=max(offsets),
    )
    return [notice(text_frame(encode(told))), *kept], len(gone)
