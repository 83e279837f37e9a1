"""Brokers that lose things: a cluster of three, and a network in between that can be cut."""

import asyncio
import contextlib
import json
import socket
import tempfile
import threading
import time
from typing import Any

import nats

from tests.integration.clients import PATIENCE_S
from tests.integration.harness import Nats, free_port


async def _ask(url: str, what: str, body: object) -> Any:
    client = await nats.connect(
        url.split(","), connect_timeout=2, allow_reconnect=False, error_cb=_ignore
    )
    try:
        data = json.dumps(body).encode() if body else b""
        return json.loads((await client.request(f"$JS.API.{what}", data, timeout=3)).data)
    finally:
        await client.close()


async def _ignore(_error: Exception) -> None:
    pass


def jetstream(url: str, what: str, body: object = None) -> Any:
    """What JetStream's API answers, as soon as it does so without an error."""
    stop_at = time.monotonic() + PATIENCE_S
    while True:
        problem: Any
        try:
            answer = asyncio.run(_ask(url, what, body))
            if "error" not in answer:
                return answer
            problem = answer["error"]
        except (OSError, TimeoutError, nats.errors.Error) as error:
            problem = error
        if time.monotonic() > stop_at:
            raise AssertionError(f"{what}: {problem!r}")
        time.sleep(0.1)


class Cluster:
    """Three nats-servers with JetStream; their stores last until the end."""

    def __init__(self) -> None:
        self._ports = [free_port() for _ in range(3)]
        self._routes = [free_port() for _ in range(3)]
        self._folders = [tempfile.mkdtemp() for _ in range(3)]
        self.nodes = [self._node(number) for number in range(3)]

    def _node(self, number: int) -> Nats:
        routes = ",".join(f"nats-route://127.0.0.1:{each}" for each in self._routes)
        return Nats(
            "-js", "-sd", self._folders[number], "-n", f"n{number}", "-cluster_name", "c",
            "-cluster", f"nats://127.0.0.1:{self._routes[number]}", "-routes", routes,
            port=self._ports[number],
        )  # fmt: skip

    @property
    def url(self) -> str:
        return self.url_without(-1)

    def url_without(self, number: int) -> str:
        """The URL of all nodes but one."""
        urls = [f"nats://127.0.0.1:{each}" for each in self._ports]
        return ",".join(each for at, each in enumerate(urls) if at != number)

    def leader(self, stream: str) -> int:
        """The number of the node that leads a stream."""
        info = jetstream(self.url, f"STREAM.INFO.{stream}")
        return int(info["cluster"]["leader"][1:])

    def kill(self, number: int) -> None:
        self.nodes[number].stop()

    def start(self, number: int) -> None:
        self.nodes[number] = self._node(number)

    def stop(self) -> None:
        for each in self.nodes:
            each.stop()


class Network:
    """TCP to a port, until it is cut; connections are refused until it is mended."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._whole = True
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def cut(self) -> None:
        self._whole = False
        for each in self._sockets:
            _shut(each)
        self._sockets = []

    def mend(self) -> None:
        self._whole = True

    def close(self) -> None:
        self.cut()
        _shut(self._listener)

    def _accept(self) -> None:
        while True:
            try:
                near, _address = self._listener.accept()
            except OSError:
                return
            if not self._whole:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            self._sockets += (near, far)
            for pair in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=pair, daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    _shut(source)
    _shut(target)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
