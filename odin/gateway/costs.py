"""What requests cost: in the rate limit, and in memory for as long as they are kept.

One in the rate limit stands for 10 us of work as a rule, and for 0.2 ms at most; in a search, which
is done in steps between which others are served, for 2 ms at most.
"""

from collections.abc import Collection
from typing import Final

from odin.wire.messages import (
    AnyRequest,
    Auth,
    Subscribe,
    Subscriptions,
    Unsubscribe,
)
from odin.wire.subjects import is_wild

_NAMES: Final = 64  # that count as much as a message
_TOKEN_BYTES: Final = 1024  # of a token, likewise
_SEARCH: Final = 9  # for looking through all channels, or all messages, that there were
TEXT_BYTES: Final = 16 << 10  # of one message, that count as one more
_NAME_BYTES: Final = 80  # of a name, beside its characters


def cost(request: AnyRequest, subscriptions: Collection[str]) -> int:
    """For how many messages a request counts; `subscriptions`: those of its client."""
    if isinstance(request, Subscribe):
        wanted = request.data
        searches = wanted.recover is not None or (
            wanted.snapshot and any(map(is_wild, wanted.channels))
        )
        return 1 + len(wanted.channels) // _NAMES + _SEARCH * searches
    if isinstance(request, Unsubscribe):
        return 1 + len(request.data.channels) // _NAMES
    if isinstance(request, Auth):
        return 1 + len(subscriptions) // _NAMES + len(request.token) // _TOKEN_BYTES
    if isinstance(request, Subscriptions):
        return 1 + len(subscriptions) // _NAMES
    return 1


def size(request: AnyRequest) -> int:
    """About how many bytes a request takes that waits."""
    if isinstance(request, Subscribe | Unsubscribe):
        names = request.data.channels
        return size_of_names(len(names), sum(map(len, names)))
    return len(request.token) if isinstance(request, Auth) else _NAME_BYTES


def size_of_names(count: int, text_size: int) -> int:
    """About how many bytes names of so many characters take, as subscriptions above all."""
    return text_size + _NAME_BYTES * count
