"""Odin's tests. They run on Odin's own reactor."""

import sys

from odin.process import reactors

if "twisted.internet.reactor" not in sys.modules:
    reactors.install()
