"""Inputs that fail, one file for each place in the code that they fail at."""

import hashlib
import traceback


class Crashes:
    """Runs a target and keeps what fails; goes on, so that one defect does not hide the next."""

    def __init__(self, check, folder):
        self.runs = 0
        self._check = check
        self._folder = folder
        self._sizes = {}  # place -> length of the shortest input that fails there

    def attempt(self, data):
        self.runs += 1
        try:
            self._check(data)
        except Exception as error:
            self._keep(data, error)

    def _keep(self, data, error):
        place = _place_of(error)
        if len(data) >= self._sizes.get(place, 1 << 30):
            return
        self._sizes[place] = len(data)
        name = f"crash-{hashlib.sha256(place.encode()).hexdigest()[:12]}"
        (self._folder / name).write_bytes(data)
        trace = "".join(traceback.format_exception(error))
        (self._folder / f"{name}.txt").write_text(f"{data!r}\n\n{trace}", errors="replace")


def _place_of(error):
    """What two failures with the same cause have in common."""
    frames = traceback.extract_tb(error.__traceback__)
    if error.__cause__ is not None:  # a failure that was logged: where that came from
        frames = traceback.extract_tb(error.__cause__.__traceback__) or frames
    return f"{type(error).__name__} {frames[-1].filename}:{frames[-1].lineno}"
