"""A socketless server: OdinFactory on a Clock, with transports that only note."""

import json
import struct

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from odin.access.limits import AddressLimit, RateLimit, Seats
from odin.access.origins import OriginPolicy, TrustedProxies
from odin.access.tokens import TokenVerifier
from odin.bus.bridge import Bridge
from odin.bus.memory import MemoryBus
from odin.bus.recovery import Recovery
from odin.delivery.history import Bounds, History
from odin.delivery.hub import Hub
from odin.delivery.nonces import NonceWindow
from odin.gateway.admission import Admissions
from odin.gateway.control import Control
from odin.gateway.echo import EchoProtocol
from odin.gateway.factory import OdinFactory, Times
from odin.gateway.session import Context
from odin.gateway.timers import Wheel
from odin.metrics import Metrics
from odin.web.health import Livez
from odin.web.site import Site, UpgradeOnly

SECRET = "an-unguessable-key-of-32-bytes-or-more"
MASK = b"\x11\x22\x33\x44"
HEAD = (
    "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
)

BOUNDS = Bounds(messages=1000, size=1 << 20, age_s=60, channels=100, channels_size=1 << 20)


def head(path="/ws", *more):
    """An upgrade request."""
    return HEAD.format(path=path, more="".join(f"{line}\r\n" for line in more)).encode()


def frame(payload, opcode=1, *, fin=True, rsv=0, mask=MASK):
    """One client frame."""
    payload = payload.encode() if isinstance(payload, str) else payload
    first = (0x80 if fin else 0) | (rsv << 4) | opcode
    if len(payload) < 126:
        start = bytes((first, 0x80 | len(payload)))
    elif len(payload) < 65536:
        start = bytes((first, 0xFE)) + struct.pack("!H", len(payload))
    else:
        start = bytes((first, 0xFF)) + struct.pack("!Q", len(payload))
    return start + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def frames(data):
    """[(opcode, payload)] of server frames."""
    found = []
    while data:
        length, at = data[1] & 0x7F, 2
        if length == 126:
            length, at = struct.unpack("!H", data[2:4])[0], 4
        elif length == 127:
            length, at = struct.unpack("!Q", data[2:10])[0], 10
        found.append((data[0] & 0x0F, data[at : at + length]))
        data = data[at + length :]
    return found


class NotingSocket:
    """What a sweep sends to."""

    def __init__(self, transport):
        self.transport = transport


class NotingTransport:
    """Notes what is written, and how the connection ends."""

    def __init__(self, protocol):
        self.protocol, self.written, self.ended = protocol, b"", None
        self.reading = True
        self.disconnecting = self.behind = False

    @property
    def sink(self):
        return NotingSocket(self)

    def write(self, data):
        self.written += data

    def writeSequence(self, parts):
        self.write(b"".join(parts))

    def hold(self, data, sent):
        self.write(data[sent:])

    def pauseProducing(self):
        self.reading = False

    def resumeProducing(self):
        self.reading = True

    def getPeer(self):
        return IPv4Address("TCP", "127.0.0.1", 5000)

    def getHost(self):
        return IPv4Address("TCP", "127.0.0.1", 3002)

    def loseConnection(self):
        self.disconnecting = True
        self.ended = self.ended or "lost"

    def loseWriteConnection(self):
        self.ended = self.ended or "half-closed"

    def abortConnection(self):
        self.ended = "aborted"


def sweep(sinks, start, stop, data):
    """Every socket takes everything."""
    for sink in sinks[start:stop]:
        sink.transport.write(data)


