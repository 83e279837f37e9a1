"""The baseline of every ratio: Autobahn, nats-py and the obvious loop over all clients."""

import argparse
import asyncio
import json
import time

from twisted.internet import asyncioreactor

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--nats", required=True)
arguments = parser.parse_args()
loop = asyncio.SelectorEventLoop()
asyncio.set_event_loop(loop)
asyncioreactor.install(loop)

import nats  # noqa: E402
from autobahn.twisted.websocket import (  # noqa: E402
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from twisted.internet import reactor  # noqa: E402

everything: set["Client"] = set()
by_channel: dict[str, set["Client"]] = {}
nonces: set[str] = set()


class Client(WebSocketServerProtocol):  # type: ignore[misc] # autobahn has no types
    """A client gets everything until it subscribes."""

    channels: tuple[str, ...] = ()

    def onOpen(self) -> None:
        everything.add(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        message = json.loads(payload)
        if message.get("type") == "ping":
            reply = {"type": "pong", "timestamp": int(time.time() * 1000)}
            self.sendMessage(json.dumps(reply | {"nonce": message.get("nonce")}).encode())
        elif message.get("type") == "subscribe":
            everything.discard(self)
            self.channels = tuple(message["data"]["channels"])
            for channel in self.channels:
                by_channel.setdefault(channel, set()).add(self)
            self.sendMessage(b'{"type":"subscription_ack"}')

    def onClose(self, wasClean: bool, code: int, reason: str) -> None:
        everything.discard(self)
        for channel in self.channels:
            by_channel[channel].discard(self)


async def received(message: nats.aio.msg.Msg) -> None:
    nonce = json.loads(message.data).get("nonce")
    if nonce in nonces:
        return
    nonces.add(nonce)
    for client in (*everything, *by_channel.get(message.subject, ())):
        client.sendMessage(message.data, isBinary=False)


async def start() -> None:
    connection = await nats.connect(arguments.nats)
    await connection.subscribe("odin.>", cb=received)
    factory = WebSocketServerFactory()
    factory.protocol = Client
    factory.setProtocolOptions(openHandshakeTimeout=60)
    reactor.listenTCP(arguments.port, factory, backlog=4096, interface="127.0.0.1")


task = loop.create_task(start())
reactor.run()
