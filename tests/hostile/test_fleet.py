"""With --workers, pages are answered later: what comes in behind them."""

from tests.hostile.field import Field
from tests.hostile.test_http import request, status
from tests.integration.harness import Odin, eventually, free_port


class FleetAttacks(Field):
    """A supervisor and one worker; the neighbour is that worker's client."""

    options = ("--workers", "1", "--embedded-nats", "--nats-url", f"nats://127.0.0.1:{free_port()}")
    environment = {"SERVER_READ_TIMEOUT": "1"}

    @property
    def odin(self) -> Odin:
        odin = super().odin
        odin.says(r"process\.supervisor.*Odin listens on")
        eventually(lambda: odin.get("/health").json()["status"] == "healthy", "health")
        return odin

    def test_unfinished(self) -> None:
        """An unfinished request behind one that is answered later has its deadline (A24)."""
        with self.unwatched("A24 slowloris behind /health"):
            client = self.hostile()
            client.send(request("GET", "/health", client.host) + b"GET / HTTP/1.1\r\n")
            self.assertEqual(status(client), 200)
            client.socket.settimeout(30)
            try:
                self.assertTrue(client.ended())
            except TimeoutError:
                self.fail("alive after 30 s")

    def test_too_large(self) -> None:
        """A request that is too large behind one that is answered later gets its 413 (A25)."""
        with self.unwatched("A25 too large, behind /health"):
            client = self.hostile()
            large = (
                f"POST /nothing HTTP/1.1\r\nHost: {client.host}\r\nContent-Length: 9999999\r\n\r\n"
            )
            client.send(request("GET", "/health", client.host) + large.encode())
            self.assertEqual([status(client), status(client)], [200, 413])
            self.check(self.odin)

    def test_half_closed(self) -> None:
        """Whoever ends its side behind a request gets the answer, when there is one (A27)."""
        with self.unwatched("A27 half-closed behind /health and /metrics"):
            for page in ("/health", "/metrics"):
                client = self.hostile()
                client.send(request("GET", page, client.host))
                client.socket.shutdown(1)
                self.assertEqual(status(client), 200, page)
