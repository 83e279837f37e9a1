"""HTTP on the WebSocket's port: every endpoint, every method, connections that are kept."""

import json
import time
from http.client import HTTPConnection

import jwt

from tests.integration.clients import HANDSHAKE, PATIENCE_S, PING, PONG, TEXT, frame
from tests.integration.harness import OdinTestCase, eventually, free_port

PAGES = ("/", "/health", "/livez", "/readyz", "/stats", "/metrics", "/auth/token")


class EndpointTests(OdinTestCase):
    """A server with the in-process bus, as it is by default."""

    def test_health_shape(self) -> None:
        """/health has the documented members, with values that can be true."""
        client = self.client()
        before = int(time.time())
        response = self.odin.get("/health")
        body = response.json()
        self.assertEqual(
            (response.status, response.headers["content-type"]), (200, "application/json")
        )
        self.assertEqual(body["status"], "healthy")
        self.assertTrue(before <= body["timestamp"] <= time.time())
        self.assertTrue(0 < body["uptime"] < 600)
        self.assertEqual(body["services"]["websocket"], {"status": "healthy", "clients": 1})
        nats = body["services"]["nats"]
        self.assertEqual((nats["status"], nats["connected"]), ("connected", True))
        system = body["system"]
        self.assertGreaterEqual(system["goroutines"], 2)  # the client, the main thread
        memory = system["memory"]
        with open(f"/proc/{self.odin.pid}/statm", encoding="ascii") as file:
            resident = int(file.read().split()[1]) * 4096
        self.assertTrue(abs(memory["alloc"] - resident) < resident / 4)
        self.assertTrue(0 < memory["heap_alloc"] <= memory["alloc"] <= memory["sys"])
        client.close()

    def test_health_counts_clients(self) -> None:
        """`clients` is the number of open WebSockets, up and down."""
        clients = [self.client() for _ in range(3)]
        self.assertEqual(self.odin.clients(), 3)
        for client in clients:
            client.close()
        eventually(lambda: self.odin.clients() == 0)

    def test_probes(self) -> None:
        """/livez and /readyz are 200 while all is well."""
        for path, status in (("/livez", "alive"), ("/readyz", "ready")):
            response = self.odin.get(path)
            self.assertEqual((response.status, response.json()), (200, {"status": status}))

    def test_stats(self) -> None:
        """/stats has its sections, and counts what was published."""
        before = self.odin.get("/stats").json()
        self.odin.publish("odin.trades.BTC", {"n": 1})
        after = self.odin.get("/stats").json()
        for section in ("connections", "hub", "nats", "messages", "memory", "versions"):
            self.assertIsInstance(after[section], dict, section)
        self.assertEqual(after["hub"]["offset"], before["hub"]["offset"] + 1)
        self.assertEqual(after["nats"]["messages"], before["nats"]["messages"] + 1)

    def test_metrics_page(self) -> None:
        """/metrics is in the Prometheus text format."""
        response = self.odin.get("/metrics")
        self.assertEqual(response.status, 200)
        self.assertIn("text/plain", response.headers["content-type"])
        self.assertIn(b"# TYPE websocket_connections_active gauge", response.body)

    def test_token_page(self) -> None:
        """/auth/token gives a token that opens what it asked for."""
        body = self.odin.get("/auth/token?userId=bob&channels=odin.trades.*&publish=a.b").json()
        self.assertEqual(body["userId"], "bob")
        self.assertTrue(abs(body["expiresAt"] - time.time() - body["expiresIn"]) < 10)
        client = self.client(token=body["token"])
        ack = client.subscribe("odin.trades.BTC", "odin.heartbeat")
        self.assertEqual(ack["subscribed"], ["odin.trades.BTC"])
        self.assertEqual(self.odin.get("/auth/token?channels=a..b").status, 400)

    def test_token_with_many_channels(self) -> None:
        """All the channels that were asked for are in the token, or there is none."""
        channels = [f"odin.trades.number-{n}" for n in range(180)]
        response = self.odin.get(f"/auth/token?channels={','.join(channels)}")
        claims = jwt.decode(response.json()["token"], options={"verify_signature": False})
        self.assertEqual(claims["channels"], channels)
        response = self.odin.get("/auth/token?channels=" + ",".join(channels * 2)[:8000])
        self.assertEqual(response.status, 400)
        self.assertEqual(response.json()["error"]["code"], "limit_exceeded")

    def test_page(self) -> None:
        """/ is a page of its own, with nothing from elsewhere, and a policy that says so."""
        response = self.odin.get("/")
        self.assertEqual(response.status, 200)
        self.assertIn("text/html", response.headers["content-type"])
        self.assertIn("default-src 'none'", response.headers["content-security-policy"])
        self.assertNotRegex(response.body.decode(), r"(src|href)\s*=\s*[\"']?(https?:)?//")

    def test_unknown_path(self) -> None:
        """What is not there is 404 with a JSON error, for every method."""
        for path in ("/nothing", "/health/more", "/auth", "/ws/x", "/healthz", "/%00"):
            for method in ("GET", "POST"):
                response = self.odin.request(method, path)
                self.assertEqual(response.status, 404, (method, path))
                self.assertEqual(response.json()["error"]["code"], "not_found")

    def test_wrong_method(self) -> None:
        """A wrong method is 405 and says which are right."""
        cases = [(method, path) for method in ("POST", "DELETE", "OPTIONS") for path in PAGES]
        cases += [(method, "/publish") for method in ("GET", "HEAD", "PUT")]
        cases += [("POST", "/ws"), ("TRACE", "/health")]
        for method, path in cases:
            response = self.odin.request(method, path)
            self.assertEqual(response.status, 405, (method, path))
            self.assertIn("POST" if path == "/publish" else "GET", response.headers["allow"])

    def test_trailing_slash(self) -> None:
        """A slash at the end makes no difference."""
        for path in PAGES[1:]:
            self.assertEqual(self.odin.get(path + "/").status, 200, path)
        self.assertEqual(self.client("/ws/").welcome["type"], "connectionEstablished")

    def test_head(self) -> None:
        """HEAD answers as GET does, without a body."""
        for path in PAGES:
            response = self.odin.request("HEAD", path)
            self.assertEqual((response.status, response.body), (200, b""), path)
            self.assertTrue(response.headers["content-type"])

    def test_safe_headers(self) -> None:
        """No answer is cached or sniffed, passes its URL on, or opens itself to other origins."""
        for path in (*PAGES, "/nothing"):
            headers = self.odin.get(path, Origin="https://evil.example").headers
            self.assertEqual(headers["cache-control"], "no-store", path)
            self.assertEqual(headers["x-content-type-options"], "nosniff", path)
            self.assertEqual(headers["referrer-policy"], "no-referrer", path)
            self.assertNotIn("access-control-allow-origin", headers, path)

    def test_websocket_path_without_upgrade(self) -> None:
        """A plain GET of the WebSocket's path is told to upgrade."""
        response = self.odin.get("/ws")
        self.assertEqual(response.status, 426)
        self.assertEqual(response.headers["upgrade"].lower(), "websocket")
        self.assertEqual(response.headers["sec-websocket-version"], "13")


