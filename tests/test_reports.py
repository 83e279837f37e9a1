"""Several workers' figures as those of one server (odin.reports)."""

import msgspec
from prometheus_client import parser
from twisted.trial.unittest import SynchronousTestCase

from odin.metrics import Metrics, exposition
from odin.reports import (
    Family,
    Report,
    Sample,
    lasting,
    merged_health,
    merged_metrics,
    merged_stats,
    total,
)
from odin.sampling import count_at_scrape
from odin.status import Status
from tests.connections import Server, head

OWN = {
    "node": "n",
    "uptime": 99.0,
    "memory": {"alloc": 1, "heap_alloc": 2, "sys": 3},
    "usage": {"resident": 1, "anonymous": 2, "virtual": 3},
    "more": {"supervisor": {"restarts": 5}},
}


class Worker:
    """A whole server, and what it reports."""

    def __init__(self, number=0):
        self.number, self.server = number, Server()
        self.server.turn()
        server = self.server
        count_at_scrape(server.metrics, server.factory, server.bridge, server.context)
        self.status = Status(
            hub=server.hub,
            bridge=server.bridge,
            edge=server.factory,
            conversation=server.context,
            loop=None,
        )
        self.status.listening = True

    def clients(self, count):
        for _ in range(count):
            peer = self.server.connect()
            peer.send(head())
            peer.say(type="subscribe", data={"channels": ["a"]})

    def feed(self, count, payload=b'{"x":1}'):
        for _ in range(count):
            self.server.bridge.received("a", payload)
        self.server.turn()

    def families(self):
        return over_the_wire(self.server.metrics.families(), list[Family])

    def report(self):
        return over_the_wire(
            Report(
                worker=self.number,
                pid=1000 + self.number,
                ready=self.status.not_ready() is None,
                connections=self.server.factory.connections,
                health=self.status.health(),
                stats=self.status.stats(),
                metrics=self.server.metrics.families(),
            ),
            Report,
        )


def over_the_wire(value, kind):
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=kind)


def family(name, kind, *samples):
    return Family(name, "text", kind, [Sample(*each) for each in samples])


def values(families):
    """What Prometheus reads: {(sample, labels): value}."""
    found = {}
    for each in parser.text_string_to_metric_families(exposition(families).decode()):
        for sample in each.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def shape(body):
    """The keys of a JSON body, and the kinds of its values."""
    if isinstance(body, dict):
        return {name: shape(each) for name, each in body.items()}
    return "number" if type(body) in (int, float) else type(body).__name__


