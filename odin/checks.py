"""What a setting must be beyond its type: alone, and together with others."""

import re
from collections.abc import Callable, Iterable
from ipaddress import ip_network
from typing import Any, Final

from odin.access.origins import origin_problem
from odin.access.tokens import ASYMMETRIC, HMAC, can_sign
from odin.bus import addresses, files
from odin.config import Auth, Config, uses_memory_bus, worker_count
from odin.errors import BadFile
from odin.wire.subjects import is_pattern

ECHO_PATH: Final = "/echo"

_MIN_SECRET_BYTES: Final = 32  # RFC 7518 3.2: a key as long as the hash, for HS256
_SAMPLE_WORDS: Final = (
    "changeme", "change-me", "change_me", "change this", "change-this", "your-", "your_",
    "example", "sample", "placeholder", "default-secret", "super-secret", "supersecret", "insecure",
)  # fmt: skip
_RESERVED: Final = (
    "/", "/health", "/livez", "/readyz", "/stats", "/publish", "/auth/token", "/drain", "/upgrade",
)  # fmt: skip
# what every client, proxy and server spells alike (RFC 3986 3.3), without percent-encoding
_SEGMENT: Final = r"[A-Za-z0-9._~!$&'()*+,;=:@-]+"
_PATH: Final = re.compile(rf"/|(?:/(?!\.\.?(?:/|\Z)){_SEGMENT})+/?")
_TAKEN: Final = "is taken by another endpoint, or lies beneath or above one"
_WITH_PORT: Final = ("tcp", "tcp4", "tcp6", "ssl", "tls")
_MIN_RATE: Final = 0.001  # one in a quarter of an hour
_MAX_NODE: Final = 100  # characters

Problem = tuple[Any, str] | None  # the part that is wrong, what is allowed
Refuse = Callable[[str, Any, str], None]  # (key, value, what is allowed) -> ConfigError


def problem(key: str, value: Any) -> Problem:
    """What is wrong with one value, whatever the others are."""
    check = _ALONE.get(key)
    return _texts(value) or (check(value) if check is not None else None)


def check(config: Config, refuse: Refuse) -> None:
    """What only several settings together show, and the files that they name."""
    auth = config.auth
    _check_workers(config, refuse)
    if config.nats.jetstream.stream and uses_memory_bus(config) and not config.demo:
        refuse("nats.jetstream.stream", config.nats.jetstream.stream, "needs a broker: nats.url")
    _check_paths(config, refuse)
    for endpoint in config.endpoints:
        _check_endpoint(endpoint, refuse)
    if auth.jwt_secret and not can_sign(auth.jwt_secret):
        refuse("auth.jwtSecret", auth.jwt_secret, "is a public key or no text, not a secret")
    if auth.require_auth and config.production:
        _check_secret(auth, refuse)
    if not uses_memory_bus(config):
        try:
            files.check(config.nats)
        except BadFile as error:
            refuse(error.key, error.path, error.why)


def _patterns(values: Iterable[str]) -> Problem:
    bad = [each for each in values if not is_pattern(each)]
    return (bad[0], "not a NATS subject (a.b, a.*, a.>)") if bad else None


def _networks(values: Iterable[str]) -> Problem:
    for each in values:
        try:
            ip_network(each, strict=False)
        except ValueError:
            return each, "an address or network (10.0.0.0/8)"
    return None


def _origins(values: Iterable[str]) -> Problem:
    for each in values:
        if why := origin_problem(each):
            return each, why
    return None


def _algorithms(values: Iterable[str]) -> Problem:
    known = HMAC | ASYMMETRIC
    bad = [each for each in values if each not in known]
    return (bad[0], f"one of {', '.join(sorted(known))}") if bad else None


def _texts(value: Any) -> Problem:
    """No text that is none: a lone surrogate (bytes of the environment, JSON), or a NUL."""
    for each in value if isinstance(value, tuple) else (value,):
        if isinstance(each, str) and ("\0" in each or _not_utf8(each)):
            return each, "text in UTF-8, without NUL, is allowed"
    return None


