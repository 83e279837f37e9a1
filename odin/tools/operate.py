"""`odin upgrade`, `odin drain`: ask a running server, at its internal listener on this machine."""

import argparse
import json
import sys
import urllib.error
import urllib.request
from typing import Any

_PATIENCE_S = 180


def ask(url: str, what: str) -> tuple[int, dict[str, Any]]:
    """(HTTP status, answer) of a POST. Raises: OSError when nobody answers."""
    request = urllib.request.Request(f"{url.rstrip('/')}/{what}", b"", method="POST")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_PATIENCE_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def main() -> None:
    """Exits with 0 when it is done, 1 with the reason when it is not."""
    parser = argparse.ArgumentParser(prog="odin", description=__doc__)
    parser.add_argument(
        "command",
        choices=("upgrade", "drain"),
        help="upgrade: hand all clients over to new workers, with the code and the configuration "
        "that are on disk now; drain: let all clients go, and stop",
    )
    parser.add_argument(
        "--url", default="http://127.0.0.1:9090", help="the internal listener [%(default)s]"
    )
    arguments = parser.parse_args()
    try:
        status, answer = ask(arguments.url, arguments.command)
    except (OSError, ValueError) as error:
        sys.exit(f"odin: {arguments.url}: {getattr(error, 'reason', error)}")
    if status == 200:
        print(f"{answer['clients']} clients handed over in {answer['seconds']} s")
    elif status == 202:
        print("the server stops")
    else:
        problem = answer.get("reason") or answer.get("error", {}).get("message", status)
        if status == 404:
            problem = "needs --workers" if arguments.command == "upgrade" else "not there"
        sys.exit(f"odin: {problem}")


if __name__ == "__main__":
    main()
