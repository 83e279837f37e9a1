"""What is measured; each scenario returns its figures, by name, for one fresh server."""

import json
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.processes import Load, Server, publish, server

Figures = dict[str, float | None]
Scenario = Callable[[str, Path, "Scale"], Figures]
_MAX_P99_MS = 250


class Scale:
    """How large a run is."""

    def __init__(self, quick: bool) -> None:
        self.seconds = 2 if quick else 4
        self.rates = (50, 200) if quick else (50, 200, 400)
        self.idle = 2000 if quick else 10_000
        self.storm = 1000 if quick else 5000
        self.ladder = (
            (200, 500, 1000, 2000)
            if quick
            else (100, 200, 300, 400, 600, 800, 1200, 1700, 2500, 4000)
        )
        self.inward = (
            (10_000, 40_000)
            if quick
            else (2000, 5000, 10_000, 20_000, 30_000, 40_000, 60_000, 80_000)
        )


def fanout(
    under_test: Server, rate: float, seconds: float, clients: int = 1000, **options: object
) -> dict[str, float]:
    """One rate for some seconds; `ok` is 1 if everything arrived, in order, in time."""
    channels = int(str(options.get("channels", 1)))
    count = int(rate * seconds)
    per_client = float(str(options.pop("share", 1.0)))
    expected = round(count * clients * per_client)
    subscribe = options.pop("subscribe", None)
    more = {"subscribe": subscribe} if subscribe else {}
    sample = 1 if rate * clients <= 20_000 else 25
    load = Load(
        under_test, connections=clients, expect=expected, seconds=seconds + 8, sample=sample, **more
    )
    try:
        time.sleep(0.5)
        before = under_test.cpu_s()
        reached = publish(under_test, rate=rate, count=count, channels=channels)
        result = load.result()
        cpu_s = under_test.cpu_s() - before
    finally:
        load.stop()
    ok = (
        result["total"] == expected
        and not result["disorder"]
        and not result["closed"]
        and result.get("p99_ms", 1e9) < _MAX_P99_MS
        and reached > 0.95 * rate
    )
    return {
        "ok": float(ok),
        "us": 1e6 * cpu_s / max(1, result["total"]),
        "p50_ms": result.get("p50_ms", 0.0),
        "p99_ms": result.get("p99_ms", 0.0),
        "lost": float(expected - result["total"]),
    }


def delivery(name: str, log: Path, scale: Scale) -> Figures:
    """Server CPU per delivery, 1000 clients."""
    figures: Figures = {}
    with server(name, log) as under_test:
        for rate in scale.rates:
            got = fanout(under_test, rate, scale.seconds)
            # being late makes it cheaper, since messages queue up; losing some leaves no cost
            figures[f"us per delivery at {rate} msg/s"] = None if got["lost"] else got["us"]
    return figures


def highest(name: str, log: Path, scale: Scale) -> Figures:
    """The highest rate to 1000 clients at which nothing is lost or late."""
    best = 0.0
    with server(name, log) as under_test:
        for rate in scale.ladder:
            if not fanout(under_test, rate, scale.seconds)["ok"]:
                break
            best = rate
    return {"highest msg/s to 1000 clients": best}


def latency(name: str, log: Path, scale: Scale) -> Figures:
    """From the publisher to the client."""
    figures: Figures = {}
    with server(name, log) as under_test:
        for rate, clients in ((10, 1000), (100, 100)):
            got = fanout(under_test, rate, scale.seconds, clients)
            for key in ("p50_ms", "p99_ms"):
                figures[f"{key[:3]} ms, {rate} msg/s x {clients}"] = got[key]
    return figures


