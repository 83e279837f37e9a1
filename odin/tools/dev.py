"""`make dev`: run `twistd -n odin ...` and start it again whenever a source file changes."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

_LOOK_EVERY_S: Final = 0.5
_STOP_WITHIN_S: Final = 12
_SUFFIXES: Final = (".py", ".html", ".json")


def main() -> None:
    """Arguments after `--` go to odin."""
    arguments = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    command = [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "odin"]
    seen = _newest()
    process = subprocess.Popen([*command, *arguments])
    try:
        while True:
            time.sleep(_LOOK_EVERY_S)
            newest = _newest()
            if newest != seen:
                seen = newest
                print("odin: a source file changed, starting again", flush=True)
                _stop(process)
                process = subprocess.Popen([*command, *arguments])
            elif process.poll() is not None:
                print("odin: ended; waiting for a change", flush=True)
                while _newest() == seen:
                    time.sleep(_LOOK_EVERY_S)
    except KeyboardInterrupt:
        pass
    finally:
        _stop(process)


def _newest() -> float:
    """When the latest change of a source file was."""
    package = Path(__file__).resolve().parent.parent
    roots = (package, package.parent / "twisted", package.parent / "etc")
    files = (each for root in roots for each in root.rglob("*") if each.suffix in _SUFFIXES)
    return max((each.stat().st_mtime for each in files if each.is_file()), default=0.0)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
