"""A stream of JetStream: its state, and the numbering that all Odins on it share.

An offset is the message's sequence in the stream plus the shift of the numbering. A stream begins
with shift 0; when offsets could be given out twice, or cannot be followed without a gap, a new
numbering begins, far above the old one. It is written into the stream's metadata, where every Odin
reads it, so that all of them say the same epoch:

    "odin-numbering": "<shift>.<mark>"        epoch = <stream>-<time of creation>[-<mark>]
"""

import asyncio
import contextlib
import random
import re
import secrets
from datetime import datetime
from hashlib import blake2b
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import nats.errors
from twisted.logger import Logger

from odin.bus.reading import FeedClient
from odin.config import JetStream
from odin.errors import BrokerError

ANSWER_S: Final = 2.5  # a broker that takes longer counts as away: told within 5 s
_KEY: Final = "odin-numbering"
_VALUE: Final = re.compile(r"(\d{1,15})\.([0-9a-f]{8})")
_STEP: Final = 1_000_000  # between numberings: more than one Odin can be ahead of another
_RACE_S: Final = 0.25  # two Odins that notice the same thing look in turns
_MAX_NAME: Final = 32  # in an epoch, which has at most 64 characters in all
_MAX_DELETED: Final = 10_000  # more are not asked for one by one
_NOT_FOUND: Final = 10059
_T = TypeVar("_T")


class State(msgspec.Struct):
    """What is stored now."""

    messages: int = 0
    bytes: int = 0
    first_seq: int = 0
    last_seq: int = 0
    num_deleted: int = 0  # between the two
    deleted: list[int] | None = None


class _Known(msgspec.Struct):
    """What is read of a stream's configuration."""

    name: str
    metadata: dict[str, str] | None = None
    discard: str = ""
    max_msgs: int = -1
    max_bytes: int = -1


class Info(msgspec.Struct):
    """What the broker says of a stream; `config` is kept whole, to be sent back."""

    config: dict[str, Any]
    created: str
    state: State

    def __post_init__(self) -> None:
        """Raises: msgspec.ValidationError, OverflowError; then it is no answer of JetStream's."""
        msgspec.convert(self.config, _Known)
        _seconds(self.created)

    @property
    def stored(self) -> str:
        """The numbering in the metadata, if there is one."""
        value = (self.config.get("metadata") or {}).get(_KEY, "")
        return value if _VALUE.fullmatch(value) else ""

    @property
    def full(self) -> bool:
        """Whether the stream refuses further messages."""
        config, state = self.config, self.state
        if config.get("discard") != "new":
            return False
        most, most_bytes = config.get("max_msgs", -1), config.get("max_bytes", -1)
        one_more = state.bytes + state.bytes // max(1, state.messages)
        return bool(0 < most <= state.messages or 0 < most_bytes < one_more)


class Numbering(NamedTuple):
    """What offsets mean, as long as the stream is the one it was."""

    created: str  # the stream
    stored: str  # what its metadata said then
    epoch: str
    shift: int

    def holds(self, info: Info) -> bool:
        """Whether the stream, and the numbering that all have agreed on, are still the same."""
        return info.created == self.created and info.stored == self.stored


def numbering_of(info: Info) -> Numbering:
    """The numbering that every Odin reads from the stream."""
    match = _VALUE.fullmatch(info.stored)
    shift, mark = (int(match[1]), match[2]) if match else (0, "")
    return Numbering(info.created, info.stored, _epoch(info, mark), shift)