def connections(name: str, log: Path, scale: Scale) -> Figures:
    """Idle connections: memory and handshakes."""
    with server(name, log) as under_test:
        before = under_test.rss()
        load = Load(under_test, connections=scale.idle, mode="hold", seconds=3)
        try:
            time.sleep(1)
            after = under_test.rss()
            load.result()
        finally:
            load.stop()
    return {
        "RSS MB without clients": before / 1e6,
        "RSS KB per idle connection": (after - before) / 1024 / scale.idle,
        "handshakes/s": scale.idle / load.ready["seconds"],
    }


def pings(name: str, log: Path, scale: Scale) -> Figures:
    """200 clients, each with one ping in flight."""
    with server(name, log) as under_test:
        load = Load(under_test, connections=200, mode="ping", seconds=scale.seconds)
        try:
            result = load.result()
        finally:
            load.stop()
    return {"pongs/s": result["total"] / scale.seconds, "pong p99 ms": result["p99_ms"]}


def channels(name: str, log: Path, scale: Scale) -> Figures:
    """100 channels, 1000 clients subscribed to one to three of them."""
    rng = random.Random(1)
    names = [f"odin.token.T{n}.price" for n in range(100)]
    choices = [rng.sample(names, rng.randint(1, 3)) for _ in range(1000)]
    share = sum(map(len, choices)) / 1000 / 100
    with server(name, log) as under_test:
        got = fanout(
            under_test,
            1000,
            scale.seconds,
            channels=100,
            share=share,
            subscribe=json.dumps(choices),
        )
    return {"us per delivery, 100 channels, 1-3 each": None if got["lost"] else got["us"]}


def inward(name: str, log: Path, scale: Scale) -> Figures:
    """1000 channels with one client each: the highest rate in without loss."""
    choices = json.dumps([[f"odin.token.T{n}.price"] for n in range(1000)])
    best = 0.0
    with server(name, log) as under_test:
        for rate in scale.inward:
            got = fanout(
                under_test, rate, scale.seconds, channels=1000, share=0.001, subscribe=choices
            )
            if not got["ok"]:
                break
            best = rate
    return {"highest msg/s in, 1000 channels": best}


def storm(name: str, log: Path, scale: Scale) -> Figures:
    """Many clients recover at once, while 200 others have their feed. (Odin alone can.)"""
    if name != "odin":
        return {}
    back, count = 200, 400
    with server(name, log) as under_test:
        publish(under_test, rate=1000, count=back, prefix="S")
        live = Load(under_test, connections=200, expect=200 * count, seconds=30)
        with ThreadPoolExecutor() as pool:
            publishing = pool.submit(publish, under_test, rate=50, count=count)
            many = Load(
                under_test, connections=scale.storm, mode="recover", path="/ws?channels=none",
                expect=scale.storm * back, seconds=60, sample=10**9,
            )  # fmt: skip
            try:
                replayed, seen = many.result(), live.result()
            finally:
                many.stop()
                live.stop()
            publishing.result()
    whole = replayed["total"] == scale.storm * back and seen["total"] == 200 * count
    return {
        f"s until {scale.storm} clients have {back} messages": replayed["took_s"]
        if whole
        else None,
        "p99 ms of the live feed meanwhile": seen["p99_ms"] if whole else None,
    }


def slow(name: str, log: Path, scale: Scale) -> Figures:
    """1000 clients that never read, 200 msg/s of 1 KB: what each costs the server."""
    with server(name, log) as under_test:
        load = Load(under_test, connections=1000, mode="hold", seconds=scale.seconds * 2 + 3)
        try:
            time.sleep(0.5)
            before = under_test.rss()
            publish(under_test, rate=200, count=int(400 * scale.seconds), bytes=1000, channels=10)
            time.sleep(0.5)
            after = under_test.rss()
        finally:
            load.stop()
    return {"RSS KB per client that never reads": (after - before) / 1024 / 1000}


SCENARIOS: dict[str, Scenario] = {
    "delivery": delivery,
    "highest": highest,
    "latency": latency,
    "connections": connections,
    "pings": pings,
    "channels": channels,
    "inward": inward,
    "slow": slow,
    "storm": storm,
}
