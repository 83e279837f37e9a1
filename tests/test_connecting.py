"""What nats-py is told about the servers."""

import asyncio

from nats.aio.client import Client
from twisted.trial.unittest import SynchronousTestCase

from odin.bus import addresses
from odin.bus.connecting import NatsClient, Servers
from odin.config import Nats


class AddressTests(SynchronousTestCase):
    def test_parts(self):
        """Scheme, host and port with their defaults; credentials as they are sent."""
        for url, expected in (
            ("nats://h", ("nats", "h", 4222, None, None)),
            ("h", ("nats", "h", 4222, None, None)),
            ("h:1", ("nats", "h", 1, None, None)),
            ("tls://[::1]:5", ("tls", "::1", 5, None, None)),
            ("wss://h", ("wss", "h", 443, None, None)),
            ("nats://u:p@h:1", ("nats", "h", 1, "u", "p")),
            ("u:p@h", ("nats", "h", 4222, "u", "p")),
            ("nats://token@h", ("nats", "h", 4222, "token", None)),
            ("nats://u:@h", ("nats", "h", 4222, "u", "")),
            ("nats://odin:s3cret%3Ap%40ss@h", ("nats", "h", 4222, "odin", "s3cret:p@ss")),
            ("nats://odin:s3cret:p@ss@h", ("nats", "h", 4222, "odin", "s3cret:p@ss")),
            ("nats://a%3Ab:%2F%3F%23%2C%25@h", ("nats", "h", 4222, "a:b", "/?#,%")),
            ("nats://u:100%@h", ("nats", "h", 4222, "u", "100%")),
            ("nats://u:1+1%zz@h", ("nats", "h", 4222, "u", "1+1%zz")),
            ("nats://%C3%A9@h", ("nats", "h", 4222, "é", None)),
        ):
            self.assertEqual(addresses.parse(url), expected, url)

    def test_problems(self):
        """What no server can be found by is said."""
        for urls, why in (
            ("htp://x", "not a NATS server"), ("memory://,a", "not a NATS server"),
            ("nats://h:99999", "65535"), ("h:x", "65535"), ("nats://u:[x@h", "65535"),
            ("nats://u:p/w@h", "percent-encode"), ("nats://u/p@h", "percent-encode"),
            ("a,nats://:1,b", "missing"), ("nats://", "missing"), ("nats://h:0", "missing"),
            (",", "no server"), ("ws://a,nats://b", "mixed"),
        ):  # fmt: skip
            self.assertIn(why, addresses.problem(urls), urls)
        for urls in ("a", "nats://a:1, tls://t@b ,c:2,", "wss://a,ws://b:1/path"):
            self.assertIsNone(addresses.problem(urls), urls)

    def test_names(self):
        """Servers are logged without their credentials."""
        names = addresses.names("nats://u:secret@a:1,tls://token@b,c")
        self.assertEqual(names, ["a:1", "b:4222", "c:4222"])

    def test_masked(self):
        """No part of a credential is shown, also where commas and at-signs are not encoded."""
        for urls, shown in (
            ("nats://u:p@a:1,nats://tok@b", "nats://********@a:1,nats://********@b"),
            ("nats://a:1,nats://b", "nats://a:1,nats://b"),
            ("u:p@a", "********@a"),
            ("nats://u:12,34@a", "nats://********@a"),
            ("nats://u:p@ss@a,b", "nats://********@a,b"),
        ):
            self.assertEqual(addresses.masked(urls), shown)


class ServersTests(SynchronousTestCase):
    def test_retry_with_jitter(self):
        """A fresh server is tried nearly at once, one that failed after the wait."""
        servers = Servers(Nats(reconnect_wait_ms=1000, reconnect_jitter_ms=200))

        class Candidate:
            def __init__(self, reconnects):
                self.reconnects = reconnects

        tried, fresh = Candidate(3), Candidate(0)
        chosen, wait_s = servers.choose([tried, fresh], {})
        self.assertIs(chosen, fresh)
        self.assertLessEqual(wait_s, 0.2)
        _, wait_s = servers.choose([tried], {})
        self.assertTrue(1.0 <= wait_s <= 1.2)

    def test_pause_has_a_floor(self):
        """No wait and no jitter is still a pause: no busy loop while the broker is away."""
        servers = Servers(Nats(reconnect_wait_ms=0, reconnect_jitter_ms=0))
        self.assertGreaterEqual(servers.pause_s(), 0.05)
        self.assertGreaterEqual(servers.options("n")["reconnect_time_wait"], 0.05)

    def test_credentials(self):
        """Settings of their own count before those in the URL, which are decoded."""
        url = "nats://u:p%40ss@a,b"
        for config, expected in (
            (Nats(url=url), {"user": "u", "password": "p@ss"}),
            (Nats(url="nats://t%2F@a"), {"token": "t/"}),
            (Nats(url=url, user="x", password="y%40"), {"user": "x", "password": "y%40"}),
            (Nats(url=url, token="z"), {"token": "z"}),
            (Nats(url="a,b"), {}),
            (Nats(url="nats://u:p@a,nats://v:q@b"), {}),  # each server its own: by the URLs
        ):
            options = Servers(config).options("n")
            given = {
                name: options[name] for name in ("user", "password", "token") if name in options
            }
            self.assertEqual(given, expected, config.url)

    def test_different_credentials(self):
        """Where servers have different ones, nats-py sends each its own, decoded."""
        client = NatsClient()
        client._setup_server_pool(["nats://u%3A:p%2F@a:1", "tls://t%40@b", "c"])
        found = [(each.uri.hostname, each.uri.port, each.uri.username, each.uri.password)
                 for each in client._server_pool]  # fmt: skip
        self.assertEqual(
            found, [("a", 1, "u:", "p/"), ("b", 4222, "t@", None), ("c", 4222, None, None)]
        )
        server = client._server_pool[0]
        self.assertEqual(server.uri._replace(netloc="x%40@d").username, "x@")

    def test_private_names(self):
        """What is overridden of nats-py is there."""
        self.assertEqual(Client._parse_server_uri("h").port, 4222)


class OrderTests(SynchronousTestCase):
    def test_a_ping_goes_behind_what_was_published(self):
        """The pong of a flush says that the broker has had everything before it."""
        got = []

        async def serve(reader, writer):
            writer.write(b'INFO {"server_id":"x","version":"2.10.0","proto":1,"headers":true}\r\n')
            while line := await reader.readline():
                got.append(line.split()[0])
                if line == b"PING\r\n":
                    writer.write(b"PONG\r\n")

        async def run():
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            client = NatsClient()
            await client.connect(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            got.clear()
            await client.publish("a", b"x")
            await client.flush(timeout=10)
            await client.close()
            server.close()

        asyncio.run(run())
        self.assertEqual(got[:3], [b"PUB", b"x", b"PING"])
