"""One message of the feed on its way: encoded once, shared by all who get it."""

import msgspec


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