class Server:
    """A whole gateway on a Clock, without sockets."""

    def __init__(self, *, rate=0, require_auth=False, max_message=65536, full_at=10**9):
        self.clock = Clock()
        self.clock.advance(1000)
        self.metrics = Metrics()
        self.soon = []
        seconds = self.clock.seconds
        verifier = TokenVerifier(secret=SECRET)
        self.hub = Hub(sweep=sweep, soon=self.soon.append, clock=seconds, meter=self.metrics)
        self.control = Control(self.hub, verifier, seconds, seconds)
        self.bus = MemoryBus()
        self.bridge = Bridge(
            self.bus,
            self.hub,
            NonceWindow(600, 1000),
            History(BOUNDS),
            conflate=("price.*",),
            publishable=(">",),
            control=self.control,
            clock=seconds,
            wall=seconds,
            meter=self.metrics,
        )
        self.bus.startService()
        self.turn()
        self.context = Context(
            hub=self.hub,
            bridge=self.bridge,
            replays=Recovery(
                self.bridge,
                most=1000,
                now=seconds,
                timers=self.clock,
                later=self.hub.later,
                meter=self.metrics,
            ),
            verifier=verifier,
            rate=RateLimit(rate, 10),
            node="node",
            heartbeat_interval_ms=25_000,
            max_message_bytes=max_message,
            max_channels=100,
            max_kept=128 << 10,
            max_pending=1 << 20,
            monotonic=seconds,
            wall=seconds,
            auth_failed=self.metrics.auth_failed,
        )
        self.context.run = "0"
        self.wheel = Wheel(self.clock, self.soon.append)
        self.wheel.startService()
        self.site = Site()
        self.site.mount({"livez": Livez(), "ws": UpgradeOnly()})
        self.factory = OdinFactory(
            reactor=self.clock,
            context=self.context,
            admissions=Admissions(
                path="/ws",
                echo_path="/echo",
                origins=OriginPolicy(check=True, allowed=(), production=False),
                proxies=TrustedProxies(()),
                addresses=AddressLimit(0),
                verifier=verifier,
                require_auth=require_auth,
                max_channels=100,
                clock=seconds,
                auth_failed=self.metrics.auth_failed,
            ),
            times=Times(handshake_s=10, read_s=5, write_s=10, ping_interval_s=25, pong_s=10),
            seats=Seats(full_at),
            most_transports=1_000_000,
            compression=True,
            wheel=self.wheel,
            meter=self.metrics,
            http=self.site.exchange,
            echo=EchoProtocol,
        )

    def turn(self):
        """What runs after the reads of a reactor turn."""
        while self.soon:
            self.soon.pop(0)()

    def advance(self, seconds):
        """Let time pass, tick by tick."""
        for _ in range(int(seconds * 4)):
            self.clock.advance(0.25)
            self.turn()

    def connect(self):
        """A connection that has sent nothing yet."""
        return Peer(self)

    def open(self, path="/ws", *more):
        """An open WebSocket whose handshake and welcome are read already."""
        peer = self.connect()
        peer.send(head(path, *more))
        assert peer.read().startswith(b"HTTP/1.1 101"), peer.read()
        return peer

    def metric(self, name, **labels):
        """A metric's value; 0 while it has none."""
        return self.metrics.registry.get_sample_value(name, labels) or 0


class Peer:
    """The client's end of a connection."""

    def __init__(self, server):
        self.server = server
        self.protocol = server.factory.buildProtocol(None)
        self.transport = NotingTransport(self.protocol)
        self.protocol.makeConnection(self.transport)

    @property
    def ended(self):
        return self.transport.ended

    def send(self, *datas):
        """Each of them arrives in a read of its own."""
        for data in datas:
            self.protocol.dataReceived(data)
        self.server.turn()

    def say(self, **message):
        """Send a JSON message."""
        self.send(frame(json.dumps(message)))

    def read(self):
        """What was written since the last time."""
        data, self.transport.written = self.transport.written, b""
        return data

    def frames(self):
        return frames(self.read())

    def messages(self):
        """The JSON messages since the last time."""
        return [json.loads(payload) for opcode, payload in self.frames() if opcode == 1]

    def close_code(self):
        """The code and reason of the close frame that came; None without."""
        for opcode, payload in self.frames():
            if opcode == 8:
                return struct.unpack("!H", payload[:2])[0], payload[2:].decode()
        return None

    def lose(self, clean=True):
        """The connection is gone."""
        error = ConnectionDone() if clean else ConnectionAborted()
        self.protocol.connectionLost(Failure(error))
