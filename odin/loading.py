"""Settings from file, environment and options; each value that is given is validated.

Precedence, highest first: command line, environment, file, default. A value that cannot be used
stops the start with one line that names where it came from, its key, the value and what is
allowed: also a value that another one overrides.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import msgspec

from odin import checks
from odin.bus import addresses
from odin.config import (
    Auth,
    Config,
    Delivery,
    JetStream,
    Limits,
    Metrics,
    Nats,
    Section,
    Server,
    Websocket,
)
from odin.errors import ConfigError

_SECTIONS: Final[dict[str, type[Section]]] = {
    "server": Server,
    "websocket": Websocket,
    "nats": Nats,
    "nats.jetstream": JetStream,
    "auth": Auth,
    "metrics": Metrics,
    "limits": Limits,
    "delivery": Delivery,
}
_SECRET: Final = frozenset(("auth.jwtSecret", "nats.password", "nats.token", "nats.url"))
# Where the value of a key that does not exist may be a secret all the same.
_SECRET_WORDS: Final = ("secret", "passw", "token", "key", "cred", "url", "auth")
_SECRET_SECTIONS: Final = ("auth.", "nats.")
_MASK: Final = '"********"'
# Names that users of the Go server set, beside the systematic <SECTION>_<KEY>.
_ALIASES: Final = {
    "JWT_SECRET": "auth.jwtSecret",
    "REQUIRE_AUTH": "auth.requireAuth",
    "ENABLE_PROMETHEUS": "metrics.enablePrometheus",
}


class _Given(NamedTuple):
    """One value of a setting, before it is looked at."""

    value: Any
    source: str
    is_text: bool  # to be parsed


_NOT_GIVEN: Final = _Given(None, "default", is_text=False)
_Values = dict[str, list[_Given]]  # of each key; the last one counts


def load(
    *,
    path: str | None = None,
    environment: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    demo: bool = False,
    echo: bool = False,
    endpoints: Iterable[str] = (),
) -> Config:
    """The configuration from a file, the environment and `section.key` options.

    Raises: ConfigError.
    """
    environment = os.environ if environment is None else environment
    production = _production(environment)
    values: _Values = {}

    def give(key: str, value: Any, source: str, *, is_text: bool = True) -> None:
        values.setdefault(key, []).append(_Given(value, source, is_text))

    if path is not None:
        for key, value in _from_file(path).items():
            give(key, value, path, is_text=False)
    for key, value, name in _from_environment(environment):
        give(key, value, f"environment {name}")
    for key, value in (options or {}).items():
        give(key, value, "command line")
    embedded, url = (values.get(key, [_NOT_GIVEN])[-1] for key in ("nats.embedded", "nats.url"))
    has_broker = str(embedded.value).lower() in ("true", "yes", "on", "1")
    if demo and not has_broker and url.source in (path, "default"):
        give("nats.url", "", "--demo")  # the file's broker is not for a demo
    sections: dict[str, Any] = {
        name: _section(name, section, values) for name, section in _SECTIONS.items()
    }
    jetstream = sections.pop("nats.jetstream")
    sections["nats"] = msgspec.structs.replace(sections["nats"], jetstream=jetstream)
    config = Config(
        **sections,
        production=production,
        demo=demo,
        echo=echo,
        endpoints=tuple(endpoints),
        sources={key: given[-1].source for key, given in values.items()},
    )

    def refuse(key: str, value: Any, allowed: str) -> NoReturn:
        _refuse(config.sources.get(key, "default"), key, value, allowed)

    checks.check(config, refuse)
    return config


def describe(config: Config) -> str:
    """Every setting as JSON lines `key = value  (source)`, secrets masked."""
    lines = []
    for section, struct in _SECTIONS.items():
        for key, attribute in _keys(struct):
            full = f"{section}.{key}"
            value = attrgetter(f"{section}.{attribute}")(config)
            source = config.sources.get(full, "default")
            lines.append(f"{full} = {_shown(full, value)}  ({source})")
    lines.append(f"production = {json.dumps(config.production)}  (environment ODIN_ENV)")
    for endpoint in config.endpoints:
        lines.append(f"endpoint = {json.dumps(endpoint)}  (command line)")
    lines.append(f"demo = {json.dumps(config.demo)}  (command line)")
    return "\n".join(lines)


def environment_names() -> dict[str, str]:
    """Environment name -> `section.key`, all of them."""
    names = {
        f"{section}_{_snake(key)}".replace(".", "_").upper(): f"{section}.{key}"
        for section, struct in _SECTIONS.items()
        for key, _attribute in _keys(struct)
    }
    return names | _ALIASES


def _keys(struct: type[Section]) -> list[tuple[str, str]]:
    """(name in the file, attribute) of each setting in a section, inner sections left out."""
    inner = _SECTIONS.values()
    fields = msgspec.structs.fields(struct)
    return [(each.encode_name, each.name) for each in fields if each.type not in inner]


def _snake(key: str) -> str:
    return "".join(f"_{c}" if c.isupper() else c for c in key)


def _production(environment: Mapping[str, str]) -> bool:
    mode = environment.get("ODIN_ENV", "").strip().lower()
    if mode not in ("", "development", "dev", "production"):
        raise ConfigError(f"environment ODIN_ENV: {mode!r}: production or development is allowed")
    return mode == "production"


def _from_file(path: str) -> dict[str, Any]:
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: must hold one JSON object of sections")
    values: dict[str, Any] = {}
    for section, content in document.items():
        if section not in _SECTIONS or "." in section:
            allowed = ", ".join(each for each in _SECTIONS if "." not in each)
            raise ConfigError(f"{path}: unknown key {section!r}; allowed are: {allowed}")
        _take_section(path, section, content, values)
    return values


def _take_section(path: str, section: str, content: Any, values: dict[str, Any]) -> None:
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: {section}: must be an object of settings")
    known = [each.encode_name for each in msgspec.structs.fields(_SECTIONS[section])]
    for key, value in content.items():
        full = f"{section}.{key}"
        if key not in known:
            raise ConfigError(
                f"{path}: unknown key {json.dumps(full)} = {_guessed(full, value)}; "
                f"allowed in {section} are: {', '.join(known)}"
            )
        if full in _SECTIONS:
            _take_section(path, full, value, values)
        else:
            values[full] = value


def _from_environment(environment: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(key, text, name of the variable) of all that are set; the last of a key counts."""
    values = [
        (key, environment[name], name)
        for name, key in environment_names().items()
        if name in environment
    ]
    secret_file = environment.get("JWT_SECRET_FILE")
    if secret_file:
        try:
            secret = Path(secret_file).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigError(
                f"environment JWT_SECRET_FILE: {secret_file!r} cannot be read: {why}"
            ) from None
        values.append(("auth.jwtSecret", secret, "JWT_SECRET_FILE"))
    return values


