"""The promise under chaos, once round all that can go wrong; `make soak MINUTES=n` goes on."""

import asyncio
import json
import os
import random

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.chaos import chaos
from tests.integration.harness import program


class _ChaosTestCase(SynchronousTestCase):
    timeout = 280

    def check(self, *, cluster: bool) -> None:
        program("nats-server")
        seed = int(os.environ.get("CHAOS_SEED") or random.randrange(10**6))
        summary, faults = asyncio.run(chaos(seed, seconds=1, clients=40, cluster=cluster))
        print(json.dumps(summary), flush=True)
        self.assertEqual(faults, [], f"CHAOS_SEED={seed}: {json.dumps(summary)}")
        self.assertGreater(summary["messages"], 300)
        self.assertGreater(summary["recoveries"], 20)
        self.assertGreater(summary["hand-overs done"], 0)


class OneBrokerTests(_ChaosTestCase):
    def test_nothing_silently_missing(self) -> None:
        """Every stream is the publisher's, but for the gaps that were told."""
        self.check(cluster=False)


class ClusterTests(_ChaosTestCase):
    def test_nothing_silently_missing(self) -> None:
        """The same with three brokers, whose leader is killed and paused."""
        self.check(cluster=True)
