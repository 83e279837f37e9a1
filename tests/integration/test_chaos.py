"""The promise under chaos, for half a minute; `make soak MINUTES=n` goes on for longer."""

import asyncio
import json
import os
import random

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.chaos import chaos
from tests.integration.harness import program


class ChaosTests(SynchronousTestCase):
    timeout = 120

    def test_nothing_lost(self) -> None:
        """Brokers and servers die, clients stall and drop: every stream is the publisher's."""
        program("nats-server")
        seed = int(os.environ.get("CHAOS_SEED") or random.randrange(10**6))
        summary, faults = asyncio.run(chaos(seed, seconds=25, clients=200, messages=301))
        print(json.dumps(summary), flush=True)
        self.assertEqual(faults, [], f"CHAOS_SEED={seed}")
        self.assertGreater(summary["messages"], 300)
        self.assertGreater(summary["recoveries"], 100)
        self.assertGreater(summary["conflated"], 0)