class MergedMetricsTests(SynchronousTestCase):
    def test_real(self):
        """Two workers with one feed: clients and what they get add up, the feed counts once."""
        workers = Worker(0), Worker(1)
        for worker, clients, messages in zip(workers, (1, 3), (2, 3), strict=True):
            worker.clients(clients)
            worker.feed(messages)
            worker.feed(1, b"nonsense")
            worker.server.metrics.rejected("full")
        workers[1].server.metrics.rejected("origin")
        each = [values(worker.families()) for worker in workers]
        merged = values(merged_metrics([worker.families() for worker in workers]))
        self.assertEqual(merged.keys(), each[0].keys() | each[1].keys())
        for key, value in (
            (("websocket_connections_active",), 4),
            (("websocket_connections_total",), 4),
            (("websocket_messages_sent_total",), sum(x["websocket_messages_sent_total",] for x in each)),
            (("nats_messages_total",), 4),
            (("nats_connection_status",), 1),
            (("odin_dropped_messages_total", ("reason", "malformed")), 1),
            (("odin_connections_rejected_total", ("reason", "full")), 2),
            (("odin_connections_rejected_total", ("reason", "origin")), 1),
            (("websocket_message_size_bytes_count",), 3),
            (("websocket_message_size_bytes_bucket", ("le", "64.0")), 3),
            (("odin_broadcast_duration_seconds_count",), sum(x["odin_broadcast_duration_seconds_count",] for x in each)),
        ):  # fmt: skip
            self.assertEqual(merged[key], value, key)
        self.assertGreater(merged["odin_broadcast_duration_seconds_count",], 1)
        self.assertEqual([v for key, v in merged.items() if key[0] == "odin_build_info"], [1])

    def test_reasons(self):
        """Dropped messages are the same for all; tokens that were malformed are not."""
        one, two = Worker(0), Worker(1)
        for each in (one, two):
            each.server.metrics.auth_failed("malformed")
            each.feed(2, b"nonsense")
        found = values(merged_metrics([one.families(), two.families()]))
        self.assertEqual(found["odin_auth_failures_total", ("reason", "malformed")], 2)
        self.assertEqual(found["odin_dropped_messages_total", ("reason", "malformed")], 2)

    def test_histograms(self):
        """Buckets, count and sum add up; the first moment stays."""
        made = [Metrics(), Metrics()]
        for metrics, seconds in zip(made, ((0.5, 20), (20, 100_000)), strict=True):
            for each in seconds:
                metrics.closed("1000", "client", each)
        one, other = (values(metrics.families()) for metrics in made)
        merged = values(merged_metrics([metrics.families() for metrics in made]))
        name = "websocket_connection_duration_seconds"
        for bound, number in (("1.0", 1), ("10.0", 1), ("60.0", 3), ("86400.0", 3), ("+Inf", 4)):
            self.assertEqual(merged[f"{name}_bucket", ("le", bound)], number)
        self.assertEqual((merged[f"{name}_count",], merged[f"{name}_sum",]), (4, 100_040.5))
        created = (f"{name}_created",)
        self.assertEqual(merged[created], min(one[created], other[created]))
        key = "odin_disconnects_total", ("code", "1000"), ("initiator", "client")
        self.assertEqual(merged[key], 4)

    def test_rules(self):
        """(metric, kind, the workers' values, that of all)"""
        for name, kind, given, expected in (
            ("odin_slow_clients", "gauge", (1, 2, 3), 6),
            ("websocket_memory_usage_bytes", "gauge", (10, 20), 30),
            ("odin_reactor_lag_seconds", "gauge", (0.1, 0.7, 0.2), 0.7),
            ("odin_feed_lag_seconds", "gauge", (2, 1), 2),
            ("websocket_messages_per_second", "gauge", (100, 99), 100),
            ("nats_connection_status", "gauge", (1, 0, 1), 0),
            ("odin_feed_status", "gauge", (1, 1), 1),
            ("odin_feed_status", "gauge", (0, 1), 0),
            ("nats_reconnects", "counter", (2, 3), 3),
            ("odin_recovery", "counter", (2, 3), 5),
        ):
            suffix = "_total" if kind == "counter" else ""
            parts = [[family(name, kind, (name + suffix, {}, value))] for value in given]
            self.assertEqual(values(merged_metrics(parts)), {(name + suffix,): expected})

    def test_one_has_more(self):
        """A metric or a label that only one worker has stays as it is; labels have no order."""
        only = family("only", "gauge", ("only", {}, 7))
        parts = [
            [family("c", "counter", ("c_total", {"x": "1", "y": "2"}, 1))],
            [],
            [family("c", "counter", ("c_total", {"y": "2", "x": "1"}, 2), ("c_total", {"x": "3"}, 4)), only],
        ]  # fmt: skip
        before = msgspec.msgpack.encode(parts)
        self.assertEqual(
            values(merged_metrics(parts)),
            {("c_total", ("x", "1"), ("y", "2")): 3, ("c_total", ("x", "3")): 4, ("only",): 7},
        )
        self.assertEqual(msgspec.msgpack.encode(parts), before)
        for nobody in ([], [[]], [[], []]):
            self.assertEqual(merged_metrics(nobody), [])


class TotalTests(SynchronousTestCase):
    def test_in_one_place(self):
        """What ended workers counted goes on in the next one; gauges are those of the last."""
        first, second = Worker(), Worker()
        for worker, clients in ((first, 2), (second, 1)):
            worker.clients(clients)
            worker.feed(3)
        ended = lasting(first.families())
        self.assertEqual({each.kind for each in ended}, {"counter", "histogram"})
        one, other, both = map(
            values, (ended, second.families(), total([ended, second.families()]))
        )
        self.assertEqual(both.keys(), other.keys())
        self.assertEqual(both["websocket_connections_active",], 1)
        for key in one:
            if key[0].endswith("_created"):
                self.assertEqual(both[key], min(one[key], other[key]))
            else:
                self.assertEqual(both[key], one[key] + other[key], key)
        self.assertEqual(
            (both["websocket_connections_total",], both["nats_messages_total",]), (3, 6)
        )

    def test_alone(self):
        """With nothing before, or nothing after, there is only what there is."""
        mine = Worker().families()
        self.assertEqual(values(total([mine])), values(mine))
        self.assertEqual(values(total([[], mine])), values(mine))
        self.assertEqual(values(total([lasting(mine), []])), values(lasting(mine)))
        self.assertEqual((total([]), total([[], []]), lasting([])), ([], [], []))


