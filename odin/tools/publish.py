"""`odin-publish SUBJECT JSON`: put one message on NATS."""

import argparse
import asyncio
import sys

from odin.bus.connecting import publish_once
from odin.errors import NotJSON
from odin.wire.messages import feed_nonce
from odin.wire.subjects import is_subject


def main() -> None:
    """Exit status 0 once the broker has the message."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nats", default="nats://localhost:4222", help="servers [%(default)s]")
    parser.add_argument("subject", help="odin.token.BTC.price, say")
    parser.add_argument("json", help="the message; - reads it from standard input")
    arguments = parser.parse_args()
    payload = (sys.stdin.read() if arguments.json == "-" else arguments.json).encode()
    if not is_subject(arguments.subject):
        parser.error(f"{arguments.subject!r} is not a subject")
    try:
        feed_nonce(payload)
    except NotJSON as error:
        parser.error(str(error))
    try:
        asyncio.run(publish_once(arguments.nats, arguments.subject, payload))
    except OSError as error:
        sys.exit(f"odin-publish: {error}")


if __name__ == "__main__":
    main()
