"""Every metric, defined once. The names are a contract.

What happens once per message or recipient is counted in plain integers where it happens and read
at scrape time; prometheus_client's own objects (0.7 us a touch) are for what happens once per
broadcast or per connection.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Final, cast

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from odin import __version__
from odin.reports import Family, Sample

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST.encode()
_LATENCIES: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
_SIZES: Final = (64, 128, 256, 512, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576)
_DURATIONS: Final = (1, 10, 60, 300, 1800, 3600, 14_400, 86_400)


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.duration = self._histogram(
            "websocket_connection_duration_seconds", "How long a WebSocket was open", _DURATIONS
        )
        self.rate = self._gauge(
            "websocket_messages_per_second",
            "Feed messages broadcast per second, over the last metrics.updateInterval",
        )
        self.latency = self._histogram(
            "websocket_message_latency_seconds",
            "From the bus to the kernel: the oldest message of each round of sending",
            _LATENCIES,
        )
        self._sizes = _Sizes("websocket_message_size_bytes", "Feed messages as they are sent")
        self.registry.register(self._sizes)
        self.message = self._sizes.observe  # bus.bridge.Meter
        self.errors = self._counter(
            "websocket_errors_by_type_total", "Errors on WebSockets", "type"
        )
        self.tasks = self._gauge(
            "websocket_goroutines_count", "Concurrent tasks: asyncio tasks, threads, sessions"
        )
        self.memory = self._gauge("websocket_memory_usage_bytes", "Resident memory of the process")
        self.rejections = self._counter(
            "odin_connections_rejected_total", "Connections refused before the upgrade", "reason"
        )
        self.disconnects = self._counter(
            "odin_disconnects_total", "WebSockets ended", "code", "initiator"
        )
        self.auth_failures = self._counter(
            "odin_auth_failures_total", "Tokens not accepted", "reason"
        )
        self.recoveries = self._counter(
            "odin_recovery_total",
            "Recoveries asked for: recovered or refused, and where the messages were",
            "result",
            "source",
        )
        self.broadcast = self._histogram(
            "odin_broadcast_duration_seconds", "How long one round of sending took", _LATENCIES
        )
        self.lag = self._gauge(
            "odin_reactor_lag_seconds", "How late the event loop was at the last look"
        )
        build = self._gauge("odin_build_info", "Always 1; the version is the label", "version")
        build.labels(__version__).set(1)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Iterable[float]) -> Histogram:
        return Histogram(name, text, buckets=tuple(buckets), registry=self.registry)

    def read_at_scrape(
        self,
        counters: dict[str, tuple[str, Callable[[], float]]],
        labelled: dict[str, tuple[str, str, dict[str, Callable[[], float]]]],
        gauges: dict[str, tuple[str, Callable[[], float]]],
    ) -> None:
        """Add metrics, name -> (help, callable), whose values are asked for when scraped.

        `labelled`: counters, name -> (help, label, callables by its values).
        """
        self.registry.register(_AtScrape(counters, labelled, gauges))

    def families(self) -> list[Family]:
        """All metrics as plain values."""
        return [
            Family(
                each.name,
                each.documentation,
                each.type,
                [Sample(sample.name, dict(sample.labels), sample.value) for sample in each.samples],
            )
            for each in self.registry.collect()
        ]

    # What the hub tells (delivery.hub.Meter)

    def round_done(self, latency_s: float, duration_s: float) -> None:
        self.latency.observe(latency_s)
        self.broadcast.observe(duration_s)

    # What recovery tells (bus.recovery.Meter)

    def recovery(self, result: str, source: str) -> None:
        self.recoveries.labels(result, source).inc()

    # What the edge tells (gateway.websocket.Meter)

    def rejected(self, cause: str) -> None:
        self.rejections.labels(cause).inc()

    def auth_failed(self, cause: str) -> None:
        self.auth_failures.labels(cause).inc()

    def closed(self, code: str, initiator: str, seconds: float) -> None:
        self.disconnects.labels(code, initiator).inc()
        self.duration.observe(seconds)

    def error(self, kind: str) -> None:
        self.errors.labels(kind).inc()


def exposition(families: Iterable[Family]) -> bytes:
    """The Prometheus text format (odin.web: CONTENT_TYPE_LATEST)."""
    return generate_latest(cast("CollectorRegistry", _Plain(families)))


class _Plain:
    """Plain values in the place of a registry."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            metric = Metric(family.name, family.text, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, sample.labels, sample.value)
            yield metric


class _Sizes(Collector):
    """A histogram for what happens once per message: 0.2 us each."""

    def __init__(self, name: str, text: str) -> None:
        self._name, self._text = name, text
        self._counts = [0] * (len(_SIZES) + 1)
        self._total = 0

    def observe(self, size: int) -> None:
        self._counts[bisect_left(_SIZES, size)] += 1
        self._total += size

    def collect(self) -> Iterator[Metric]:
        bounds = [*map(floatToGoString, _SIZES), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        yield HistogramMetricFamily(self._name, self._text, buckets=buckets, sum_value=self._total)


class _AtScrape(Collector):
    """Metrics whose values live elsewhere."""

    def __init__(
        self,
        counters: dict[str, tuple[str, Callable[[], float]]],
        labelled: dict[str, tuple[str, str, dict[str, Callable[[], float]]]],
        gauges: dict[str, tuple[str, Callable[[], float]]],
    ) -> None:
        self._counters = counters
        self._labelled = labelled
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        for name, (text, value) in self._counters.items():
            yield CounterMetricFamily(name, text, value=value())
        for name, (text, label, values) in self._labelled.items():
            family = CounterMetricFamily(name, text, labels=[label])
            for each, value in values.items():
                family.add_metric([each], value())
            yield family
        for name, (text, value) in self._gauges.items():
            yield GaugeMetricFamily(name, text, value=value())
