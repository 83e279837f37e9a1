"""Settings from file, environment and options; each validated once.

Precedence, highest first: command line, environment, file, default. A value that cannot be used
stops the start with one line that names where it came from, its key, the value and what is
allowed.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_network
from operator import attrgetter
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from odin.access.tokens import ASYMMETRIC, HMAC
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
    uses_memory_bus,
)
from odin.errors import ConfigError
from odin.wire.subjects import is_pattern

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
_KEYS: Final = frozenset(
    f"{name}.{each.encode_name}"
    for name, section in _SECTIONS.items()
    for each in msgspec.structs.fields(section)
    if f"{name}.{each.encode_name}" not in _SECTIONS
)
_SECRET: Final = frozenset(("auth.jwtSecret", "nats.password", "nats.token", "nats.url"))
# Names that users of the Go server set, beside the systematic <SECTION>_<KEY>.
_ALIASES: Final = {
    "JWT_SECRET": "auth.jwtSecret",
    "REQUIRE_AUTH": "auth.requireAuth",
    "ENABLE_PROMETHEUS": "metrics.enablePrometheus",
}
_MIN_SECRET_BYTES: Final = 32  # RFC 7518 3.2: a key as long as the hash, for HS256
_SAMPLE_WORDS: Final = (
    "changeme", "change-me", "change_me", "change this", "change-this", "your-", "your_",
    "example", "sample", "placeholder", "default-secret", "super-secret", "supersecret", "insecure",
)  # fmt: skip


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
    values: dict[str, tuple[Any, str, bool]] = {}  # key -> value, source, is text to be parsed
    if path is not None:
        for key, value in _from_file(path).items():
            values[key] = value, path, False
    for key, (value, name) in _from_environment(environment).items():
        values[key] = value, f"environment {name}", True
    for key, value in (options or {}).items():
        values[key] = value, "command line", True
    embedded = str(values.get("nats.embedded", ("",))[0]).lower() in ("true", "yes", "on", "1")
    # the file's broker is not for a demo
    if demo and not embedded and values.get("nats.url", (None, path))[1] == path:
        values["nats.url"] = "", "--demo", False
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
        sources={key: source for key, (_value, source, _text) in values.items()},
    )
    _check(config)
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
                f"{path}: unknown key '{full}' = {_shown(full, value)}; "
                f"allowed in {section} are: {', '.join(known)}"
            )
        if full in _SECTIONS:
            _take_section(path, full, value, values)
        else:
            values[full] = value


def _from_environment(environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    values = {
        key: (environment[name], name)
        for name, key in environment_names().items()
        if name in environment
    }
    secret_file = environment.get("JWT_SECRET_FILE")
    if secret_file:
        try:
            secret = Path(secret_file).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"environment JWT_SECRET_FILE: {secret_file!r} cannot be read: {error}"
            ) from None
        values["auth.jwtSecret"] = secret, "JWT_SECRET_FILE"
    return values


def _section(
    name: str, struct: type[Section], values: Mapping[str, tuple[Any, str, bool]]
) -> Section:
    settings: dict[str, Any] = {}
    for each in msgspec.structs.fields(struct):
        key = f"{name}.{each.encode_name}"
        if key not in values:
            continue
        value, source, is_text = values[key]
        try:
            parsed = _parsed(value, each.type) if is_text else value
            settings[each.name] = msgspec.convert(parsed, each.type, strict=not is_text)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{source}: {key}: {_shown(key, value)}: {error}") from None
    return struct(**settings)


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


def _shown(key: str, value: Any) -> str:
    """A value as it may be printed: secrets masked, credentials in a URL too."""
    if key == "nats.url" and isinstance(value, str):
        return json.dumps(",".join(map(_without_credentials, value.split(","))))
    misspelt = key not in _KEYS and key.startswith(
        ("auth.", "nats.")
    )  # may be a secret all the same
    if value and (key in _SECRET or misspelt):
        return '"********"'
    text = json.dumps(list(value) if isinstance(value, tuple) else value, default=str)
    return text if len(text) <= 200 else text[:197] + "..."


def _without_credentials(url: str) -> str:
    scheme, mark, rest = url.rpartition("://")
    _credentials, at, host = rest.rpartition("@")
    return f"{scheme}{mark}********@{host}" if at else url


def _check(config: Config) -> None:
    """What one value alone does not show. Raises: ConfigError."""
    auth, sources = config.auth, config.sources

    def refuse(key: str, value: Any, allowed: str) -> None:
        source = sources.get(key, "default")
        raise ConfigError(f"{source}: {key}: {_shown(key, value)}: {allowed}")

    for key, patterns in (
        ("nats.subjects", config.nats.subjects),
        ("nats.jetstream.subjects", config.nats.jetstream.subjects),
        ("delivery.conflate", config.delivery.conflate),
    ):
        for pattern in patterns:
            if not is_pattern(pattern):
                refuse(key, pattern, "not a NATS subject (a.b, a.*, a.>)")
    _check_workers(config, refuse)
    if config.nats.jetstream.stream and uses_memory_bus(config) and not config.demo:
        refuse("nats.jetstream.stream", config.nats.jetstream.stream, "needs a broker: nats.url")
    for network in config.server.trusted_proxies:
        if not _holds(ip_network, network, strict=False):
            refuse("server.trustedProxies", network, "an address or network (10.0.0.0/8)")
    for algorithm in auth.algorithms:
        if algorithm not in HMAC | ASYMMETRIC:
            refuse("auth.algorithms", algorithm, f"one of {', '.join(sorted(HMAC | ASYMMETRIC))}")
    reserved = ("/", "/health", "/livez", "/readyz", "/stats", "/publish", "/auth/token")
    if config.websocket.path in reserved:
        refuse("websocket.path", config.websocket.path, "is taken by another endpoint")
    if config.metrics.metrics_path in (*reserved, config.websocket.path):
        refuse("metrics.metricsPath", config.metrics.metrics_path, "is taken by another endpoint")
    if auth.require_auth and config.production:
        _check_secret(auth, refuse)


def _check_workers(config: Config, refuse: Callable[[str, Any, str], None]) -> None:
    workers, nats = config.server.workers, config.nats
    if nats.embedded and uses_memory_bus(config):
        refuse("nats.embedded", True, "needs the address it is to listen at: nats.url")
    if nats.embedded and embedded_address(nats.url) is None:
        refuse("nats.url", nats.url, "an embedded server listens at one loopback address only")
    if worker_count(config) > 1:
        if uses_memory_bus(config):
            refuse(
                "server.workers", workers, "workers need NATS between them: nats.url, or "
                "--embedded-nats to have one started",
            )  # fmt: skip
        for endpoint in config.endpoints:
            if endpoint.startswith("unix:"):
                refuse("--endpoint", endpoint, "workers cannot share a UNIX socket")


def worker_count(config: Config) -> int:
    """How many worker processes there are to be; 0 = this process does it all."""
    wanted = config.server.workers
    if wanted == "auto":
        return len(os.sched_getaffinity(0))
    return wanted or int(config.nats.embedded)


def embedded_address(url: str) -> tuple[str, int] | None:
    """(address, port) for an embedded nats-server; None if the URL is not one loopback address."""
    try:
        parts = urlsplit(url if "//" in url else f"nats://{url}")
        host, port = parts.hostname or "", parts.port or 4222
    except ValueError:
        return None
    if parts.scheme != "nats" or parts.username or "," in url:
        return None
    return ("127.0.0.1", port) if host in ("localhost", "127.0.0.1") else None


def _check_secret(auth: Auth, refuse: Callable[[str, Any, str], None]) -> None:
    secret = auth.jwt_secret
    if not secret:
        if not auth.jwt_public_key and not auth.jwks_url:
            refuse("auth.jwtSecret", secret, "production with requireAuth needs a secret or a key")
        return
    if len(secret.encode()) < _MIN_SECRET_BYTES:
        refuse("auth.jwtSecret", secret, f"needs at least {_MIN_SECRET_BYTES} bytes")
    if any(word in secret.lower() for word in _SAMPLE_WORDS) or len(set(secret)) < 8:
        refuse("auth.jwtSecret", secret, "is a sample, not a secret")


def _holds(check: Callable[..., object], *args: Any, **kwargs: Any) -> bool:
    try:
        check(*args, **kwargs)
    except ValueError:
        return False
    return True