class HealthTests(SynchronousTestCase):
    def reports(self, *states):
        """Reports of workers that are healthy, degraded or unhealthy."""
        found = []
        for number, state in enumerate(states):
            worker = Worker(number)
            worker.clients(number + 1)
            worker.status.listening = state != "unhealthy"
            if state == "degraded":
                worker.server.bus.stopService()
            found.append(worker.report())
            self.assertEqual(found[-1].health["status"], state)
        return found

    def test_status(self):
        """(workers, missing, the status of all, whether the broker is there for all)"""
        healthy, degraded, unhealthy = "healthy", "degraded", "unhealthy"
        for states, missing, status, connected in (
            ((healthy, healthy), 0, healthy, True),
            ((healthy,), 1, degraded, True),
            ((healthy, degraded), 0, degraded, False),
            ((healthy, unhealthy), 0, degraded, True),
            ((degraded, degraded), 0, degraded, False),
            ((unhealthy, unhealthy), 0, unhealthy, True),
            ((), 2, unhealthy, False),
            ((), 0, unhealthy, False),
        ):
            body = merged_health(self.reports(*states), missing, OWN)
            self.assertEqual(body["status"], status, states)
            self.assertEqual(body["services"]["nats"]["connected"], connected)
            serving = body["services"]["websocket"]["status"]
            self.assertEqual(serving, unhealthy if status == unhealthy else healthy)
            self.assertEqual([each["status"] for each in body["workers"]], list(states))

    def test_figures(self):
        """Clients, tasks and memory are added, the supervisor's own memory, too."""
        reports = self.reports("healthy", "healthy")
        body = merged_health(reports, 0, OWN)
        self.assertEqual(body["services"]["websocket"]["clients"], 3)
        self.assertEqual(body["uptime"], 99.0)
        system = [report.health["system"] for report in reports]
        self.assertEqual(body["system"]["goroutines"], sum(each["goroutines"] for each in system))
        for own, name in enumerate(("alloc", "heap_alloc", "sys"), 1):
            expected = own + sum(each["memory"][name] for each in system)
            self.assertEqual(body["system"]["memory"][name], expected)
        lines = [(each["worker"], each["pid"], each["ready"], each["connections"])
                 for each in body["workers"]]  # fmt: skip
        self.assertEqual(lines, [(0, 1000, True, 1), (1, 1001, True, 2)])
        del body["workers"]
        self.assertEqual(shape(body), shape(reports[0].health))


class StatsTests(SynchronousTestCase):
    def test_figures(self):
        """What each does for its clients is added, what all see counts once."""
        workers = Worker(0), Worker(1)
        for worker, clients in zip(workers, (1, 2), strict=True):
            worker.clients(clients)
            worker.feed(3)
            worker.feed(2, b'{"nonce":7}')
            worker.feed(1, b"nonsense")
        workers[1].feed(1)
        reports = [worker.report() for worker in workers]
        body = merged_stats(reports, OWN, merged_metrics([each.metrics for each in reports]))
        self.assertEqual((body["node"], body["uptime"]), ("n", 99.0))
        self.assertEqual(body["connections"], {"active": 3, "total": 3, "behind": 0})
        sent = sum(each.stats["messages"]["sent"] for each in reports)
        self.assertGreater(sent, 4 + 5 * 2)
        self.assertEqual(
            body["messages"],
            {"sent": sent, "received": 3, "broadcast": 5, "duplicates": 1, "malformed": 1},
        )
        self.assertEqual((body["nats"]["messages"], body["nats"]["connected"]), (7, True))
        self.assertEqual(
            body["hub"] | {"epoch": 0}, {"groups": 2, "sessions": 3, "epoch": 0, "offset": 5}
        )
        resident = [each.stats["memory"]["resident"] for each in reports]
        self.assertEqual(body["memory"]["resident"], sum(resident) + 1)
        self.assertEqual([each["memory"]["resident"] for each in body["workers"]], resident)
        self.assertEqual(body.pop("supervisor"), {"restarts": 5})
        del body["workers"]
        self.assertEqual(shape(body), shape(reports[0].stats))

    def test_few(self):
        """One worker that lost the broker is said; with no worker there is only the server's own."""
        workers = Worker(0), Worker(1)
        workers[1].server.bus.stopService()
        body = merged_stats([worker.report() for worker in workers], OWN, [])
        self.assertFalse(body["nats"]["connected"])
        nobody = merged_stats([], OWN, [])
        self.assertEqual((nobody["node"], nobody["uptime"], nobody["workers"]), ("n", 99.0, []))
