"""The descriptor limit: how many connections this process can hold."""

import resource
from typing import Final

RESERVE: Final = 64  # for listeners, the broker, files, the HTTP side


def limit() -> int:
    """How many descriptors this process may have; raises the soft limit to the hard one first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):
            pass
    return soft


def room_for(wanted: int) -> int:
    """How many connections there may be, at most `wanted` (0 = as many as can be).

    Above the answer a client gets 503 before the process runs out.
    """
    room = max(1, limit() - RESERVE)
    return min(wanted, room) if wanted else room
