"""Chaos: two Odins on one JetStream broker, clients that stall and drop, processes that die.

    python -m tests.integration.chaos --seconds 45 --seed 7

Every message that the broker took is known by its sequence. At the end each client's stream must
be that of the publisher: in order, nothing twice, and nothing missing but prices that were told to
be merged, each with a newer one behind it.
"""

import argparse
import asyncio
import contextlib
import json
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from typing import Any

import nats
from nats.errors import Error as NatsError
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from odin.wire.subjects import covers
from tests.integration.harness import Nats, Odin, free_port

_PATTERNS = ([">"], ["odin.token.*.price"], ["odin.trades.*"], ["odin.trades.B", "odin.token.>"])
_CHANNELS = ("odin.token.A.price", "odin.token.B.price", "odin.trades.A", "odin.trades.B")
_SETTLE_S = 25
_RATE = 60
_PAD = "x" * 3000


class World:
    """The processes, and what is known of the truth."""

    def __init__(self, seed: int, clients: int) -> None:
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.log: dict[int, str] = {}  # sequence -> channel
        self.quiet = asyncio.Event()  # nothing more is published
        self.ended = asyncio.Event()  # all that was published is in the log
        self._folder = tempfile.mkdtemp()
        self._nats_port = free_port()
        self.nats = self._broker()
        self.ports = [free_port(), free_port()]
        self.odins = [self._odin(port) for port in self.ports]
        self.clients = [Client(self, n) for n in range(clients)]
        self.conflated = 0.0
        self.recovered: Counter[str] = Counter()

    def _broker(self) -> Nats:
        return Nats("-js", "-sd", self._folder, port=self._nats_port)

    def _odin(self, port: int) -> Odin:
        return Odin(
            "--port", str(port), "--nats-url", self.nats.url,
            NATS_JETSTREAM_STREAM="CHAOS", NATS_JETSTREAM_CREATE="true",
            DELIVERY_MAX_PENDING="300000", NATS_JETSTREAM_PRELOAD="50", DELIVERY_HISTORY_MESSAGES="150",
            NATS_RECONNECT_WAIT="100", NATS_RECONNECT_JITTER="50", SERVER_WRITE_TIMEOUT="4",
            LIMITS_MESSAGES_PER_SECOND="0", DELIVERY_SEND_BUFFER="16384",
        )  # fmt: skip

    def note_metrics(self, odin: Odin) -> None:
        """Keep what a process counted, before it dies."""
        with contextlib.suppress(OSError):
            metrics = odin.metrics()
            self.conflated += metrics.get("odin_conflated_messages_total", 0)
            for name, value in metrics.items():
                if name.startswith("odin_recovery_total"):
                    self.recovered[name.partition("{")[2].rstrip("}")] += int(value)

    async def publish(self) -> None:
        """Publish until told to end; a message counts once the broker says that it has it."""
        number = 0
        client = await nats.connect(
            self.nats.url, max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=_ignore
        )
        stream = client.jetstream(timeout=1)
        while not self.quiet.is_set():
            number += 1
            channel = self.random.choice(_CHANNELS)
            body = json.dumps({"n": number, "pad": _PAD}).encode()
            while True:
                try:
                    headers = {"Nats-Msg-Id": str(number)}
                    ack = await stream.publish(channel, body, headers=headers)
                    break
                except (NatsError, OSError, TimeoutError):
                    await asyncio.sleep(0.1)
            self.log[ack.seq] = channel
            await asyncio.sleep(1 / _RATE)
        await client.close()

    async def disturb(self, seconds: float, messages: int) -> None:
        """Let things happen to the processes, for so long and for so many messages."""
        stop_at = time.monotonic() + seconds
        while time.monotonic() < stop_at or len(self.log) < messages:
            await asyncio.sleep(self.random.uniform(2, 5))
            what = self.random.choice(("restart broker", "pause broker", "kill odin", "kill odin"))
            self.counts[what] += 1
            pause_s = self.random.uniform(0.2, 2.5)
            if what == "restart broker":
                self.nats.signal(signal.SIGTERM)
                await asyncio.to_thread(self.nats.wait)
                self.nats.stop()
                await asyncio.sleep(pause_s)
                self.nats = await asyncio.to_thread(self._broker)
            elif what == "pause broker":
                self.nats.signal(signal.SIGSTOP)
                await asyncio.sleep(2 * pause_s)
                self.nats.signal(signal.SIGCONT)
            else:
                which = self.random.randrange(2)
                await asyncio.to_thread(self.note_metrics, self.odins[which])
                self.odins[which].stop()
                await asyncio.sleep(pause_s / 2)
                self.odins[which] = self._odin(self.ports[which])

    def stop(self) -> None:
        for process in (*self.odins, self.nats):
            process.stop()


