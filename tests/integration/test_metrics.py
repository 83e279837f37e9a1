"""Every metric is true: the server is driven, and the metric read back."""

import time

from tests.integration.clients import BINARY, TEXT, frame
from tests.integration.harness import OdinTestCase, eventually

NAMES = (
    "websocket_connections_active",
    "websocket_connections_total",
    "websocket_connection_duration_seconds",
    "websocket_messages_per_second",
    "websocket_message_latency_seconds",
    "websocket_messages_sent_total",
    "websocket_messages_received_total",
    "websocket_messages_duplicates_total",
    "websocket_message_size_bytes",
    "websocket_errors_by_type_total",
    "websocket_goroutines_count",
    "websocket_memory_usage_bytes",
    "nats_connection_status",
    "nats_reconnects_total",
    "nats_messages_total",
    "odin_connections_rejected_total",
    "odin_disconnects_total",
    "odin_auth_failures_total",
    "odin_broadcast_duration_seconds",
    "odin_reactor_lag_seconds",
    "odin_slow_clients",
    "odin_conflated_messages_total",
    "odin_dropped_messages_total",
    "odin_recovery_total",
    "odin_feed_status",
    "odin_feed_lag_seconds",
    "odin_history_bytes",
    "odin_build_info",
)


class MetricsTests(OdinTestCase):
    """One server, looked at often."""

    environment = {"METRICS_UPDATE_INTERVAL": "0.2"}

    def setUp(self) -> None:
        eventually(lambda: self.odin.clients() == 0, "an empty server")
        self.before = self.odin.metrics()

    def change(self, name: str) -> float:
        """How much a sample grew in this test."""
        return self.odin.metric(name) - self.before.get(name, 0)

    def test_names(self) -> None:
        """Every promised name is there, from the start."""
        text = self.odin.get("/metrics").body.decode()
        for name in NAMES:
            self.assertRegex(text, rf"(?m)^# TYPE {name.removesuffix('_total')}(_total)? ", name)
        for name in NAMES:
            if name.endswith("_total"):
                self.assertRegex(text, rf"(?m)^# TYPE {name} counter$", name)

    def test_connections(self) -> None:
        """Open, opened and closed connections, and how long they were open."""
        clients = [self.client() for _ in range(3)]
        self.assertEqual(self.odin.metric("websocket_connections_active"), 3)
        self.assertEqual(self.change("websocket_connections_total"), 3)
        clients[0].close()
        eventually(lambda: self.odin.clients() == 2)
        self.assertEqual(self.odin.metric("websocket_connections_active"), 2)
        self.assertEqual(self.change("websocket_connections_total"), 3)
        self.assertEqual(self.change("websocket_connection_duration_seconds_count"), 1)
        code = 'odin_disconnects_total{code="1000",initiator="client"}'
        self.assertEqual(self.change(code), 1)
        duration_s = self.change("websocket_connection_duration_seconds_sum")
        self.assertTrue(0 < duration_s < 60)

    def test_messages(self) -> None:
        """Messages from the bus, to and from clients, dropped duplicates, their sizes."""
        clients = [self.client() for _ in range(3)]
        for nonce in ("m1", "m2", "m2", "m3"):
            self.odin.publish("a.b", {"nonce": nonce, "x": "y" * 2000})
        size = 0
        for client in clients:
            size = sum(len(client.receive_text()) for _ in range(3))
        clients[0].ask({"type": "ping"})
        clients[0].ask("nope")
        self.assertEqual(self.change("websocket_messages_sent_total"), 3 + 3 * 3 + 2)
        self.assertEqual(self.change("websocket_messages_received_total"), 2)
        self.assertEqual(self.change("websocket_message_size_bytes_count"), 3)
        self.assertEqual(self.change("websocket_message_size_bytes_sum"), size)
        self.assertEqual(self.change('websocket_message_size_bytes_bucket{le="1024.0"}'), 0)
        self.assertEqual(self.change('websocket_message_size_bytes_bucket{le="4096.0"}'), 3)
        rounds = self.change("websocket_message_latency_seconds_count")
        self.assertTrue(1 <= rounds <= 3)
        self.assertEqual(self.change("odin_broadcast_duration_seconds_count"), rounds)
        self.assertTrue(0 < self.change("websocket_message_latency_seconds_sum") < 5)

    def test_duplicates(self) -> None:
        """A duplicate is counted, where it is dropped."""
        self.odin.publish("a.b", {"nonce": "dup"})
        self.odin.publish("a.b", {"nonce": "dup"})
        stats = self.odin.get("/stats").json()["messages"]
        self.assertEqual(
            stats["duplicates"], self.odin.metric("websocket_messages_duplicates_total")
        )
        self.assertEqual(self.change("websocket_messages_duplicates_total"), 1)

    def test_rate(self) -> None:
        """Messages per second follow the traffic, up and down to nothing."""

        def look() -> bool:
            self.odin.publish("a.b", {})
            return self.odin.metric("websocket_messages_per_second") > 0

        eventually(look, "a rate above 0")
        eventually(lambda: self.odin.metric("websocket_messages_per_second") == 0, "the rate 0")

    def test_errors(self) -> None:
        """Errors by their type: what the peer did wrong."""
        cases = {
            "protocol_error": frame(TEXT, b"{}", masked=False),
            "invalid_payload": frame(TEXT, b"\xff"),
            "too_big": frame(TEXT, length=1 << 30),
            "binary": frame(BINARY, b"x"),
        }
        for data in cases.values():
            wire = self.websocket()
            wire.send(data)
            wire.closed()
        for kind in cases:
            name = f'websocket_errors_by_type_total{{type="{kind}"}}'
            self.assertEqual(self.change(name), 1, kind)

    def test_disconnects(self) -> None:
        """The end of a connection by its code and by who began; foreign codes share a label."""
        for code in (1000, 1001, 3999, 4000, 4408):
            wire = self.websocket()
            wire.send(frame(8, code.to_bytes(2, "big")))
            wire.closed()
        wire = self.websocket()
        wire.send(frame(BINARY))
        wire.closed()
        wire.send(frame(8, b"\x03\xeb"))
        eventually(lambda: self.odin.clients() == 0)
        for label, count in (("1000", 1), ("1001", 1), ("4408", 1), ("other", 2)):
            name = f'odin_disconnects_total{{code="{label}",initiator="client"}}'
            self.assertEqual(self.change(name), count, label)
        self.assertEqual(self.change('odin_disconnects_total{code="1003",initiator="server"}'), 1)

    def test_rejections(self) -> None:
        """Refused connections by reason, bad tokens by reason."""
        self.wire().upgrade("Origin: https://evil.example\r\n")
        self.wire().upgrade("Authorization: Bearer nonsense\r\n")
        for name in (
            'odin_connections_rejected_total{reason="origin"}',
            'odin_connections_rejected_total{reason="unauthorized"}',
            'odin_auth_failures_total{reason="malformed"}',
        ):
            self.assertEqual(self.change(name), 1, name)
        self.assertEqual(self.change("websocket_connections_total"), 0)

    def test_bus(self) -> None:
        """The in-process bus is connected; its messages are counted, malformed ones too."""
        self.assertEqual(self.odin.metric("nats_connection_status"), 1)
        self.assertEqual(self.odin.metric("nats_reconnects_total"), 0)
        for n in range(5):
            self.odin.publish("a.b", {"n": n})
        self.assertEqual(self.change("nats_messages_total"), 5)

    def test_history(self) -> None:
        """What is kept, what was asked for, how old the last message was."""
        now_ms = int(time.time() * 1000)
        before = self.odin.metric("odin_history_bytes")
        self.odin.publish("a.b", {"n": "x" * 1000, "timestamp": now_ms - 5000})
        self.assertTrue(5 <= self.odin.metric("odin_feed_lag_seconds") < 8)
        self.assertGreater(self.odin.metric("odin_history_bytes"), before + 1000)
        self.assertEqual(self.odin.metric("odin_feed_status"), 1)
        client = self.client()
        for epoch, result, source in (
            (client.welcome["epoch"], "recovered", "memory"),
            ("other", "refused", "none"),
        ):
            position = {"epoch": epoch, "offset": client.welcome["offset"]}
            data = {"channels": ["a.b"], "recover": position}
            client.ask({"type": "subscribe", "data": data})
            name = f'odin_recovery_total{{result="{result}",source="{source}"}}'
            self.assertEqual(self.change(name), 1, name)

    def test_process(self) -> None:
        """Memory, tasks, lag and the version are those of this process."""
        clients = [self.client() for _ in range(5)]
        eventually(
            lambda: self.odin.metric("websocket_goroutines_count") >= 5, "a look at the tasks"
        )
        with open(f"/proc/{self.odin.pid}/statm", encoding="ascii") as file:
            resident = int(file.read().split()[1]) * 4096
        memory = self.odin.metric("websocket_memory_usage_bytes")
        self.assertTrue(resident / 2 < memory < resident * 2)
        self.assertTrue(0 <= self.odin.metric("odin_reactor_lag_seconds") < 5)
        version = clients[0].welcome["version"]
        self.assertEqual(self.odin.metric(f'odin_build_info{{version="{version}"}}'), 1)

    def test_agreement(self) -> None:
        """/health, /stats and /metrics say the same."""
        clients = [self.client() for _ in range(4)]
        clients[0].ask({"type": "ping"})
        stats, metrics = self.odin.get("/stats").json(), self.odin.metrics()
        self.assertEqual(self.odin.clients(), 4)
        for (section, member), name in {
            ("connections", "active"): "websocket_connections_active",
            ("connections", "total"): "websocket_connections_total",
            ("messages", "sent"): "websocket_messages_sent_total",
            ("messages", "received"): "websocket_messages_received_total",
            ("nats", "messages"): "nats_messages_total",
        }.items():
            self.assertEqual(stats[section][member], metrics[name], name)
