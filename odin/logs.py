"""Log observers: text for people, one JSON object a line for machines."""

import os
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
)
from twisted.python.logfile import LogFile
from zope.interface import provider

from odin.errors import ConfigError
from odin.wire.messages import encode

FORMATS: Final = ("text", "json")


def observer(
    format_: str, path: str | None, worker: int | None = None, opened: int | None = None
) -> ILogObserver:
    """An observer for info and above; `path` None or `-` is standard output.

    `worker`: the number of this process, which each line then tells. `opened`: a descriptor of the
    file, which is taken where this process may not open it.

    Raises: OSError.
    """
    output: Any = sys.stdout if path in (None, "", "-") else _file(str(path), opened)
    level = LogLevelFilterPredicate(defaultLogLevel=LogLevel.info)
    make = _json_observer if format_ == "json" else _text_observer
    inner = make(output, worker)
    filtered: ILogObserver = FilteringLogObserver(inner, [level])
    return filtered


def open_file(path: str) -> int:
    """A descriptor of a log file, to append to. Raises: ConfigError."""
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise ConfigError(f"cannot write the log {path}: {error.strerror}") from None


def _file(path: str, opened: int | None) -> Any:
    """A file that is rotated, where its folder can be written; as Twisted does it."""
    try:
        file = LogFile.fromFullPath(path)
    except OSError:
        if opened is None:
            raise
        return open(opened, "a", encoding="utf-8")
    if opened is not None:
        os.close(opened)
    return file


def worker_file(path: str, worker: int) -> str:
    """Where a worker logs to: beside the supervisor's file, `odin.log` -> `odin.0.log`."""
    stem, extension = os.path.splitext(path)
    return f"{stem}.{worker}{extension}"


def _text_observer(output: TextIO, worker: int | None) -> ILogObserver:
    who = "" if worker is None else f"worker {worker} "

    def format_line(event: LogEvent) -> str:
        fields = _fields(event)
        failure = fields.pop("failure", "")
        line = "{time} [{who}{system}#{level}] {message}".format(who=who, **fields)
        return line + ("\n" + failure.rstrip() if failure else "") + "\n"

    return FileLogObserver(output, format_line)


def _json_observer(output: TextIO, worker: int | None) -> ILogObserver:
    more = {} if worker is None else {"worker": worker}

    def format_line(event: LogEvent) -> str:
        return encode(more | _fields(event)).decode() + "\n"

    return FileLogObserver(output, format_line)


def _fields(event: LogEvent) -> dict[str, str]:
    """What is logged of an event: never its raw fields, which may hold anything."""
    when = event.get("log_time", 0.0)
    level = event.get("log_level")
    fields = {
        "time": datetime.fromtimestamp(when, UTC).isoformat(timespec="milliseconds"),
        "level": level.name if level is not None else "info",
        "system": str(event.get("log_namespace", "-")),
        "message": _printable(formatEvent(event)),
    }
    failure = event.get("log_failure")
    if failure is not None:
        fields["failure"] = failure.getTraceback()
    return fields


def _printable(text: str) -> str:
    """No line breaks and no terminal controls: what a client sent may be part of it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


@provider(ILogObserver)
def silent(_event: LogEvent) -> None:
    """An observer for commands that print something else."""
