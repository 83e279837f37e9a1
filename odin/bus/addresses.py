"""The servers in `nats.url`: where they are, and the credentials in their URLs. Pure."""

import re
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

_DEFAULT_PORTS: Final = {"nats": 4222, "tls": 4222, "ws": 80, "wss": 443}
_WEBSOCKETS: Final = ("ws", "wss")


class Address(NamedTuple):
    """One server; user and password as they are sent, a token as the user without a password."""

    scheme: str
    host: str
    port: int
    user: str | None
    password: str | None


def split(urls: str) -> list[str]:
    """Each URL of a list with commas."""
    return [each.strip() for each in urls.split(",") if each.strip()]


def parse(url: str) -> Address:
    """The server of one URL; percent-encoded credentials are decoded (RFC 3986 2.1).

    Raises: ValueError, which says what is allowed, and never shows a credential.
    """
    scheme, mark, _rest = url.partition("://")
    if not mark:
        scheme, url = "nats", f"nats://{url}"
    if scheme not in _DEFAULT_PORTS:
        raise ValueError("not a NATS server (nats://host:4222; also tls, ws, wss)")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = None, "", None
    if parts is None or "@" in f"{parts.path}{parts.query}{parts.fragment}":
        raise ValueError(
            "not host:port with a port up to 65535 (in a user name or password, "
            "percent-encode : / ? # [ ] @ and the comma)"
        )
    if not host or port == 0:
        raise ValueError("a host, or its port, is missing")
    user, password = parts.username, parts.password
    return Address(
        scheme,
        host,
        port or _DEFAULT_PORTS[scheme],
        None if user is None else unquote(user),
        None if password is None else unquote(password),
    )


def problem(urls: str) -> str | None:
    """What is wrong with a list of URLs; None if they are good."""
    schemes = set()
    for each in split(urls):
        try:
            schemes.add(parse(each).scheme in _WEBSOCKETS)
        except ValueError as error:
            return str(error)
    if len(schemes) != 1:
        return "no server" if not schemes else "WebSocket and other URLs cannot be mixed"
    return None


def names(urls: str) -> list[str]:
    """host:port of each server, for a log: without the credentials."""
    return [f"{each.host}:{each.port}" for each in map(parse, split(urls))]


def credentials(urls: str) -> tuple[str, str | None] | None:
    """(user, password) that are the same in all URLs that have any; else None."""
    found = {(each.user or "", each.password) for each in map(parse, split(urls))}
    found.discard(("", None))
    return found.pop() if len(found) == 1 else None


def masked(urls: str) -> str:
    """The same list to be printed. Rather too much is hidden than a part of a secret shown."""
    groups = re.split(r",(?=\s*[a-z]+://)", urls)  # a comma may be a part of a password
    return ",".join(map(_masked, groups))


def loopback(url: str) -> tuple[str, int] | None:
    """(address, port) for an embedded nats-server; None if `url` is not one loopback address."""
    try:
        address = parse(url)
    except ValueError:
        return None
    if address.scheme != "nats" or address.user or "," in url:
        return None
    return ("127.0.0.1", address.port) if address.host in ("localhost", "127.0.0.1") else None


def _masked(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    if not mark:
        scheme, rest = "", url
    _credentials, at, hosts = rest.rpartition("@")
    return f"{scheme}{mark}********@{hosts}" if at else url
