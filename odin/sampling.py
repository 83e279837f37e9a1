"""Where the figures of /metrics come from that nobody counts as they happen."""

from collections.abc import Callable
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from odin.bus.bridge import Bridge
from odin.gateway.factory import OdinFactory
from odin.gateway.session import Context
from odin.metrics import Metrics
from odin.process import memory
from odin.status import Status


class Sampler(Service):
    """Brings the gauges up to date every `metrics.updateInterval`, and measures the loop's lag."""

    _log = Logger()
    _WARN_LAG_S: Final = 0.5

    def __init__(
        self,
        reactor: Any,
        metrics: Metrics,
        status: Status,
        count: Callable[[], int],
        every_s: float,
    ) -> None:
        self._reactor = reactor
        self._metrics = metrics
        self._status = status
        self._count = count
        self._every_s = every_s
        self._seen = 0
        self._looked_at = 0.0
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor

    def startService(self) -> None:
        super().startService()
        self._seen = self._count()
        self._looked_at = self._reactor.seconds()
        self._loop.start(self._every_s, now=False)

    def stopService(self) -> None:
        super().stopService()
        if self._loop.running:
            self._loop.stop()

    def _look(self) -> None:
        now, seen = self._reactor.seconds(), self._count()
        elapsed_s = now - self._looked_at
        lag_s = max(0.0, elapsed_s - self._every_s)
        if lag_s > self._WARN_LAG_S:
            self._log.warn("the event loop was {lag:.2f} s late", lag=lag_s)
        metrics = self._metrics
        metrics.lag.set(lag_s)
        metrics.rate.set((seen - self._seen) / elapsed_s if elapsed_s > 0 else 0)
        metrics.memory.set(memory.usage().resident)
        metrics.tasks.set(self._status.tasks())
        self._seen, self._looked_at = seen, now


def count_at_scrape(
    metrics: Metrics, factory: OdinFactory, bridge: Bridge, context: Context
) -> None:
    """Metrics that are plain numbers elsewhere, read when they are asked for."""
    hub, bus = context.hub, bridge.bus
    metrics.read_at_scrape(
        counters={
            "websocket_connections_total": (
                "WebSockets opened since the start", lambda: factory.opened
            ),
            "websocket_messages_sent_total": (
                "Messages handed to the kernel for a client: feed, replies and notices",
                lambda: hub.delivered + context.replied,
            ),
            "websocket_messages_received_total": (
                "Messages received from clients", lambda: context.received
            ),
            "websocket_messages_duplicates_total": (
                "Feed messages dropped because their nonce was seen", lambda: bridge.duplicates
            ),
            "nats_messages_total": ("Messages received from the bus", lambda: bridge.messages),
            "nats_reconnects_total": ("Times the broker came back", lambda: bus.reconnects),
            "odin_conflated_messages_total": (
                "Messages that were replaced by newer ones, for slow clients or a late server",
                lambda: context.conflated + hub.groups.batches.merged,
            ),
        },
        labelled={
            "odin_dropped_messages_total": (
                "Messages that were not delivered",
                "reason",
                {
                    "duplicate": lambda: bridge.duplicates,
                    "malformed": lambda: bridge.malformed,
                    "slow_consumer": lambda: context.dropped,
                },
            ),
        },
        gauges={
            "websocket_connections_active": ("Open WebSockets", lambda: factory.connections),
            "nats_connection_status": (
                "1 while messages can arrive from the bus", lambda: int(bus.connected)
            ),
            "odin_feed_status": (
                "1 while the feed is live, 0 while it is stale", lambda: int(bridge.live)
            ),
            "odin_feed_lag_seconds": (
                "Age of the last feed message when it came, by its sender's clock",
                bridge.lag_s,
            ),
            "odin_history_bytes": (
                "Bytes of frames kept for recovery and snapshots", lambda: bridge.history.held
            ),
            "odin_slow_clients": (
                "Clients for which messages wait", lambda: len(factory.behind)
            ),
        },
    )  # fmt: skip
