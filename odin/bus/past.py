"""What a stream holds of the time before: what one client missed, and the last of each subject."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from nats.js.api import DeliverPolicy
from twisted.logger import Logger

from odin.bus.consumer import REQUEST_TIMEOUT_S, Consumer, Place
from odin.bus.interfaces import Stored
from odin.bus.stream import Numbering, Stream
from odin.wire.matcher import Matcher
from odin.wire.subjects import overlaps, reduced

_MAX_FILTERS: Final = 64  # more are not asked of the broker: it sends all, and we choose
_MAX_OF_A_CLIENT: Final = 32  # they are compared with one another each time: 1 ms
_MAX_REDUCED: Final = 256  # patterns of a client: 1 ms as well
_MOST_LOOKS: Final = 65_536  # at messages, where the broker sends all
_MOST_BYTES: Final = 32 << 20  # of what one client missed
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
    behind `after` had been deleted when the last one was read. None also for more than _MOST_BYTES,
    and if more than _MOST_LOOKS would have to be looked at.
    """
    shift, wanted = numbering.shift, Matcher(patterns)
    before = await stream.info()
    if not numbering.holds(before):
        return None
    if await stream.whole_above(before.state, until - shift) > after - shift:
        return None
    found: list[Stored] = []
    looks = size = 0
    done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()  # whether that is all

    def take(subject: str, payload: bytes, place: Place) -> None:
        nonlocal looks, size
        if done.done():
            return
        looks += 1
        offset = place.sequence + shift
        if offset <= until and wanted.matches(subject) and is_feed(subject):
            found.append(Stored(subject, payload, offset))
            size += len(payload)
        if len(found) > most or size > _MOST_BYTES or looks > _MOST_LOOKS:
            done.set_result(False)
        elif offset >= until or not place.pending:
            done.set_result(True)

    consumer = Consumer(stream.client, stream.name, take)
    try:
        created = await consumer.start(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=after - shift + 1,
            **client_filter(patterns),
        )
        if created.messages and not await asyncio.wait_for(done, REQUEST_TIMEOUT_S):
            return None
    finally:
        consumer.stop()
    now = await stream.info()
    whole = (
        numbering.holds(now)
        and now.state.num_deleted == before.state.num_deleted
        and now.state.first_seq <= after - shift + 1
    )
    return found if whole else None


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


def client_filter(patterns: frozenset[str]) -> dict[str, Any]:
    """`filter_of` what a client has, which may be anything: in bounded time."""
    if len(patterns) > _MAX_REDUCED:
        return {}
    subjects = reduced(patterns)
    return filter_of(subjects) if len(subjects) <= _MAX_OF_A_CLIENT else {}


def filter_of(subjects: list[str]) -> dict[str, Any]:
    """What a consumer is asked to deliver; all, where the broker would refuse the overlap."""
    if (
        ">" in subjects
        or len(subjects) > _MAX_FILTERS
        or any(overlaps(one, two) for at, one in enumerate(subjects) for two in subjects[:at])
    ):
        return {}
    return {"filter_subjects": subjects}
