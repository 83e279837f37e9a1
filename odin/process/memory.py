"""What the process occupies, from the kernel."""

import resource
import sys
from typing import Final, NamedTuple

_PAGE: Final = resource.getpagesize()


class Memory(NamedTuple):
    """Bytes. `resident`: RAM in use; `anonymous`: of that, not shared with files; `virtual`: all
    address space."""

    resident: int
    anonymous: int
    virtual: int


def usage() -> Memory:
    """The figures of this process now (proc(5), statm); elsewhere than on Linux its peak."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            virtual, resident, shared = (int(each) * _PAGE for each in statm.read().split()[:3])
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak *= 1 if sys.platform == "darwin" else 1024
        return Memory(peak, peak, peak)
    return Memory(resident, resident - shared, virtual)
