"""`odin upgrade`, `odin drain`: ask a running server, at its internal listener on this machine."""

import argparse
import contextlib
import json
import sys
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

_PATIENCE_S = 180


def ask(url: str, what: str) -> tuple[int, dict[str, Any]]:
    """(HTTP status, answer) of a POST.

    Raises: OSError, HTTPException, ValueError when nobody answers, or nothing like Odin.
    """
    request = urllib.request.Request(f"{url.rstrip('/')}/{what}", b"", method="POST")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_PATIENCE_S) as answer:
            return answer.status, _object(answer.status, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _object(error.code, error.read())


def _object(status: int, body: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        found = json.loads(body)
        if isinstance(found, dict):
            return found
    raise ValueError(f"no answer of Odin (HTTP status {status})")


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
    except (OSError, ValueError, HTTPException) as error:
        sys.exit(
            f"odin: {arguments.url}: {getattr(error, 'reason', '') or str(error) or repr(error)}"
        )
    if status == 200 and "clients" in answer:
        print(f"{answer['clients']} clients handed over in {answer.get('seconds')} s")
    elif status == 202:
        print("the server stops")
    elif status == 404:
        needs = "needs --workers" if arguments.command == "upgrade" else "not there"
        sys.exit(f"odin: {needs}")
    else:
        problem = answer.get("error")
        message = problem.get("message") if isinstance(problem, dict) else None
        sys.exit(f"odin: {answer.get('reason') or message or f'HTTP status {status}'}")


if __name__ == "__main__":
    main()
