"""Hostile input by the million: `make fuzz`.

A target is a module with

    check(data)   takes any bytes; raises if Odin does what it must not
    WORDS         bytes that make the input likely to mean something
    SEEDS         inputs to begin with

`targets` lists them, `run` fuzzes one of them in this process, `__main__` all of them in several.
What coverage has found worth keeping, and every input that ever failed, is in corpus/<target>/;
tests/test_fuzz.py replays it.
"""
