"""Which web pages may connect, and who the client behind a proxy is.

Origin: RFC 6454, and the OWASP WebSocket cheat sheet (CWE-1385): a browser sends the page's origin
with every WebSocket handshake and leaves the decision to the server.
"""

import ipaddress
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

_LOOPBACK_NAMES: Final = frozenset(("localhost", "127.0.0.1", "::1"))
_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class OriginPolicy:
    """Decides on the Origin header.

    No Origin: allowed, it is no browser. Same host and port as the request was sent to, or listed:
    allowed. In development a page on one loopback port may talk to a server on another (the dev
    server of a front end). Everything else, `null` too, is refused. In production the check cannot
    be switched off.
    """

    def __init__(self, *, check: bool, allowed: Iterable[str], production: bool) -> None:
        self._check = check or production
        self._any = not production and "*" in allowed
        self._allowed = frozenset(each.rstrip("/").lower() for each in allowed)
        self._loopback = not production

    def allows(self, origin: str | None, host: str) -> bool:
        """Whether a page of `origin` may connect; `host` is the request's Host header."""
        if origin is None or not self._check or self._any:
            return True
        origin = origin.strip().lower()
        if origin.rstrip("/") in self._allowed:
            return True
        page = _authority(origin)
        if page is None:
            return False
        scheme = origin.partition(":")[0]
        here = _authority(f"{scheme}://{host.strip().lower()}")
        if here is None:
            return False
        if page == here:
            return True
        return self._loopback and page[0] in _LOOPBACK_NAMES and here[0] in _LOOPBACK_NAMES


def _authority(origin: str) -> tuple[str, int] | None:
    """(host, port) of `scheme://host[:port]`; None if it is no such thing (`null`, say)."""
    try:
        parts = urlsplit(origin)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    if not parts.hostname or port is None:
        return None
    return parts.hostname, port


class TrustedProxies:
    """The client's address behind proxies that may be believed.

    `X-Forwarded-For` and `Forwarded` (RFC 7239) are read from the right: the first address that no
    trusted proxy has is the client. Anything a client wrote itself stands further left.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        """Raises: ValueError for what is no address or network."""
        self._networks: list[Network] = [
            ipaddress.ip_network(each, strict=False) for each in networks
        ]

    def client(self, peer: str, forwarded_for: str | None, forwarded: str | None) -> str:
        """The client's address; `peer` is the other end of the TCP connection."""
        if not self._networks or not self._trusts(peer):
            return peer
        hops = _hops(forwarded) if forwarded else (forwarded_for or "").split(",")
        client = peer
        for hop in reversed(hops):
            address = _bare_address(hop)
            if address is None:
                return client
            client = address
            if not self._trusts(address):
                return client
        return client

    def _trusts(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)


def _hops(forwarded: str) -> list[str]:
    """The `for=` values of a Forwarded header, in their order."""
    hops = []
    for element in forwarded.split(","):
        for pair in element.split(";"):
            name, _, value = pair.strip().partition("=")
            if name.lower() == "for":
                hops.append(value.strip('"'))
    return hops


def _bare_address(hop: str) -> str | None:
    """The address in `192.0.2.1`, `192.0.2.1:80`, `[2001:db8::1]:80`; None if there is none."""
    hop = hop.strip()
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        return str(ipaddress.ip_address(hop))
    except ValueError:
        return None