def _section(name: str, struct: type[Section], values: _Values) -> Section:
    """The section with the last value of each setting; all of them are checked."""
    settings: dict[str, Any] = {}
    for each in msgspec.structs.fields(struct):
        key = f"{name}.{each.encode_name}"
        for value, source, is_text in values.get(key, ()):
            try:
                parsed = _parsed(value, each.type) if is_text else value
                setting = msgspec.convert(parsed, each.type, strict=not is_text)
            except msgspec.ValidationError as error:
                _refuse(source, key, value, str(error))
            if problem := checks.problem(key, setting):
                _refuse(source, key, *problem)
            settings[each.name] = setting
    return struct(**settings)


def _refuse(source: str, key: str, value: Any, allowed: str) -> NoReturn:
    raise ConfigError(f"{source}: {key}: {_shown(key, value)}: {allowed}")


def _parsed(text: Any, wanted: Any) -> Any:
    """What an environment variable or option holds, as far as its text does not show the type."""
    if not isinstance(text, str):
        return text
    if "tuple" in str(wanted):
        if text.lstrip().startswith("["):
            try:
                return json.loads(text)
            except ValueError as error:
                raise msgspec.ValidationError(f"not valid JSON: {error}") from None
        return [each.strip() for each in text.split(",") if each.strip()]
    if not text.strip() and ("None" in str(wanted) or "Optional" in str(wanted)):
        return None
    if wanted is bool:
        return {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(
            text.strip().lower(), text.strip()
        )
    return text


def _guessed(key: str, value: Any) -> str:
    """The value of a key that does not exist: masked if it may be a secret all the same."""
    secret = (
        key.startswith(_SECRET_SECTIONS)
        or any(word in key.lower() for word in _SECRET_WORDS)
        or isinstance(value, dict | list)
        or "@" in str(value)
    )
    return _MASK if value and secret else _shown(key, value)


def _shown(key: str, value: Any) -> str:
    """A value as it may be printed: secrets masked, credentials in a URL too."""
    if key == "nats.url" and isinstance(value, str):
        return json.dumps(addresses.masked(value))
    if key == "auth.jwksUrl" and isinstance(value, str):
        value = _without_credentials(value)
    if value and (key in _SECRET or (isinstance(value, str) and "PRIVATE KEY" in value)):
        return _MASK
    text = json.dumps(list(value) if isinstance(value, tuple) else value, default=str)
    return text if len(text) <= 200 else text[:197] + "..."


def _without_credentials(url: str) -> str:
    """A URL to be printed: user and password, query and fragment hidden, rather too much."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        scheme, rest = "", url
    _user, at, place = rest.rpartition("@")
    shown = re.split(r"(?<=[?#])", place, maxsplit=1)
    return f"{scheme}{mark}{at and '********@'}{shown[0]}{'********' * (len(shown) > 1)}"
