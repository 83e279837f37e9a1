"""Odin's tests. They run on Odin's own reactor, and none fails because the machine is busy."""

import sys

from hypothesis import HealthCheck, settings

from odin.process import reactors

if "twisted.internet.reactor" not in sys.modules:
    reactors.install()

settings.register_profile("odin", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("odin")
