"""All targets by name, and the inputs that are known for each."""

import importlib
from pathlib import Path

NAMES = ("heads", "frames", "requests", "subjects", "payloads", "tokens", "broker", "plain")
CORPUS = Path(__file__).parent / "corpus"


def load(name):
    """The module of a target; importing it imports the part of Odin that it is about."""
    return importlib.import_module(f"tests.fuzz.{name}")


def known(name):
    """(name, input): the seeds of a target, and its corpus."""
    seeds = [(f"seed {n}", data) for n, data in enumerate(load(name).SEEDS)]
    return seeds + [(path.name, path.read_bytes()) for path in sorted(CORPUS.glob(f"{name}/*"))]
