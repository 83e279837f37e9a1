"""Settings: each with its default, its unit and what is allowed. `odin.loading` fills them in."""

import os
from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, field

from odin.wire.subjects import EVERYTHING

Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=0, le=10_000_000)]
Bytes = Annotated[int, Meta(ge=256, le=1 << 30)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
SecondsOrOff = Annotated[float, Meta(ge=0, le=86_400)]
Milliseconds = Annotated[int, Meta(ge=0, le=3_600_000)]
Rate = Annotated[float, Meta(ge=0, le=1_000_000)]
Stored = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]  # what a broker counts with

DEFAULT_SUBJECTS: Final = (
    "odin.token.*.price",
    "odin.token.*.volume",
    "odin.token.batch.update",
    "odin.trades.*",
    "odin.market.statistics",
    "odin.heartbeat",
)


class Section(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """One object of the configuration file."""


class Server(Section, frozen=True, kw_only=True):
    host: str = "0.0.0.0"
    port: Port = 3002
    read_timeout_s: Seconds = field(name="readTimeout", default=10)
    write_timeout_s: Seconds = field(name="writeTimeout", default=10)
    max_message_bytes: Bytes = field(name="maxMessageSize", default=65_536)
    shutdown_timeout_s: Seconds = field(name="shutdownTimeout", default=10)
    trusted_proxies: tuple[str, ...] = ()
    proxy_header: Annotated[str, Meta(pattern="^(X-Forwarded-For|Forwarded)$")] = "X-Forwarded-For"
    node: str = ""
    workers: Annotated[int, Meta(ge=0, le=32)] | Literal["auto"] = 0


class Websocket(Section, frozen=True, kw_only=True):
    path: str = "/ws"
    check_origin: bool = True
    allowed_origins: tuple[str, ...] = ()
    enable_compression: bool = True
    read_buffer_bytes: Bytes = field(name="readBufferSize", default=4096)
    write_buffer_bytes: Bytes = field(name="writeBufferSize", default=4096)
    handshake_timeout_s: Seconds = field(name="handshakeTimeout", default=10)
    ping_interval_s: SecondsOrOff = field(name="pingInterval", default=25)
    pong_timeout_s: Seconds = field(name="pongTimeout", default=10)
    max_connections: Count = 0


DEFAULT_CONFLATE: Final = (
    "odin.token.*.price",
    "odin.token.*.volume",
    "odin.token.batch.update",
    "odin.market.statistics",
)


class JetStream(Section, frozen=True, kw_only=True):
    """`stream`: its name, empty to do without. The limits are for a stream that Odin creates."""

    stream: Annotated[str, Meta(pattern=r"^[^\s.*>/\\]*$")] = ""
    create: bool = False
    subjects: Annotated[tuple[str, ...], Meta(min_length=1)] = ("odin.>",)
    max_age_s: Annotated[float, Meta(ge=0, le=9e9)] = field(name="maxAge", default=3600)
    max_size: Stored = field(name="maxBytes", default=1 << 30)
    max_messages: Stored = 0
    replicas: Annotated[int, Meta(ge=1, le=5)] = 1
    preload: Count = 10_000


class Nats(Section, frozen=True, kw_only=True):
    url: str = "nats://localhost:4222"
    subjects: Annotated[tuple[str, ...], Meta(min_length=1)] = DEFAULT_SUBJECTS
    publish_subjects: tuple[str, ...] = ()
    max_reconnects: Annotated[int, Meta(ge=-1, le=1_000_000_000)] = -1
    reconnect_wait_ms: Milliseconds = field(name="reconnectWait", default=1000)
    reconnect_jitter_ms: Milliseconds = field(name="reconnectJitter", default=200)
    max_pings_out: Annotated[int, Meta(ge=1, le=1000)] = 3
    ping_interval_ms: Annotated[int, Meta(ge=100, le=3_600_000)] = field(
        name="pingInterval", default=10_000
    )
    user: str = ""
    password: str = ""
    token: str = ""
    credentials_file: str = ""
    tls_ca_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    embedded: bool = False
    jetstream: JetStream = JetStream()


class Auth(Section, frozen=True, kw_only=True):
    jwt_secret: str = ""
    jwt_public_key: str = ""
    jwks_url: str = ""
    algorithms: tuple[str, ...] = ()
    audience: str = ""
    issuer: str = ""
    token_expiration_s: Annotated[int, Meta(ge=1, le=31_536_000)] = field(
        name="tokenExpiration", default=3600
    )
    require_auth: bool = False


class Metrics(Section, frozen=True, kw_only=True):
    enable_prometheus: bool = True
    metrics_path: str = "/metrics"
    port: Port | None = None
    host: str = ""
    update_interval_s: Annotated[float, Meta(ge=0.05, le=3600)] = field(
        name="updateInterval", default=1
    )


class Limits(Section, frozen=True, kw_only=True):
    messages_per_second: Rate = 20
    message_burst: Annotated[int, Meta(ge=1, le=1_000_000)] = 100
    connections_per_second_per_address: Rate = 0
    channels_per_client: Count = 1024
    kept_bytes_per_client: Bytes = field(name="keptPerClient", default=128 << 10)


class Delivery(Section, frozen=True, kw_only=True):
    max_pending_bytes: Bytes = field(name="maxPending", default=1 << 20)
    nonce_window_s: Seconds = field(name="nonceWindow", default=600)
    nonce_limit: Annotated[int, Meta(ge=2, le=10_000_000)] = 200_000
    conflate: tuple[str, ...] = DEFAULT_CONFLATE
    send_buffer_bytes: Annotated[int, Meta(ge=0, le=1 << 30)] = field(
        name="sendBuffer", default=65_536
    )
    history_messages: Annotated[int, Meta(ge=1, le=10_000_000)] = 50_000
    history_size: Bytes = field(name="historyBytes", default=32 << 20)
    history_age_s: Seconds = field(name="historyAge", default=300)
    snapshot_channels: Annotated[int, Meta(ge=1, le=10_000_000)] = 10_000
    snapshot_size: Bytes = field(name="snapshotBytes", default=16 << 20)
    recover_messages: Count = 10_000


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The effective configuration; `sources` says for each `section.key` where it came from."""

    server: Server = Server()
    websocket: Websocket = Websocket()
    nats: Nats = Nats()
    auth: Auth = Auth()
    metrics: Metrics = Metrics()
    limits: Limits = Limits()
    delivery: Delivery = Delivery()
    production: bool = False
    demo: bool = False
    echo: bool = False
    endpoints: tuple[str, ...] = ()
    sources: Mapping[str, str] = {}


def uses_memory_bus(config: Config) -> bool:
    """Whether messages stay in this process: no broker is configured."""
    return config.nats.url.strip() in ("", "memory://")


def publishable(config: Config) -> tuple[str, ...]:
    """Patterns of the subjects that clients may publish to: as configured, else those of the feed.

    Without a broker the feed has all that is published.
    """
    feed = (EVERYTHING,) if uses_memory_bus(config) else config.nats.subjects
    return config.nats.publish_subjects or feed


def worker_count(config: Config) -> int:
    """How many worker processes there are to be; 0 = this process does it all."""
    wanted = config.server.workers
    if wanted == "auto":
        return len(os.sched_getaffinity(0))
    return wanted or int(config.nats.embedded)


def listens_plain(config: Config) -> bool:
    """Whether server.port is served: with endpoints given, only if --port was, too."""
    return not config.endpoints or config.sources.get("server.port") == "command line"


def algorithms(auth: Auth) -> tuple[str, ...]:
    """The accepted algorithms: as configured, else what the configured keys can do."""
    if auth.algorithms:
        return auth.algorithms
    by_key = ("RS256", "ES256", "EdDSA") if auth.jwt_public_key or auth.jwks_url else ()
    return ("HS256", *by_key) if auth.jwt_secret or not by_key else by_key
