"""Clients of the chaos run that stall, drop and resume, and what must be true of their streams.

A stream falls into spans: from one gap that was told (another epoch, or a recovery refused) to the
next. Within a span nothing is missing, repeated or out of order, but for prices that were told to
be merged, each with a newer one behind it. An offset of an epoch means one message, for everybody.
"""

import asyncio
import json
import random
import socket
import time
from collections import Counter
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from odin.wire.subjects import covers

PATTERNS = ([">"], ["odin.token.*.price"], ["odin.trades.*"], ["odin.trades.B", "odin.token.>"])
CHANNELS = ("odin.token.A.price", "odin.token.B.price", "odin.trades.A", "odin.trades.B")


class Truth:
    """What is known of the messages, from all who saw them."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.seen: dict[str, dict[int, tuple[int, str]]] = {}  # epoch -> offset -> (n, channel)
        self.numbers: set[int] = set()  # all n that anybody saw
        self.last: dict[str, int] = {}  # channel -> the last n of all, once it is known
        self.ended = asyncio.Event()  # `last` is known

    def note(self, epoch: str, offset: int, n: int, channel: str) -> None:
        known = self.seen.setdefault(epoch, {}).setdefault(offset, (n, channel))
        if known != (n, channel):
            self.faults.append(f"{offset} of {epoch} is {known}, and also {(n, channel)}")
        self.numbers.add(n)


class Span:
    """A part of a client's stream without a gap."""

    def __init__(self, epoch: str, offset: int) -> None:
        self.epoch = epoch
        self.first = self.last = offset
        self.got: dict[int, str] = {}  # offset -> channel

    def faults(
        self, truth: Truth, patterns: list[str], told: list[tuple[int, int]], *, ended: bool
    ) -> list[str]:
        """What is wrong with it, in words.

        `told`: offsets between which the client knows that prices were merged. `ended`: a gap has
        ended it, with whatever newer price was still on its way.
        """
        faults = []
        newest = {channel: offset for offset, channel in self.got.items()}
        for offset, (_n, channel) in truth.seen.get(self.epoch, {}).items():
            if not self.first < offset <= self.last or offset in self.got:
                continue
            if not any(covers(each, channel) for each in patterns):
                continue
            if not channel.endswith(".price"):
                faults.append(f"{offset} on {channel} is lost")
            elif not any(start <= offset <= end for start, end in told):
                faults.append(f"{offset} on {channel} is missing, and was not told")
            elif newest.get(channel, 0) < offset and not ended:
                faults.append(f"{offset} on {channel} has no newer one")
        return faults


class Client:
    """One that stalls, drops its connection, and resumes where it was, on any node."""

    def __init__(self, truth: Truth, ports: list[int], number: int, seed: float) -> None:
        self._truth = truth
        self._ports = ports
        self._random = random.Random(seed)
        self.patterns = self._random.choice(PATTERNS)
        self._calm = number % 4 == 0
        self.spans: list[Span] = []
        self._told: list[tuple[int, int]] = []  # may begin in one epoch and end in the next
        self._newest: dict[str, int] = {}  # channel -> n
        self._faults: list[str] = []

    async def run(self) -> None:
        while not self._done():
            try:
                await self._visit()
            except (OSError, ConnectionClosed, InvalidHandshake, TimeoutError, EOFError):
                await asyncio.sleep(self._random.uniform(0.05, 0.4))

    def faults(self) -> list[str]:
        last = len(self.spans) - 1
        return self._faults + [
            fault
            for number, span in enumerate(self.spans)
            for fault in span.faults(self._truth, self.patterns, self._told, ended=number < last)
        ]

    def _done(self) -> bool:
        """Whether it has the last message of each of its channels."""
        return self._truth.ended.is_set() and not self.waits_for()

    def waits_for(self) -> dict[str, int]:
        """The last messages that it has not got."""
        return {
            channel: n
            for channel, n in self._truth.last.items()
            if self._newest.get(channel, -1) < n
            and any(covers(each, channel) for each in self.patterns)
        }

    async def _visit(self) -> None:
        """One connection: resume, read, stall, and go."""
        port = self._random.choice(self._ports)
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
                data: dict[str, Any] = {"channels": self.patterns, "snapshot": True}
                if self.spans:
                    span = self.spans[-1]
                    data["recover"] = {"epoch": span.epoch, "offset": span.last}
                await client.send(json.dumps({"type": "subscribe", "data": data}))
                await self._read(client)
        finally:
            sock.close()

    def _last_values(self) -> dict[str, Any]:
        """What a client asks for after a gap."""
        return {"type": "subscribe", "data": {"channels": self.patterns, "snapshot": True}}

    async def _read(self, client: Any) -> None:
        truth, calm = self._truth, self._calm
        leaves_at = time.monotonic() + (60 if calm else self._random.uniform(1, 15))
        acknowledged = False
        while not self._done():
            if time.monotonic() > leaves_at and not truth.ended.is_set():
                truth.counts["disconnects"] += 1
                client.transport.abort()
                return
            if not calm and not truth.ended.is_set() and self._random.random() < 0.002:
                truth.counts["stalls"] += 1
                await asyncio.sleep(self._random.uniform(0.5, 6))
            try:
                message = json.loads(await asyncio.wait_for(client.recv(), 0.5))
            except TimeoutError:
                continue
            kind = message.get("type")
            if kind == "subscription_ack":
                acknowledged = True
                self._acknowledged(message)
            elif not acknowledged:
                continue
            elif kind == "feedStatus" and message["status"] == "live":
                if message["epoch"] != self.spans[-1].epoch:
                    truth.counts["gaps told live"] += 1
                    self.spans.append(Span(message["epoch"], message["offset"]))
                    await client.send(json.dumps(self._last_values()))
            elif kind == "conflated":
                self._told.append((message["from"], message["to"]))
            elif "snapshot" in message:
                self._newest[message["channel"]] = message["n"]
            elif "channel" in message:
                self._take(message["channel"], message["offset"], message["n"])

    def _acknowledged(self, ack: dict[str, Any]) -> None:
        if not self.spans:
            self.spans.append(Span(ack["epoch"], ack["offset"]))
        elif "recovered" not in ack:
            pass  # a snapshot alone
        elif ack["recovered"]:
            self._truth.counts["recoveries"] += 1
            if ack["epoch"] != self.spans[-1].epoch:
                self._faults.append(f"recovered into another epoch: {ack}")
        else:
            self._truth.counts["refused"] += 1
            self.spans.append(Span(ack["epoch"], ack["offset"]))

    def _take(self, channel: str, offset: int, n: int) -> None:
        span = self.spans[-1]
        if offset <= span.last:
            self._faults.append(f"{offset} after {span.last} in {span.epoch}")
        span.last = max(span.last, offset)
        span.got[offset] = channel
        self._newest[channel] = n
        self._truth.note(span.epoch, offset, n, channel)
