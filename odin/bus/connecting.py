"""What nats-py is told about the servers: addresses, credentials, TLS and pauses."""

import random
import ssl
from typing import Any
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Client

from odin.config import Nats


class Servers:
    """The servers of `nats.url`, and how to connect to them."""

    def __init__(self, config: Nats) -> None:
        self._config = config

    @property
    def names(self) -> str:
        """The servers, for a log."""
        return ", ".join(server_names(self._config.url))

    def options(self, name: str) -> dict[str, Any]:
        """The arguments of nats-py's `connect`, without the callbacks. `name`: of this client."""
        config = self._config
        options: dict[str, Any] = {
            "servers": [each.strip() for each in config.url.split(",") if each.strip()],
            "name": name,
            "allow_reconnect": True,
            "connect_timeout": 2,
            "max_reconnect_attempts": config.max_reconnects,
            "reconnect_time_wait": self.pause_s(),
            "reconnect_to_server_handler": self.choose,
            "ping_interval": config.ping_interval_ms / 1000,
            "max_outstanding_pings": config.max_pings_out,
        }
        for option, value in (
            ("user", config.user),
            ("password", config.password),
            ("token", config.token),
            ("user_credentials", config.credentials_file),
            ("tls", self._tls()),
        ):
            if value:
                options[option] = value
        return options

    def choose(self, servers: list[Any], _info: dict[str, Any]) -> tuple[Any, float]:
        """The server to try next, and how long to wait before: at once when it was not tried."""
        server = min(servers, key=lambda each: each.reconnects)
        jitter_s = random.random() * self._config.reconnect_jitter_ms / 1000
        return server, jitter_s if not server.reconnects else self.pause_s()

    def pause_s(self) -> float:
        """How long to wait before the next attempt: another time for each process."""
        config = self._config
        jitter_ms = random.random() * config.reconnect_jitter_ms
        return (config.reconnect_wait_ms + jitter_ms) / 1000

    def _tls(self) -> ssl.SSLContext | None:
        config = self._config
        if not (config.tls_ca_file or config.tls_cert_file):
            return None
        context = ssl.create_default_context(cafile=config.tls_ca_file or None)
        if config.tls_cert_file:
            context.load_cert_chain(config.tls_cert_file, config.tls_key_file or None)
        return context


def server_names(url: str) -> list[str]:
    """host:port of each server in a URL list, without the credentials."""
    names = []
    for each in url.split(","):
        parts = urlsplit(each if "//" in each else f"nats://{each}")
        names.append(f"{parts.hostname}:{parts.port or 4222}")
    return names


async def publish_once(url: str, subject: str, payload: bytes) -> None:
    """Connect, publish one message, and leave; for tools.

    Raises: OSError when no server can be reached.
    """
    client = Client()

    async def ignore(_error: Exception) -> None:
        pass

    try:
        await client.connect(
            url.split(","),
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            error_cb=ignore,
        )
    except (nats.errors.Error, OSError, TimeoutError):
        raise ConnectionError(f"no NATS server at {', '.join(server_names(url))}") from None
    await client.publish(subject, payload)
    await client.flush()
    await client.close()
