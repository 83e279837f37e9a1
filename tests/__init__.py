"""Odin's tests. They run on Odin's own reactor, and none of them depends on how fast it is."""

import sys

from hypothesis import HealthCheck, settings

from odin.process import reactors

settings.register_profile(
    "odin", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("odin")
if "twisted.internet.reactor" not in sys.modules:
    reactors.install()
