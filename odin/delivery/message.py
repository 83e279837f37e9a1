"""One message of the feed on its way: encoded once, shared by all who get it."""

from collections.abc import Iterable
from typing import Final

import msgspec

_CHUNK_BYTES: Final = 64 << 10


class Message(msgspec.Struct, frozen=True, gc=False):
    """`conflate`: for a slow client only the newest of its channel matters.

    A notice to all clients is a message without a channel.
    """

    channel: str
    offset: int
    frame: bytes
    conflate: bool = False


def notice(frame: bytes) -> Message:
    """What is no message of the feed, but has its place in the order."""
    return Message("", 0, frame)


def joined(messages: list[Message]) -> bytes:
    """Their frames, for one send."""
    return b"".join([each.frame for each in messages])


def chunked(chunks: tuple[bytes, ...], frames: Iterable[bytes]) -> tuple[bytes, ...]:
    """`chunks` with `frames` behind: each at most _CHUNK_BYTES, or one frame."""
    done, part, size = list(chunks), [], 0
    if done and len(done[-1]) < _CHUNK_BYTES:
        part.append(done.pop())
        size = len(part[0])
    for frame in frames:
        if part and size + len(frame) > _CHUNK_BYTES:
            done.append(b"".join(part))
            part, size = [], 0
        part.append(frame)
        size += len(frame)
    if part:
        done.append(b"".join(part))
    return tuple(done)
