"""The server under attack as it is seen from outside, and its other client."""

import atexit
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.hostile.client import Hostile
from tests.integration.harness import Odin, eventually

_HERE = Path(__file__).parent
PROBE: Final = {"PYTHONPATH": str(_HERE / "probe"), "LOOP_TURNS": tempfile.gettempdir()}
_HEARTBEATS = 80  # that measure what one costs; fewer than limits.messageBurst
_QUIET = 0.25  # of a core, and less, is quiet
_LOOK_S = 0.1
_PATIENCE_S = 45.0  # for a server to be quiet again


class Victim:
    """A server process, watched from outside."""

    def __init__(self, odin: Odin) -> None:
        self.odin = odin
        turns = Path(PROBE["LOOP_TURNS"], f"odin-turns-{odin.pid}")
        self._turns = turns
        self._most_mb = 0.0
        self._clock = (~odin.pid << 3) | 2  # CLOCK_PROCESS_CPUTIME_ID of another process
        atexit.register(turns.unlink, missing_ok=True)
        self._heartbeat_s = self._measured()

    @property
    def cpu_s(self) -> float:
        """The CPU time of all its threads."""
        return time.clock_gettime(self._clock)

    @property
    def memory_mb(self) -> float:
        return self._status("VmRSS")

    @property
    def peak_mb(self) -> float:
        """The most memory since `forget`."""
        return self._status("VmHWM")

    def all_time_peak_mb(self) -> float:
        """The most memory since it began."""
        return max(self._most_mb, self.peak_mb)

    def forget(self) -> None:
        """Begin anew with what is the most."""
        self._most_mb = self.all_time_peak_mb()
        Path(f"/proc/{self.odin.pid}/clear_refs").write_text("5")
        with self._turns.open("r+b") as file:  # not cut off: the server has it mapped
            file.write(bytes(24))

    def longest_turn_s(self) -> float:
        """CPU time of the longest turn of its event loop since `forget`."""
        return int.from_bytes(self._turns.read_bytes()[8:16], sys.byteorder) / 1e9

    def quiet(self) -> None:
        """Wait until it has nothing to do. An attack that works can take a while."""
        stop_at = time.monotonic() + _PATIENCE_S
        while time.monotonic() < stop_at:
            busy_s, at = self._busy_s, time.monotonic()
            time.sleep(_LOOK_S)
            if (self._busy_s - busy_s) / (time.monotonic() - at) < _QUIET:
                return

    @property
    def _busy_s(self) -> float:
        """How long its loop has run, or has waited for a core."""
        ran, waited, _ = Path(f"/proc/{self.odin.pid}/schedstat").read_text().split()
        return (int(ran) + int(waited)) / 1e9

    def _status(self, name: str) -> float:
        lines = Path(f"/proc/{self.odin.pid}/status").read_text().splitlines()
        found = next((each for each in lines if each.startswith(name)), None)
        if found is None:
            raise AssertionError(f"the server ended with {self.odin.wait()}")
        return int(found.split()[1]) / 1024

    def heartbeat_s(self) -> float:
        """What one costs: here and now, or at the beginning if it was more. CPU time, too, is
        longer on a busy machine."""
        return max(self._heartbeat_s, self._measured())

    def _measured(self) -> float:
        """The CPU time of some heartbeats, each asked after the last answer; 0.0 when full."""
        client = Hostile(self.odin.host)
        try:
            client.open("?channels=none")
        except AssertionError:  # refused
            client.close()
            return 0.0
        self.quiet()
        cpu_s = self.cpu_s
        for _ in range(_HEARTBEATS):
            client.ask({"type": "heartbeat"})
        cost_s = (self.cpu_s - cpu_s) / _HEARTBEATS
        client.close()
        return cost_s


class Neighbour:
    """The other client: a process of its own, and what it has printed."""

    def __init__(self, port: int) -> None:
        self._file = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-IS", str(_HERE / "neighbour.py"), str(port)],
            stdin=subprocess.PIPE,
            stdout=self._file,
            stderr=subprocess.DEVNULL,
        )

    def trips(self) -> list[tuple[float, float]]:
        """(when, how long) of each heartbeat so far, in seconds."""
        size = os.fstat(self._file.fileno()).st_size
        lines = os.pread(self._file.fileno(), size, 0).decode().rpartition("\n")[0].splitlines()
        pairs = (each.split() for each in lines)
        return [(float(when), float(took)) for when, took in pairs]

    def answered_since(self, when: float) -> None:
        """Wait until a heartbeat that was sent after `when` has its answer."""
        eventually(
            lambda: not self.alive or any(sent >= when for sent, _took in self.trips()[-2:]),
            "an answer for the neighbour",
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._process.communicate(timeout=1)
        self._process.kill()
        self._process.wait()
        self._file.close()
