"""What nats-py is told about the servers: addresses, credentials, TLS and pauses."""

import asyncio
import random
import ssl
from typing import Any, Final
from urllib.parse import ParseResult, unquote

import nats.errors
from nats.aio.client import Client

from odin.bus import addresses, files
from odin.config import Nats
from odin.errors import BadFile

_PING: Final = b"PING\r\n"
_MIN_PAUSE_S: Final = 0.05  # between attempts, whatever is configured: 0 and 0 took a whole CPU


class Servers:
    """The servers of `nats.url`, and how to connect to them."""

    def __init__(self, config: Nats) -> None:
        self._config = config
        self.names = ", ".join(addresses.names(config.url))  # for a log

    def options(self, name: str) -> dict[str, Any]:
        """The arguments of nats-py's `connect`, without the callbacks. `name`: of this client.

        Raises: BadFile.
        """
        config = self._config
        options: dict[str, Any] = {
            "servers": addresses.split(config.url),
            "name": name,
            "allow_reconnect": True,
            "connect_timeout": 2,
            "max_reconnect_attempts": config.max_reconnects,
            "reconnect_time_wait": self.pause_s(),
            "reconnect_to_server_handler": self.choose,
            "ping_interval": config.ping_interval_ms / 1000,
            "max_outstanding_pings": config.max_pings_out,
        }
        if tls := files.tls_context(config):
            options["tls"] = tls
        return options | self._credentials()

    def _credentials(self) -> dict[str, Any]:
        """Those of their own settings, else those in the URLs.

        Where all URLs have the same, servers that the cluster tells us about get them, too. Where
        they differ, nats-py takes each server's own (UrlCredentials).
        """
        config = self._config
        given: dict[str, Any] = {
            option: value
            for option, value in (
                ("user", config.user),
                ("password", config.password),
                ("token", config.token),
            )
            if value
        }
        if config.credentials_file:
            given["user_credentials"] = files.Credentials(config.credentials_file)
        if not given and (common := addresses.credentials(config.url)):
            user, password = common
            given = {"token": user} if password is None else {"user": user, "password": password}
        return given

    def choose(self, servers: list[Any], _info: dict[str, Any]) -> tuple[Any, float]:
        """The server to try next, and how long to wait before: at once when it was not tried."""
        server = min(servers, key=lambda each: each.reconnects)
        jitter_s = random.random() * self._config.reconnect_jitter_ms / 1000
        return server, jitter_s if not server.reconnects else self.pause_s()

    def pause_s(self) -> float:
        """How long to wait before the next attempt: another time for each process."""
        config = self._config
        jitter_ms = random.random() * config.reconnect_jitter_ms
        return max((config.reconnect_wait_ms + jitter_ms) / 1000, _MIN_PAUSE_S)


class NatsClient(Client):  # type: ignore[misc] # nats-py has no types
    """A client of nats-py with two of its habits mended.

    Credentials in a URL are percent-encoded, as in any URL; and a ping goes behind what was
    published before it. (nats-py writes it in front, and the pong proves nothing.)
    """

    @staticmethod
    def _parse_server_uri(url: str) -> ParseResult:
        return _Decoded(*Client._parse_server_uri(url))

    async def _send_ping(self, future: "asyncio.Future[bool] | None" = None) -> None:
        self._pongs.append(future or asyncio.get_running_loop().create_future())
        await self._send_command(_PING)
        await self._flush_pending()


class _Decoded(ParseResult):
    @property
    def username(self) -> str | None:
        return _decoded(super().username)

    @property
    def password(self) -> str | None:
        return _decoded(super().password)


def _decoded(text: str | None) -> str | None:
    return None if text is None else unquote(text)


async def publish_once(config: Nats, subject: str, payload: bytes) -> None:
    """Connect, publish one message, and leave once the broker has it; for tools.

    Raises: OSError, which says what went wrong.
    """
    client, servers = NatsClient(), Servers(config)
    errors: list[Exception] = []

    async def failed(error: Exception) -> None:
        errors.append(error)

    once = {"allow_reconnect": False, "max_reconnect_attempts": 1, "reconnect_time_wait": 0}
    try:
        await client.connect(**servers.options("odin-publish") | once, error_cb=failed)
    except (nats.errors.Error, OSError, TimeoutError) as error:
        raise ConnectionError(_what_failed(servers.names, [*errors, error])) from None
    try:
        await client.publish(subject, payload)
        await client.flush()
    except nats.errors.Error as error:
        errors.append(error)
    finally:
        await client.close()
    if errors:
        raise ConnectionError(f"{servers.names} did not take the message: {errors[0]}")


def _what_failed(names: str, errors: list[Exception]) -> str:
    """Of all that happened at the servers, what helps most: an answer before a silence."""
    for error in errors:
        if isinstance(error, BadFile):
            return str(error)
        if isinstance(error, ssl.SSLError):
            return f"no TLS with {names}: {error}"
        if isinstance(error, nats.errors.Error) and "'" in str(error):  # as the server put it
            return f"{names} refused the connection: {error}"
    return f"no NATS server at {names} ({errors[0] or type(errors[0]).__name__})"
