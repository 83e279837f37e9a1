"""Loaded by the server under attack (PYTHONPATH): how much CPU one turn of its event loop takes.

CPU and not time: what else the machine does is not the server's fault. A file in the folder
LOOP_TURNS holds three 64-bit numbers: turns, nanoseconds of the longest one, turns above 5 ms.
"""

import mmap
import os
import selectors
import time
from typing import Any

_LONG_NS = 5_000_000


def _watch(path: str) -> None:
    with open(path, "w+b") as file:
        file.write(bytes(24))
        file.flush()
        figures = memoryview(mmap.mmap(file.fileno(), 24)).cast("Q")
    select = selectors.EpollSelector.select
    cpu_ns = time.thread_time_ns
    began = cpu_ns()

    def watched(self: selectors.EpollSelector, timeout: float | None = None) -> Any:
        nonlocal began
        took = cpu_ns() - began
        figures[0] += 1
        figures[1] = max(figures[1], took)
        if took > _LONG_NS:
            figures[2] += 1
        try:
            return select(self, timeout)
        finally:
            began = cpu_ns()

    selectors.EpollSelector.select = watched  # type: ignore[method-assign]


if "LOOP_TURNS" in os.environ:
    _watch(f"{os.environ['LOOP_TURNS']}/odin-turns-{os.getpid()}")
