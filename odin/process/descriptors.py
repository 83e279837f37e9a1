"""The descriptor limit: how many connections this process can hold."""

import resource
from typing import Final

_RESERVE: Final = 64  # for listeners, the broker, files, the HTTP side


def room_for(wanted: int) -> int:
    """How many connections there may be, at most `wanted` (0 = as many as can be).

    Raises the soft limit to the hard one first. Above the answer a client gets 503 before the
    process runs out.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):
            pass
    room = max(1, soft - _RESERVE)
    return min(wanted, room) if wanted else room
