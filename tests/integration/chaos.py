"""Chaos: two Odins on JetStream, clients that stall and drop, and everything else that goes wrong.

    python -m tests.integration.chaos --seconds 45 --seed 7 [--cluster]

One Odin is a single process, the other one has a supervisor and hands its clients over, half of the
time in the middle of something else. The broker is one nats-server, or a cluster of three. At the
end each client's stream must be right (see `chaos_client`); where no fault destroyed what the
broker had acknowledged, there may be no gap at all, and every message that was acknowledged must
have reached somebody. The summary says how often each thing was done.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import nats
from nats.errors import Error as NatsError

from tests.integration.brokers import Cluster, jetstream
from tests.integration.chaos_client import CHANNELS, Client, Truth
from tests.integration.harness import Nats, Odin, eventually, free_port

_SETTLE_S = 60
_RATE = 60
_PAD = "x" * 3000
_DISK = "size=96m"
# Each of them may take away what was acknowledged: a gap is right if it is told.
_DESTROY = ("roll the broker back", "purge the stream", "fill the broker's disk")

Event = Callable[[float], Awaitable[None]]


class Broker:
    """One nats-server, whose store can be lost."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="odin-chaos-"))
        self.mounted = not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", _DISK, "tmpfs", self._folder],
            check=False, capture_output=True,
        ).returncode  # fmt: skip
        self._store = self._folder / "store"
        self._port = free_port()
        self._start()

    def _start(self) -> None:
        self._nats = Nats("-js", "-sd", str(self._store), port=self._port)

    @property
    def url(self) -> str:
        return self._nats.url

    def events(self) -> dict[str, Event]:
        found: dict[str, Event] = {
            "restart the broker": self._restart,
            "pause the broker": self._pause,
            "roll the broker back": self._roll_back,
        }
        if self.mounted:
            found["fill the broker's disk"] = self._fill
        return found

    def stop(self) -> None:
        self._nats.stop()
        if self.mounted:
            subprocess.run(["umount", "--lazy", self._folder], check=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _restart(self, seconds: float) -> None:
        self._nats.signal(signal.SIGTERM)
        await asyncio.to_thread(self._nats.wait)
        self._nats.stop()
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self._start)

    async def _pause(self, seconds: float) -> None:
        await _paused(self._nats.pid, 2 * seconds)

    async def _roll_back(self, seconds: float) -> None:
        """A power failure: the end of the store was never written to the disk."""
        self._nats.signal(signal.SIGTERM)
        await asyncio.to_thread(self._nats.wait)
        saved = self._folder / "saved"
        await asyncio.to_thread(shutil.copytree, self._store, saved)
        await asyncio.to_thread(self._start)
        await asyncio.sleep(1 + seconds)
        self._nats.stop()
        shutil.rmtree(self._store)
        saved.rename(self._store)
        await asyncio.to_thread(self._start)

    async def _fill(self, seconds: float) -> None:
        ballast = self._folder / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass
        await asyncio.sleep(1 + seconds)
        ballast.unlink()
        await self._restart(0.1)  # a server that has disabled JetStream does not enable it again


class ThreeBrokers:
    """A cluster that keeps the stream three times."""

    def __init__(self) -> None:
        self._cluster = Cluster()

    @property
    def url(self) -> str:
        return self._cluster.url

    def events(self) -> dict[str, Event]:
        return {"kill the leader": self._kill, "pause the leader": self._pause}

    def stop(self) -> None:
        self._cluster.stop()

    async def _kill(self, seconds: float) -> None:
        leader = await asyncio.to_thread(self._cluster.leader, "CHAOS")
        self._cluster.kill(leader)
        await asyncio.sleep(2 * seconds)
        await asyncio.to_thread(self._cluster.start, leader)

    async def _pause(self, seconds: float) -> None:
        leader = await asyncio.to_thread(self._cluster.leader, "CHAOS")
        await _paused(self._cluster.nodes[leader].pid, 2 * seconds)