def _not_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _path(value: str) -> Problem:
    if not _PATH.fullmatch(value):
        return value, "a path of letters, digits and . _ ~ ! $ & ' ( ) * + , ; = : @ - is allowed"
    return (value, _TAKEN) if any(_clash(value, each) for each in _RESERVED) else None


def _clash(one: str, two: str) -> bool:
    """Whether two paths are the same to a server, or one is a folder of the other."""
    left, right = (each.strip("/").split("/") for each in (one, two))
    return all(a == b for a, b in zip(left, right, strict=False))


def _rate(value: float) -> Problem:
    return (value, f"0, or at least {_MIN_RATE}, is allowed") if 0 < value < _MIN_RATE else None


def _node(value: str) -> Problem:
    if value.isprintable() and len(value) <= _MAX_NODE:
        return None
    return value, f"at most {_MAX_NODE} printable characters are allowed"


def _host(value: str) -> Problem:
    try:
        value.encode("idna")
    except UnicodeError:
        return value, "a host name or an address is allowed"
    return None if value.isprintable() else (value, "a host name or an address is allowed")


def _servers(value: str) -> Problem:
    why = None if value.strip() in ("", "memory://") else addresses.problem(value)
    return (value, why) if why else None  # all of it: alone, a part of a secret may not look so


def _web(value: str) -> Problem:
    fine = not value or value.lower().startswith(("http://", "https://"))
    return None if fine else (value, "an http or https URL")


_ALONE: Final[dict[str, Callable[[Any], Problem]]] = {
    "nats.url": _servers,
    "nats.subjects": _patterns,
    "nats.publishSubjects": _patterns,
    "nats.jetstream.subjects": _patterns,
    "delivery.conflate": _patterns,
    "server.trustedProxies": _networks,
    "server.host": _host,
    "server.node": _node,
    "metrics.host": _host,
    "limits.messagesPerSecond": _rate,
    "limits.connectionsPerSecondPerAddress": _rate,
    "websocket.allowedOrigins": _origins,
    "auth.algorithms": _algorithms,
    "auth.jwksUrl": _web,
    "websocket.path": _path,
    "metrics.metricsPath": _path,
}


def _check_paths(config: Config, refuse: Refuse) -> None:
    """No endpoint hides another one."""
    path, metrics_path = config.websocket.path, config.metrics.metrics_path
    if _clash(metrics_path, path):
        refuse("metrics.metricsPath", metrics_path, _TAKEN)
    if config.echo and _clash(path, ECHO_PATH):
        refuse("websocket.path", path, _TAKEN)


def _check_workers(config: Config, refuse: Refuse) -> None:
    workers, nats = config.server.workers, config.nats
    if nats.embedded and uses_memory_bus(config):
        refuse("nats.embedded", True, "needs the address it is to listen at: nats.url")
    if nats.embedded and addresses.loopback(nats.url) is None:
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


def _check_endpoint(text: str, refuse: Refuse) -> None:
    """What can be told without opening it; Twisted says the rest."""
    kind, _, rest = text.partition(":")
    if problem := _texts(text):
        refuse("--endpoint", *problem)
    if kind == "stdio":
        refuse("--endpoint", text, "nobody can connect to it")
    port = rest.partition(":")[0].removeprefix("port=")
    if kind in _WITH_PORT and port.isdecimal() and int(port[:9]) > 65_535:
        refuse("--endpoint", text, "a port is at most 65535")


def _check_secret(auth: Auth, refuse: Refuse) -> None:
    secret = auth.jwt_secret
    if not secret:
        if not auth.jwt_public_key and not auth.jwks_url:
            refuse("auth.jwtSecret", secret, "production with requireAuth needs a secret or a key")
        return
    if len(secret.encode()) < _MIN_SECRET_BYTES:
        refuse("auth.jwtSecret", secret, f"needs at least {_MIN_SECRET_BYTES} bytes")
    if any(word in secret.lower() for word in _SAMPLE_WORDS) or len(set(secret)) < 8:
        refuse("auth.jwtSecret", secret, "is a sample, not a secret")
