"""What a server is made of, each made from its part of the configuration."""

import time
from typing import Any

from twisted.internet.endpoints import serverFromString

from odin import config as settings
from odin.access.limits import AddressLimit, Seats, SharedAddressLimit
from odin.access.origins import OriginPolicy, TrustedProxies
from odin.access.tokens import TokenVerifier, load_public_key
from odin.bus.interfaces import IBus
from odin.bus.memory import MemoryBus
from odin.checks import ECHO_PATH
from odin.config import Config
from odin.delivery.history import Bounds
from odin.errors import ConfigError
from odin.gateway.admission import Admissions
from odin.gateway.endpoints import Door, SharingReactor
from odin.gateway.factory import Times
from odin.metrics import Metrics
from odin.place import Place
from odin.process import descriptors


def bus_of(config: Config, loop: Any, node: str) -> IBus:
    if settings.uses_memory_bus(config):
        return MemoryBus()
    from odin.bus.nats import NatsBus  # noqa: PLC0415 - 4 MB that the demo does not need

    if loop is None:
        raise ConfigError("NATS needs the odin or asyncio reactor (nats-py runs on asyncio)")
    return NatsBus(config.nats, loop, node)


def door_of(text: str, reactor: Any, *, shared: bool) -> Door:
    """An endpoint as twistd's users write it: `ssl:3443:privateKey=key.pem:certKey=cert.pem`.

    `shared`: other workers listen there, too.
    """
    sharing = SharingReactor(reactor) if shared else None
    try:
        endpoint: Any = serverFromString(sharing or reactor, text)
        return Door(text, endpoint, sharing)
    except (ImportError, AttributeError):
        raise ConfigError(f"--endpoint {text}: TLS needs: pip install 'odin-fanout[tls]'") from None
    except Exception as error:  # ValueError, OSError, or whatever OpenSSL and the plugins raise
        raise ConfigError(f"--endpoint {text}: {error or type(error).__name__}") from None


def verifier_of(config: Config, secret: str) -> TokenVerifier:
    auth = config.auth
    keys = {}
    if auth.jwt_public_key:
        pem = auth.jwt_public_key
        if "-----BEGIN" not in pem:
            try:
                with open(pem, encoding="ascii") as file:
                    pem = file.read()
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"auth.jwtPublicKey: neither a PEM text nor a file that can be read: {error}"
                ) from None
        try:
            keys[""] = load_public_key(pem)
        except ValueError:
            raise ConfigError("auth.jwtPublicKey: no public key in PEM format") from None
    return TokenVerifier(
        secret=secret,
        public_keys=keys,
        algorithms=settings.algorithms(auth),
        audience=auth.audience,
        issuer=auth.issuer,
    )


def admissions_of(
    config: Config,
    place: Place,
    verifier: TokenVerifier,
    origins: OriginPolicy,
    metrics: Metrics,
) -> Admissions:
    return Admissions(
        path=config.websocket.path,
        echo_path=ECHO_PATH if config.echo else None,
        origins=origins,
        proxies=TrustedProxies(config.server.trusted_proxies, config.server.proxy_header),
        addresses=_addresses(config, place),
        verifier=verifier,
        require_auth=config.auth.require_auth,
        max_channels=config.limits.channels_per_client,
        clock=time.monotonic,
        auth_failed=metrics.auth_failed,
    )


def times_of(config: Config) -> Times:
    return Times(
        handshake_s=config.websocket.handshake_timeout_s,
        read_s=config.server.read_timeout_s,
        write_s=config.server.write_timeout_s,
        ping_interval_s=config.websocket.ping_interval_s,
        pong_s=config.websocket.pong_timeout_s,
    )


def bounds_of(config: Config) -> Bounds:
    delivery = config.delivery
    return Bounds(
        messages=delivery.history_messages,
        size=delivery.history_size,
        age_s=delivery.history_age_s,
        channels=delivery.snapshot_channels,
        channels_size=delivery.snapshot_size,
    )


def seats_of(config: Config, place: Place) -> Seats:
    """Room in this process, and in all workers together."""
    most = config.websocket.max_connections
    if place.shared is None:
        return Seats(descriptors.room_for(most))
    return Seats(descriptors.room_for(0), most, place.shared.seats, place.cell)


def _addresses(config: Config, place: Place) -> AddressLimit:
    per_second = config.limits.connections_per_second_per_address
    if place.shared is None:
        return AddressLimit(per_second)
    shared = place.shared
    return SharedAddressLimit(per_second, shared.addresses, place.address_key, shared.alone)