class World:
    """The processes, and what is done to them."""

    def __init__(self, seed: int, clients: int, *, cluster: bool) -> None:
        self.random = random.Random(seed)
        self.truth = Truth()
        self.acknowledged: dict[int, str] = {}  # n -> channel
        self.done: Counter[str] = Counter()
        self.intact_from = 0  # the first n after the last fault that destroyed something
        self.conflated = 0.0
        self.sources: Counter[str] = Counter()
        self._number = 0
        self._quiet = asyncio.Event()
        self._broker: Broker | ThreeBrokers = ThreeBrokers() if cluster else Broker()
        config = {"name": "CHAOS", "subjects": ["odin.>"], "num_replicas": 3 if cluster else 1}
        jetstream(self._broker.url, "STREAM.CREATE.CHAOS", config)
        self._ports = [free_port(), free_port()]
        self.odins = [self._odin(0), self._odin(1)]
        self.clients = [
            Client(self.truth, self._ports, n, self.random.random()) for n in range(clients)
        ]

    def _odin(self, which: int) -> Odin:
        workers = ("--workers", "1") if which else ()
        return Odin(
            "--port", str(self._ports[which]), "--nats-url", self._broker.url, *workers,
            NATS_JETSTREAM_STREAM="CHAOS", DELIVERY_MAX_PENDING="300000",
            NATS_JETSTREAM_PRELOAD="50", DELIVERY_HISTORY_MESSAGES="150",
            NATS_RECONNECT_WAIT="100", NATS_RECONNECT_JITTER="50", SERVER_WRITE_TIMEOUT="4",
            LIMITS_MESSAGES_PER_SECOND="0",
        )  # fmt: skip

    def ready(self) -> None:
        """Wait until both serve."""
        for each in self.odins:
            assert each.port
            eventually(lambda odin=each: odin.get("/readyz").status == 200, "an Odin")

    async def publish(self) -> None:
        """Publish until told to end; a message counts once the stream says that it has it."""
        client = await nats.connect(
            self._broker.url.split(","), max_reconnect_attempts=-1, reconnect_time_wait=0.1,
            error_cb=_ignore,
        )  # fmt: skip
        stream = client.jetstream(timeout=1)
        ending = list(CHANNELS)  # at the end one more on each
        while not self._quiet.is_set() or ending:
            channel = ending.pop() if self._quiet.is_set() else self.random.choice(CHANNELS)
            self._number = number = self._number + 1
            body = json.dumps({"n": number, "pad": _PAD}).encode()
            while True:
                try:
                    headers = {"Nats-Msg-Id": str(number)}
                    await stream.publish(channel, body, headers=headers)
                    break
                except (NatsError, nats.js.errors.Error, OSError, TimeoutError):
                    await asyncio.sleep(0.1)
            self.acknowledged[number] = channel
            self.truth.last[channel] = number
            await asyncio.sleep(1 / _RATE)
        await client.close()
        self.truth.ended.set()

    async def disturb(self, seconds: float) -> None:
        """Let things happen until the time is over, and each at least once."""
        events = self._events()
        stop_at = time.monotonic() + seconds
        deck: list[str] = []
        while time.monotonic() < stop_at or deck:
            if not deck:
                deck = self.random.sample(sorted(events), len(events))
            await asyncio.sleep(self.random.uniform(0.5, 2))
            what, pause_s = deck.pop(), self.random.uniform(0.2, 2.5)
            self.done[what] += 1
            if self.random.random() < 0.5 and what != "hand over":
                self.done[f"{what}, in a hand-over"] += 1
                await self._hand_over(self.random.uniform(0, 0.6))
            print(f"{what} ..", flush=True)
            await events[what](pause_s)
            if what in _DESTROY:
                self.intact_from = self._number + 1
        self._quiet.set()

    def _events(self) -> dict[str, Event]:
        return {
            **self._broker.events(),
            "delete the consumers": self._delete_consumers,
            "purge the stream": self._purge,
            "hand over": self._hand_over,
            "kill an Odin": self._kill,
            "pause the single Odin": lambda seconds: _paused(self.odins[0].pid, 3 * seconds),
            "pause the supervisor": lambda seconds: _paused(self.odins[1].pid, 3 * seconds),
            "pause a worker": lambda seconds: _paused(_child(self.odins[1].pid), 3 * seconds),
        }

    async def _delete_consumers(self, _seconds: float) -> None:
        url = self._broker.url
        found = await asyncio.to_thread(jetstream, url, "CONSUMER.NAMES.CHAOS")
        for name in found["consumers"] or ():
            with contextlib.suppress(AssertionError):  # gone already
                await asyncio.to_thread(jetstream, url, f"CONSUMER.DELETE.CHAOS.{name}")

    async def _purge(self, _seconds: float) -> None:
        await asyncio.to_thread(jetstream, self._broker.url, "STREAM.PURGE.CHAOS")

    async def _hand_over(self, seconds: float) -> None:
        self.odins[1].signal(signal.SIGHUP)
        await asyncio.sleep(seconds)

    async def _kill(self, seconds: float) -> None:
        which = self.random.randrange(2)
        await asyncio.to_thread(self.note, self.odins[which])
        self.odins[which].stop()
        await asyncio.sleep(seconds / 2)
        self.odins[which] = self._odin(which)
        if which:  # a supervisor takes SIGHUP once its workers have begun
            await asyncio.to_thread(lambda: self.odins[which].port)

    def note(self, odin: Odin) -> None:
        """Keep what a process counted and logged, before it ends."""
        output = odin.output()
        self.done["hand-overs done"] += output.count("handed over ")
        self.done["hand-overs refused"] += output.count("no hand-over: ")
        if "Traceback" in output:
            self.truth.faults.append("an exception in a log of Odin")
        with contextlib.suppress(OSError):
            for name, value in odin.metrics().items():
                if name == "odin_conflated_messages_total":
                    self.conflated += value
                elif name.startswith("odin_recovery_total"):
                    self.sources[name.partition("{")[2].rstrip("}")] += int(value)

    def faults(self) -> list[str]:
        """What must not be, beside what is wrong with single streams."""
        truth = self.truth
        destroyed = sum(self.done[each] for each in _DESTROY)
        faults = list(truth.faults)
        if len(truth.seen) > 1 + 2 * destroyed:
            faults.append(f"{len(truth.seen)} epochs for {destroyed} faults that destroy")
        if not destroyed and truth.counts["gaps told live"] + truth.counts["refused"]:
            faults.append(f"gaps without a reason: {truth.counts}")
        faults += [
            f"{n} on {channel} was acknowledged, and nobody got it"
            for n, channel in self.acknowledged.items()
            if n >= self.intact_from and not channel.endswith(".price") and n not in truth.numbers
        ]
        return faults

    def stop(self) -> None:
        for each in self.odins:
            each.stop()
        self._broker.stop()