class ConnectionTests(OdinTestCase):
    """What one TCP connection may carry."""

    def test_kept_alive(self) -> None:
        """Two requests use one connection."""
        connection = HTTPConnection("127.0.0.1", self.odin.port, timeout=PATIENCE_S)
        self.addCleanup(connection.close)
        sockets = set()
        for path in ("/health", "/livez", "/nothing", "/readyz"):
            connection.request("GET", path)
            connection.getresponse().read()
            sockets.add(connection.sock.getsockname())
        self.assertEqual(len(sockets), 1)

    def test_pipelined(self) -> None:
        """Two requests in one segment are answered in their order."""
        wire = self.wire()
        wire.send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual([wire.response().json()["status"] for _ in "12"], ["alive", "ready"])

    def test_byte_by_byte(self) -> None:
        """A request, and a handshake, may come in any pieces."""
        for text, status in (
            ("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", 200),
            (HANDSHAKE + "\r\n", 101),
        ):
            wire = self.wire()
            for each in wire.filled(text):
                wire.send(each)
            self.assertEqual(wire.response().status, status)

    def test_upgrade_on_a_kept_connection(self) -> None:
        """A connection that served requests can still become a WebSocket, as a proxy does it."""
        wire = self.wire()
        for _ in range(2):
            wire.send("GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n")
            self.assertEqual(wire.response().status, 200)
        self.assertEqual(wire.upgrade().status, 101)
        self.assertEqual(json.loads(wire.receive()[1])["type"], "connectionEstablished")
        wire.send(frame(TEXT, b'{"type":"ping"}'))
        self.assertEqual(json.loads(wire.receive()[1])["type"], "pong")

    def test_upgrade_after_a_post(self) -> None:
        """The same after a request with a body."""
        wire = self.wire()
        wire.send(
            "POST /publish?subject=a.b HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\n\r\n{}"
        )
        self.assertEqual(wire.response().status, 401)
        self.assertEqual(wire.upgrade().status, 101)

    def test_frames_behind_the_handshake(self) -> None:
        """What a client sends before it has the 101 is not lost."""
        wire = self.wire()
        wire.send(wire.filled(HANDSHAKE + "\r\n").encode() + frame(PING, b"early"))
        self.assertEqual(wire.response().status, 101)
        received = [wire.receive(), wire.receive()]
        self.assertIn((PONG, b"early"), received)

    def test_http_1_0(self) -> None:
        """An old client gets its answer, and the connection is closed."""
        wire = self.wire()
        wire.send("GET /livez HTTP/1.0\r\n\r\n")
        self.assertEqual(wire.response().status, 200)
        self.assertTrue(wire.ended())

    def test_smuggling(self) -> None:
        """A request that two servers could read in two ways is refused."""
        heads = {
            "both lengths": "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            "two lengths": "Content-Length: 3\r\nContent-Length: 4\r\n",
            "a list of lengths": "Content-Length: 3, 4\r\n",
            "a signed length": "Content-Length: +3\r\n",
            "unknown coding": "Transfer-Encoding: chunked, identity\r\n",
            "space before the colon": "Content-Length : 3\r\n",
        }
        for name, head in heads.items():
            wire = self.wire()
            wire.send(f"POST /publish?subject=a.b HTTP/1.1\r\nHost: x\r\n{head}\r\n" + "0\r\n\r\n")
            self.assertIn(wire.response().status, (400, 501), name)
            self.assertTrue(wire.ended(), name)


