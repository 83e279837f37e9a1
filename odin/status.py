"""What the server knows of itself: for /health, /readyz and /stats."""

import asyncio
import platform
import threading
import time
from importlib.metadata import version
from typing import Any, Final, Protocol

from odin import __version__
from odin.bus.bridge import Bridge
from odin.delivery.hub import Hub
from odin.process.memory import usage

_LIBRARIES: Final = ("Twisted", "autobahn", "nats-py", "msgspec", "prometheus-client", "PyJWT")

_VERSIONS: Final = {  # 3.6 ms to find out
    "odin": __version__,
    "python": platform.python_version(),
    **{name: version(name) for name in _LIBRARIES},
}

NOT_LISTENING: Final = "not listening"


class Edge(Protocol):
    """What is asked of the WebSocket factory."""

    connections: int
    draining: bool
    behind: set[Any]


class Conversation(Protocol):
    """What is asked of the sessions' context."""

    opened: int
    received: int
    replied: int
    node: str


class Status:
    """Answers from the true state, at the time of asking."""

    def __init__(
        self,
        *,
        hub: Hub,
        bridge: Bridge,
        edge: Edge,
        conversation: Conversation,
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self.listening = False
        self._hub = hub
        self._bridge = bridge
        self._edge = edge
        self._conversation = conversation
        self._loop = loop
        self._started = time.monotonic()

    @property
    def uptime_s(self) -> float:
        return time.monotonic() - self._started

    def not_ready(self) -> str | None:
        """Why no new client should be sent here; None if all is well."""
        if self._edge.draining:
            return "draining"
        bus = self._bridge.bus
        if not bus.connected:
            return f"{bus.kind} is not connected{': ' * bool(bus.trouble)}{bus.trouble}"
        if not self.listening:
            return NOT_LISTENING
        return None

    def tasks(self) -> int:
        """Concurrent tasks: asyncio tasks, threads, open sessions (a Go server's goroutines)."""
        tasks = len(asyncio.all_tasks(self._loop)) if self._loop is not None else 0
        return tasks + threading.active_count() + self._edge.connections

    def health(self) -> dict[str, Any]:
        """The body of /health; `status`: healthy, degraded (not all of the feed), unhealthy."""
        bus = self._bridge.bus
        serving = self.listening and not self._edge.draining
        well = bus.connected and not bus.trouble
        status = "unhealthy" if not serving else "healthy" if well else "degraded"
        memory = usage()
        return {
            "status": status,
            "timestamp": int(time.time()),
            "uptime": round(self.uptime_s, 3),
            "services": {
                "websocket": {
                    "status": "healthy" if serving else "unhealthy",
                    "clients": self._edge.connections,
                },
                "nats": {
                    "status": "connected" if bus.connected else "disconnected",
                    "connected": bus.connected,
                    "bus": bus.kind,
                    **({"trouble": bus.trouble} if bus.trouble else {}),
                },
            },
            "system": {
                "goroutines": self.tasks(),
                "memory": {
                    "alloc": memory.resident,
                    "heap_alloc": memory.anonymous,
                    "sys": memory.virtual,
                },
            },
        }

    def stats(self) -> dict[str, Any]:
        """The body of /stats: what was counted since the start."""
        bridge, hub, talk, bus = self._bridge, self._hub, self._conversation, self._bridge.bus
        memory = usage()
        return {
            "node": talk.node,
            "uptime": round(self.uptime_s, 3),
            "connections": {
                "active": self._edge.connections,
                "total": talk.opened,
                "behind": len(self._edge.behind),
            },
            "hub": {
                "groups": len(hub.groups),
                "sessions": hub.sessions,
                "epoch": bridge.epoch,
                "offset": bridge.offset,
            },
            "nats": {
                "bus": bus.kind,
                "connected": bus.connected,
                "reconnects": bus.reconnects,
                "messages": bridge.messages,
            },
            "messages": {
                "sent": hub.delivered + talk.replied,
                "received": talk.received,
                "broadcast": bridge.sent,
                "duplicates": bridge.duplicates,
                "malformed": bridge.malformed,
            },
            "memory": memory._asdict(),
            "versions": _VERSIONS,
        }
