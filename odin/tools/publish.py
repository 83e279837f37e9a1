"""`odin-publish SUBJECT JSON`: put one message on NATS."""

import argparse
import asyncio
import logging
import os
import sys
from typing import Final

from odin import loading
from odin.bus.connecting import publish_once
from odin.config import Nats, uses_memory_bus
from odin.errors import ConfigError, NotJSON
from odin.wire.messages import read_payload
from odin.wire.subjects import is_subject

_SETTINGS: Final = (
    "url", "user", "password", "token", "credentialsFile", "tlsCaFile", "tlsCertFile", "tlsKeyFile",
)  # fmt: skip


def main() -> None:
    """Exit status 0 once the broker has the message."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Credentials and TLS come from the server's variables: NATS_USER, NATS_PASSWORD, "
        "NATS_TOKEN, NATS_CREDENTIALS_FILE, NATS_TLS_CA_FILE, NATS_TLS_CERT_FILE, "
        "NATS_TLS_KEY_FILE.",
    )
    parser.add_argument("--nats", help=f"servers [NATS_URL, or {Nats().url}]")
    parser.add_argument("subject", help="odin.token.BTC.price, say")
    parser.add_argument("json", help="the message; - reads it from standard input")
    arguments = parser.parse_args()
    payload = (sys.stdin.read() if arguments.json == "-" else arguments.json).encode()
    if not is_subject(arguments.subject):
        parser.error(f"{arguments.subject!r} is not a subject")
    try:
        read_payload(payload)
    except NotJSON as error:
        parser.error(str(error))
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # warns of TLS connections that end
    try:
        asyncio.run(publish_once(_servers(arguments.nats), arguments.subject, payload))
    except (ConfigError, OSError) as error:
        sys.exit(f"odin-publish: {error}")


def _servers(url: str | None) -> Nats:
    """The server's settings of the broker, and only those. Raises: ConfigError."""
    environment = {
        name: os.environ[name]
        for name, key in loading.environment_names().items()
        if name in os.environ and key.removeprefix("nats.") in _SETTINGS
    }
    options = {} if url is None else {"nats.url": url}
    config = loading.load(environment=environment, options=options)
    if uses_memory_bus(config):
        raise ConfigError(f"{config.sources.get('nats.url')}: nats.url: names no server")
    return config.nats


if __name__ == "__main__":
    main()