class InternalListenerTests(OdinTestCase):
    """metrics.port moves what an operator reads to a port of its own."""

    def test_metrics_port(self) -> None:
        """The internal port has /metrics, /stats and /health; the public one only /health."""
        port = free_port()
        odin = self.start(METRICS_PORT=str(port), METRICS_METRICS_PATH="/prometheus")
        for path, public, internal in (
            ("/prometheus", 404, 200), ("/stats", 404, 200), ("/health", 200, 200),
            ("/metrics", 404, 404), ("/publish", 405, 404), ("/auth/token", 200, 404),
            ("/", 200, 404),
        ):  # fmt: skip
            self.assertEqual(odin.get(path).status, public, path)
            connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
            connection.request("GET", path)
            self.assertEqual(connection.getresponse().status, internal, path)
            connection.close()

    def test_without_prometheus(self) -> None:
        """ENABLE_PROMETHEUS=false takes /metrics away, and nothing else."""
        odin = self.start(ENABLE_PROMETHEUS="false")
        self.assertEqual(odin.get("/metrics").status, 404)
        self.assertEqual(odin.get("/stats").status, 200)

    def test_other_websocket_path(self) -> None:
        """websocket.path moves the WebSocket."""
        odin = self.start(WEBSOCKET_PATH="/live/feed")
        self.assertEqual(self.client("/live/feed", odin).welcome["type"], "connectionEstablished")
        self.assertEqual(odin.get("/ws").status, 404)
