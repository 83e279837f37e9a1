"""Which web pages may connect, and who the client behind a proxy is.

Origin: RFC 6454, and the OWASP WebSocket cheat sheet (CWE-1385): a browser sends the page's origin
with every WebSocket handshake and leaves the decision to the server.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import SplitResult, urlsplit

_LOOPBACK_NAMES: Final = frozenset(("localhost", "127.0.0.1", "::1"))
_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}

_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class OriginPolicy:
    """Decides on the Origin header.

    No Origin: allowed, it is no browser. Same host and port as the request was sent to, or listed:
    allowed. In development a page on one loopback port may talk to a server on another (the dev
    server of a front end). Everything else, `null` too, is refused. In production the check cannot
    be switched off.

    `named`: whether a page may have come by a name, other than localhost, without being listed.
    Who owns a name can let it mean this machine (DNS rebinding), and then its pages have the same
    host and port. Where a client is trusted for its address alone, names are not.
    """

    def __init__(
        self, *, check: bool, allowed: Iterable[str], production: bool, named: bool = True
    ) -> None:
        self._check = check or production
        self._any = not production and "*" in allowed
        self._allowed = frozenset(map(_canonical, allowed))
        self._loopback = not production
        self._named = named

    def allows(self, origin: str | None, host: str, *, proxied: bool = False) -> bool:
        """Whether a page of `origin` may connect; `host` is the request's Host header.

        `proxied`: a proxy passed the request on. It was reached by name, and who trusts addresses
        does not trust its.
        """
        if origin is None or not self._check or self._any:
            return True
        origin = origin.strip().lower()
        if _canonical(origin) in self._allowed:
            return True
        page = _authority(origin)
        if page is None:
            return False
        scheme = origin.partition(":")[0]
        here = _authority(f"{scheme}://{host.strip().lower()}")
        if here is None or not (self._named or proxied or _needs_no_dns(here[0])):
            return False
        if page == here:
            return True
        return self._loopback and page[0] in _LOOPBACK_NAMES and here[0] in _LOOPBACK_NAMES


def origin_problem(origin: str) -> str | None:
    """Why `origin` in a list would never be what a browser sends; None if it may be."""
    if origin in ("*", "null"):
        return None
    parts = _split(origin.strip())
    if parts is None or not parts.scheme or not parts.hostname:
        return "an origin: https://app.example.com"
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        return "an origin, without anything behind the host and port"
    if "*" in origin or not origin.isascii() or not origin.isprintable() or " " in origin.strip():
        return "one whole origin, as browsers send it: no wildcards, international names as xn--"
    return None


def _canonical(origin: str) -> str:
    """An origin in the one spelling that browsers send; what is none as it is."""
    text = origin.strip().rstrip("/").lower()
    parts = _split(text)
    if parts is None or not parts.hostname or parts.port != _DEFAULT_PORTS.get(parts.scheme):
        return text
    return text.removesuffix(f":{parts.port}")


def _split(origin: str) -> SplitResult | None:
    try:
        parts = urlsplit(origin)
        _ = parts.port  # which is looked at only now
    except ValueError:
        return None
    return parts


def _authority(origin: str) -> tuple[str, int] | None:
    """(host, port) of `scheme://host[:port]`; None if it is no such thing (`null`, say)."""
    parts = _split(origin)
    if parts is None or not parts.hostname:
        return None
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    return None if port is None else (parts.hostname, port)


def _needs_no_dns(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost") or _address(host) is not None


class TrustedProxies:
    """The client's address behind proxies that may be believed.

    One header says it: `X-Forwarded-For` or `Forwarded` (RFC 7239), whichever the proxies write.
    The other one is not looked at, because nobody but the client wrote it. It is read from the
    right: the first address that no trusted proxy has is the client. Anything a client wrote itself
    stands further left. An IPv4 address that IPv6 maps (::ffff:192.0.2.1) is the IPv4 address.
    """

    def __init__(self, networks: Iterable[str], header: str = "X-Forwarded-For") -> None:
        """Raises: ValueError for what is no address or network."""
        self._networks: list[Network] = [_network(each) for each in networks]
        self._header = header.lower()

    def client(self, peer: str, headers: Mapping[str, str]) -> str:
        """The client's address; `peer` is the other end of the TCP connection.

        `headers`: of the request, names in lower case, repeated ones joined by commas.
        """
        address = _address(peer)
        if address is None:
            return peer  # of a UNIX socket
        value = headers.get(self._header)
        hops = value.split(",") if value is not None else []
        while hops and self._trusts(address):
            hop = hops.pop()
            behind = _hop_address(_for(hop) if self._header == "forwarded" else hop)
            if behind is None:
                break
            address = behind
        return str(address)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def _for(element: str) -> str:
    """The `for=` value of an element of a Forwarded header; empty without one."""
    for pair in element.split(";"):
        name, _, value = pair.strip().partition("=")
        if name.lower() == "for":
            return value.strip('"')
    return ""


def _hop_address(hop: str) -> Address | None:
    """The address in `192.0.2.1`, `192.0.2.1:80`, `[2001:db8::1]:80`; None if there is none."""
    hop = hop.strip()
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    return _address(hop)


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _network(text: str) -> Network:
    network = ipaddress.ip_network(text, strict=False)
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= _MAPPED.prefixlen:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - _MAPPED.prefixlen))
    return network