async def _paused(pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _child(pid: int) -> int:
    """A child of a process; itself if it has none now."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else pid


async def _ignore(_error: Exception) -> None:
    pass


async def chaos(
    seed: int, seconds: float, clients: int, *, cluster: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """(summary, faults) of one run."""
    world = await asyncio.to_thread(lambda: World(seed, clients, cluster=cluster))
    try:
        await asyncio.to_thread(world.ready)
        publisher = asyncio.create_task(world.publish())
        tasks = [asyncio.create_task(each.run()) for each in world.clients]
        await world.disturb(seconds)
        await publisher
        _done, late = await asyncio.wait(tasks, timeout=_SETTLE_S)
        for each in late:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for odin in world.odins:
            await asyncio.to_thread(world.note, odin)
        faults = world.faults() + [
            f"client {n} ({', '.join(each.patterns)}): {fault}"
            for n, each in enumerate(world.clients)
            for fault in each.faults()
        ]
        faults += [
            f"client {n} ({', '.join(each.patterns)}) never came to the end: {each.waits_for()}"
            for n, (each, task) in enumerate(zip(world.clients, tasks, strict=True))
            if task in late
        ]
        faults += [
            repr(task.exception()) for task in tasks if not task.cancelled() and task.exception()
        ]
        summary = {
            "seed": seed,
            "clients": clients,
            "messages": len(world.acknowledged),
            "delivered": sum(len(span.got) for each in world.clients for span in each.spans),
            "epochs": len(world.truth.seen),
            **world.done,
            **world.truth.counts,
            "conflated": int(world.conflated),
            "recoveries by source": dict(world.sources),
            "faults": len(faults),
        }
        return summary, faults
    finally:
        world.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=45)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--cluster", action="store_true", help="three brokers instead of one")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    summary, faults = asyncio.run(
        chaos(arguments.seed, arguments.seconds, arguments.clients, cluster=arguments.cluster)
    )
    print(json.dumps(summary, indent=2))
    if faults:
        sys.exit("\n".join(faults[:50]))


if __name__ == "__main__":
    main()
