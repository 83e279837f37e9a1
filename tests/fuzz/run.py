"""One target in one process, for some seconds; its figures go to a file.

By atheris (libFuzzer, guided by coverage), or where that cannot be installed by Hypothesis, which
joins words, changes known inputs and invents others.
"""

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz import targets
from tests.fuzz.crashes import Crashes

try:
    import atheris
except ImportError:
    atheris = None

MAX_BYTES = 2048
_TOLD_EVERY = 200  # runs
_BATCH = 200  # inputs of Hypothesis between two looks at the clock


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=targets.NAMES)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("fuzz-results"))
    arguments = parser.parse_args()
    folder = (arguments.out / arguments.target).resolve()
    inputs = folder / "corpus"
    inputs.mkdir(parents=True, exist_ok=True)
    instrumented = contextlib.nullcontext()
    if atheris is not None:
        instrumented = atheris.instrument_imports(include=["odin", "autobahn", "tests.fuzz"])
    with instrumented:
        target = targets.load(arguments.target)
    crashes = Crashes(target.check, folder)
    if atheris is None:
        _by_hypothesis(arguments, target, crashes, folder)
    else:
        _by_atheris(arguments, target, crashes, folder)


def _by_atheris(arguments, target, crashes, folder):
    """Does not return: libFuzzer ends the process."""
    words = folder / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.WORDS))
    seeds, known = folder / "seeds", targets.CORPUS / arguments.target
    seeds.mkdir(exist_ok=True)
    for n, data in enumerate(target.SEEDS):
        (seeds / str(n)).write_bytes(data)
    known.mkdir(parents=True, exist_ok=True)

    def attempt(data):
        crashes.attempt(data)
        if crashes.runs % _TOLD_EVERY == 0:
            _tell(folder, crashes, "atheris")

    options = [f"-max_len={MAX_BYTES}", "-timeout=20", "-rss_limit_mb=2048", f"-dict={words}"]
    options.append(f"-artifact_prefix={folder}/")
    options.append(f"-max_total_time={arguments.seconds}")
    folders = [folder / "corpus", known, seeds]
    atheris.Setup([sys.argv[0], *options, *map(str, folders)], attempt)
    atheris.Fuzz()


def _escaped(word):
    return "".join(f"\\x{byte:02x}" for byte in word)


def _by_hypothesis(arguments, target, crashes, folder):
    end = time.monotonic() + arguments.seconds
    while time.monotonic() < end:
        test = given(_inputs(target, [data for _, data in targets.known(arguments.target)]))
        steps = settings(max_examples=_BATCH, database=None, deadline=None, phases=[Phase.generate])
        steps(test(crashes.attempt))()
        _tell(folder, crashes, "Hypothesis")


def _inputs(target, known):
    """Words and other bytes in a row, and known inputs with pieces exchanged."""
    piece = st.one_of(st.binary(max_size=20), st.sampled_from(target.WORDS))
    place = st.integers(0, 255)

    def changed(data, edits):
        for start, size, new in edits:
            at = start * len(data) // 255
            data = data[:at] + new + data[at + size // 16 :]
        return data

    edits = st.lists(st.tuples(place, place, piece), min_size=1, max_size=6)
    return st.one_of(
        st.lists(piece, max_size=30).map(b"".join),
        st.builds(changed, st.sampled_from(known), edits),
    )


def _tell(folder, crashes, by):
    (folder / "figures.json").write_text(json.dumps({"runs": crashes.runs, "by": by}))


if __name__ == "__main__":
    main()
