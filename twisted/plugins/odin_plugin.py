"""What twistd finds: the service `odin` and the reactor `odin`."""

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker

odin = ServiceMaker(
    "Odin",
    "odin.tap",
    "WebSocket fan-out server for live market data.",
    "odin",
)

odin_reactor = Reactor(
    "odin",
    "odin.process.reactors",
    "asyncio outside, epoll inside: what Odin runs on.",
)