class Client:
    """One that stalls, drops its connection, and resumes where it was, on any node."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._random = random.Random(world.random.random())
        self.patterns = self._random.choice(_PATTERNS)
        self._calm = number % 4 == 0
        self.epoch = ""
        self.first: int | None = None  # the position of the first acknowledgement
        self.last = 0
        self.got: list[int] = []
        self.told: list[tuple[int, int]] = []
        self.faults: list[str] = []

    async def run(self) -> None:
        while not self._world.ended.is_set() or not self.complete():
            try:
                await self._visit()
            except (OSError, ConnectionClosed, InvalidHandshake, TimeoutError, EOFError):
                await asyncio.sleep(self._random.uniform(0.05, 0.4))

    def complete(self) -> bool:
        """Whether it has the last message that is for it."""
        mine = (n for n in reversed(self._world.log) if self._wants(self._world.log[n]))
        return self.last >= next(mine, 0)

    def missing(self) -> list[str]:
        """What is wrong with its stream, in words."""
        world, faults = self._world, list(self.faults)
        got = set(self.got)
        for n, channel in world.log.items():
            if self.first is None or n <= self.first or n in got or not self._wants(channel):
                continue
            if not channel.endswith(".price"):
                faults.append(f"{n} on {channel} is lost")
            elif not any(start <= n <= end for start, end in self.told):
                faults.append(f"{n} on {channel} is missing, and was not told")
            elif not any(world.log.get(m) == channel for m in self.got if m > n):
                faults.append(f"{n} on {channel} has no newer one")
        return faults

    def _wants(self, channel: str) -> bool:
        return any(covers(each, channel) for each in self.patterns)

    async def _visit(self) -> None:
        """One connection: resume, read, stall, and go."""
        port = self._random.choice(self._world.ports)
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            await asyncio.wait_for(loop.sock_connect(sock, ("127.0.0.1", port)), 5)
            async with connect(
                f"ws://127.0.0.1:{port}/ws?channels=none", sock=sock, proxy=None, max_queue=4,
                ping_interval=None, open_timeout=5, close_timeout=0.2,
            ) as client:  # fmt: skip
                data: dict[str, Any] = {"channels": self.patterns}
                if self.first is not None:
                    data["recover"] = {"epoch": self.epoch, "offset": self.last}
                await client.send(json.dumps({"type": "subscribe", "data": data}))
                await self._read(client)
        finally:
            sock.close()

    async def _read(self, client: Any) -> None:
        world = self._world
        leaves_at = time.monotonic() + (60 if self._calm else self._random.uniform(1, 15))
        acknowledged = False
        while not (world.ended.is_set() and self.complete()):
            if time.monotonic() > leaves_at and not world.ended.is_set():
                world.counts["disconnects"] += 1
                client.transport.abort()
                return
            if not self._calm and not world.ended.is_set() and self._random.random() < 0.002:
                world.counts["stalls"] += 1
                await asyncio.sleep(self._random.uniform(0.5, 6))
            try:
                message = json.loads(await asyncio.wait_for(client.recv(), 0.5))
            except TimeoutError:
                continue
            kind = message.get("type")
            if kind == "subscription_ack":
                acknowledged = True
                self._acknowledged(message)
            elif kind == "conflated":
                self.told.append((message["from"], message["to"]))
            elif "channel" in message and acknowledged:
                offset = message["offset"]
                if offset <= self.last:
                    self.faults.append(f"{offset} after {self.last}")
                self.last = max(self.last, offset)
                self.got.append(offset)

    def _acknowledged(self, ack: dict[str, Any]) -> None:
        counts = self._world.counts
        if self.first is None:
            self.epoch, self.first, self.last = ack["epoch"], ack["offset"], ack["offset"]
        elif ack["recovered"]:
            counts["recoveries"] += 1
        else:
            counts["refused"] += 1
            self.faults.append(f"not recovered from {self.last}")
            self.last = ack["offset"]


async def _ignore(_error: Exception) -> None:
    pass


async def chaos(
    seed: int, seconds: float, clients: int, messages: int = 0
) -> tuple[dict[str, Any], list[str]]:
    """(summary, faults) of one run, which goes on until so many messages were published."""
    world = World(seed, clients)
    try:
        await asyncio.to_thread(lambda: [each.port for each in world.odins])
        await asyncio.sleep(1)
        publisher = asyncio.create_task(world.publish())
        tasks = [asyncio.create_task(each.run()) for each in world.clients]
        await world.disturb(seconds, messages)
        world.quiet.set()
        await publisher
        world.ended.set()
        _done, late = await asyncio.wait(tasks, timeout=_SETTLE_S)
        for each in late:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for odin in world.odins:
            await asyncio.to_thread(world.note_metrics, odin)
        faults = [
            f"client {n} ({', '.join(each.patterns)}): {fault}"
            for n, each in enumerate(world.clients)
            for fault in each.missing()
        ]
        faults += [f"{len(late)} clients never came to the end"] * bool(late)
        faults += [
            "an exception in a log of Odin" for odin in world.odins if "Traceback" in odin.output()
        ]
        summary = {
            "seed": seed,
            "clients": clients,
            "messages": len(world.log),
            "delivered": sum(len(each.got) for each in world.clients),
            **world.counts,
            "conflated": int(world.conflated),
            "recoveries by source": dict(world.recovered),
            "losses": len(faults),
        }
        return summary, faults
    finally:
        world.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=45)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--clients", type=int, default=200)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    summary, faults = asyncio.run(chaos(arguments.seed, arguments.seconds, arguments.clients))
    print(json.dumps(summary, indent=2))
    if faults:
        sys.exit("\n".join(faults[:50]))


if __name__ == "__main__":
    main()