def _epoch(info: Info, mark: str) -> str:
    name = str(info.config["name"])
    if len(name) > _MAX_NAME:
        name = blake2b(name.encode(), digest_size=_MAX_NAME // 2).hexdigest()
    return f"{name}-{_seconds(info.created):.6f}{'-' * bool(mark)}{mark}"


def _seconds(time: str) -> float:
    """Since 1970. Raises: ValueError, OverflowError."""
    return datetime.fromisoformat(time).timestamp()


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Failed(msgspec.Struct):
    error: _Error | None = None


class Stored(msgspec.Struct):
    """The stream's acknowledgement of a message."""

    stream: str = ""
    seq: int = 0
    error: _Error | None = None


class Stream:
    """The stream of the configuration, over one connection.

    All methods raise BrokerError with words for an operator, or TimeoutError, OSError and
    nats.errors.Error from the connection.
    """

    _log = Logger()

    def __init__(self, client: FeedClient, config: JetStream) -> None:
        self.client = client
        self.name = config.stream
        self._config = config

    async def info(self, *, deleted: bool = False, create: bool = False) -> Info:
        """How the stream is now. `deleted`: with the sequences of what was deleted in between.
        `create`: make it if it is not there and the configuration permits it."""
        asked = {"deleted_details": True} if deleted else {}
        reply = await self._api(f"STREAM.INFO.{self.name}", asked)
        error = _decoded(reply, _Failed).error
        if error is not None and error.err_code == _NOT_FOUND and create and self._config.create:
            reply = await self._api(f"STREAM.CREATE.{self.name}", self._wanted())
            error = _decoded(reply, _Failed).error
            if error is None:
                self._log.info("created the stream {name}", name=self.name)
        if error is not None:
            raise BrokerError(f"the stream {self.name}: {error.description}")
        return _decoded(reply, Info)

    async def whole_above(self, state: State, until: int) -> int:
        """The lowest sequence above which nothing has been deleted, up to `until`."""
        lowest = max(state.first_seq - 1, 0)
        if not state.num_deleted:
            return lowest
        if state.num_deleted > _MAX_DELETED:
            return max(until, lowest)
        found = (await self.info(deleted=True)).state
        lowest = max(found.first_seq - 1, lowest)
        return max((each for each in found.deleted or () if lowest < each <= until), default=lowest)

    async def store(self, subject: str, payload: bytes) -> int:
        """Put a message into the stream; its sequence, once the stream has it."""
        headers = {"Nats-Expected-Stream": self.name}
        try:
            reply = await self.client.request(
                subject, payload, timeout=2 * ANSWER_S, headers=headers
            )
        except nats.errors.NoRespondersError:
            raise BrokerError(f"no stream takes messages on {subject}") from None
        stored = _decoded(reply.data, Stored)
        if stored.error is not None:
            raise BrokerError(f"the stream refuses the message: {stored.error.description}")
        if stored.stream != self.name:
            raise BrokerError(f"somebody else than the stream answers on {subject}")
        return stored.seq

    async def renumber(self, seen: Info, above: int) -> Numbering:
        """Begin a numbering above offset `above`, for every Odin on this stream.

        `seen`: the stream as it was when this was decided. JetStream has no compare-and-set for
        it, so that two Odins may write at once: the last one wins, both look again afterwards and
        once a second from then on. Until they agree a client may be refused a recovery; none is
        ever confirmed falsely.
        """
        await asyncio.sleep(random.random() * _RACE_S)
        info = await self.info()
        if info.stored != seen.stored and info.created == seen.created:
            return numbering_of(info)  # another Odin was quicker
        shift = (above // _STEP + 2) * _STEP
        mark = secrets.token_hex(4)
        value = f"{shift}.{mark}"
        config = info.config | {"metadata": (info.config.get("metadata") or {}) | {_KEY: value}}
        # without an answer it is not permitted, or was done all the same: the next look tells
        with contextlib.suppress(TimeoutError):
            await self._api(f"STREAM.UPDATE.{self.name}", config)
        info = await self.info()
        if info.stored != seen.stored:
            return numbering_of(info)
        self._log.warn(
            "the stream {name} keeps no metadata for Odin (permission for $JS.API.STREAM.UPDATE, "
            "nats-server 2.10 or newer): other Odins number it differently from now on",
            name=self.name,
        )
        return Numbering(info.created, info.stored, _epoch(info, mark), shift)

    def _wanted(self) -> dict[str, Any]:
        config = self._config
        return {
            "name": self.name,
            "subjects": list(config.subjects),
            "retention": "limits",
            "discard": "old",
            "max_age": int(config.max_age_s * 1_000_000_000),
            "max_bytes": config.max_size or -1,
            "max_msgs": config.max_messages or -1,
            "num_replicas": config.replicas,
        }

    async def _api(self, what: str, body: dict[str, Any]) -> bytes:
        data = msgspec.json.encode(body) if body else b""
        try:
            reply = await self.client.request(f"$JS.API.{what}", data, timeout=ANSWER_S)
        except nats.errors.NoRespondersError:
            raise BrokerError("the broker has no JetStream, or forbids it") from None
        return bytes(reply.data)


def _decoded(reply: bytes, kind: type[_T]) -> _T:
    """Raises: BrokerError."""
    try:
        return msgspec.json.decode(reply, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError, RecursionError):
        raise BrokerError("an answer that is none of JetStream's") from None
