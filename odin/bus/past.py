"""What a stream holds of the time before: what one client missed, and the last of each subject."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from nats.js.api import DeliverPolicy
from twisted.logger import Logger

from odin.bus.consumer import REQUEST_TIMEOUT_S, Consumer, Place
from odin.bus.interfaces import Stored
from odin.bus.stream import Numbering, Stream
from odin.wire.subjects import PatternSet, overlaps, reduced

_MAX_FILTERS: Final = 64  # more are not asked of the broker: it sends all, and we choose
_log = Logger()


async def fetch(
    stream: Stream,
    numbering: Numbering,
    is_feed: Callable[[str], bool],
    patterns: frozenset[str],
    after: int,
    until: int,
    most: int,
) -> list[Stored] | None:
    """The messages of the feed on `patterns` with offsets above `after`, up to `until`.

    None unless it is certain that these are all: the stream is numbered as it was, and nothing
    behind `after` had been deleted when the last one was read.
    """
    shift, wanted = numbering.shift, PatternSet(patterns)
    before = await stream.info()
    if not numbering.holds(before):
        return None
    if await stream.whole_above(before.state, until - shift) > after - shift:
        return None
    found: list[Stored] = []
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(subject: str, payload: bytes, place: Place) -> None:
        offset = place.sequence + shift
        if offset <= until and wanted.matches(subject) and is_feed(subject):
            found.append(Stored(subject, payload, offset))
        over = len(found) > most or offset >= until or not place.pending
        if over and not done.done():
            done.set_result(None)

    consumer = Consumer(stream.client, stream.name, take)
    try:
        created = await consumer.start(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=after - shift + 1,
            **filter_of(reduced(patterns)),
        )
        if created.messages:
            await asyncio.wait_for(done, REQUEST_TIMEOUT_S)
    finally:
        consumer.stop()
    now = await stream.info()
    whole = (
        numbering.holds(now)
        and now.state.num_deleted == before.state.num_deleted
        and now.state.first_seq <= after - shift + 1
    )
    return found if whole and len(found) <= most else None


async def last_values(stream: Stream, subjects: list[str], until: int) -> list[Stored]:
    """The last message of each of `subjects`, where it is not above sequence `until`.

    Their offsets are sequences of the stream. Not all of them, if the broker is slow: they are
    for snapshots, which promise nothing of channels that are not known.
    """
    found: list[Stored] = []
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(subject: str, payload: bytes, place: Place) -> None:
        if place.sequence <= until:
            found.append(Stored(subject, payload, place.sequence))
        if (place.sequence >= until or not place.pending) and not done.done():
            done.set_result(None)

    consumer = Consumer(stream.client, stream.name, take)
    try:
        created = await consumer.start(
            deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
            **(filter_of(subjects) or {"filter_subject": ">"}),
        )
        if created.messages:
            await asyncio.wait_for(done, REQUEST_TIMEOUT_S)
    except TimeoutError:
        _log.warn("not all last values came in time")
    finally:
        consumer.stop()
    return found


def filter_of(subjects: list[str]) -> dict[str, Any]:
    """What a consumer is asked to deliver; all, where the broker would refuse the overlap."""
    if (
        ">" in subjects
        or len(subjects) > _MAX_FILTERS
        or any(overlaps(one, two) for at, one in enumerate(subjects) for two in subjects[:at])
    ):
        return {}
    return {"filter_subjects": subjects}
