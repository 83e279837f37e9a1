"""`make compliance`: run the Autobahn Testsuite against `/echo` of a server of its own.

With the command in the environment variable WSTEST (`WSTEST --url URL --cases LIST --outdir DIR`,
exit status 0 if all pass), else with the official Docker image.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

_IMAGE: Final = "crossbario/autobahn-testsuite"
_PORT: Final = re.compile(r"Odin listens on [^ ]*:(\d+)")


def main() -> None:
    """Exit status 0 if no case failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default="*", help="comma-separated, with * [all]")
    parser.add_argument("--out", type=Path, default=Path("bench-results/compliance"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"LIMITS_MESSAGES_PER_SECOND": "0"}
    twistd = str(Path(sys.executable).with_name("twistd"))
    command = [twistd, "-n", "--pidfile=", "odin", "--host", "127.0.0.1", "--port", "0"]
    server = subprocess.Popen(
        [*command, "--nats-url", "memory://", "--echo"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        url = f"ws://127.0.0.1:{_port(server)}/echo"
        tester = os.environ.get("WSTEST")
        if tester:
            status = _run_command(tester, url, arguments.cases, arguments.out)
        else:
            status = _run_image(url, arguments.cases, arguments.out)
    finally:
        server.terminate()
        server.wait(15)
    sys.exit(status)


def _port(server: "subprocess.Popen[str]") -> int:
    assert server.stdout is not None
    for line in server.stdout:
        found = _PORT.search(line)
        if found:
            return int(found[1])
    raise SystemExit("the server did not start")


def _run_command(tester: str, url: str, cases: str, out: Path) -> int:
    command = [*shlex.split(tester), "--url", url, "--outdir", str(out)]
    return subprocess.run([*command, "--cases", cases], check=False).returncode


def _run_image(url: str, cases: str, out: Path) -> int:
    spec = {
        "outdir": "/reports",
        "servers": [{"agent": "odin", "url": url}],
        "cases": cases.split(","),
        "exclude-cases": [],
    }
    (out / "spec.json").write_text(json.dumps(spec))
    image = ["docker", "run", "--rm", "--network=host", "-v", f"{out.resolve()}:/reports", _IMAGE]
    tester = ["wstest", "-m", "fuzzingclient", "-s", "/reports/spec.json"]
    done = subprocess.run([*image, *tester], check=False)
    if done.returncode:
        return done.returncode
    verdicts = json.loads((out / "index.json").read_text())["odin"]
    bad = [
        f"{case}: {verdict['behavior']}, close {verdict['behaviorClose']}"
        for case, verdict in sorted(verdicts.items())
        if {verdict["behavior"], verdict["behaviorClose"]} - {"OK", "INFORMATIONAL"}
    ]
    print("\n".join([*bad, f"{len(verdicts) - len(bad)} passed, {len(bad)} failed"]))
    return 1 if bad else 0


if __name__ == "__main__":
    main()
