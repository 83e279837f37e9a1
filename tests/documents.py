"""A web server for tests that serves one document, well or badly."""

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
Behaviour = Callable[["DocumentServer", socket.socket], None]


def jwks(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"keys": entries}).encode()


def jwk(key: PublicKey, **members: Any) -> dict[str, Any]:
    """A public key as an entry of a JWKS document."""
    kinds: dict[Any, Any] = {
        rsa.RSAPublicKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePublicKey: jwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PublicKey: jwt.algorithms.OKPAlgorithm,
    }
    (algorithm,) = (kinds[kind] for kind in kinds if isinstance(key, kind))
    return dict(json.loads(algorithm.to_jwk(key))) | members


def good(document: bytes) -> Behaviour:
    """Answers each request with the document."""

    def answer(server: "DocumentServer", sock: socket.socket) -> None:
        sock.recv(65_536)
        server.send(sock, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(document))
        server.send(sock, document)

    return answer


def saying(text: bytes) -> Behaviour:
    """Answers with this."""

    def answer(server: "DocumentServer", sock: socket.socket) -> None:
        sock.recv(65_536)
        server.send(sock, text)

    return answer


def dripping(start: bytes) -> Behaviour:
    """Says `start`, and then a byte every 50 ms, without end."""

    def answer(server: "DocumentServer", sock: socket.socket) -> None:
        server.send(sock, start)
        while not server.stopped:
            server.send(sock, b" ")
            time.sleep(0.05)

    return answer


def silent(server: "DocumentServer", _sock: socket.socket) -> None:
    while not server.stopped:
        time.sleep(0.05)


def endless(start: bytes, chunk: bytes) -> Behaviour:
    """300 MB."""

    def answer(server: "DocumentServer", sock: socket.socket) -> None:
        sock.recv(65_536)
        server.send(sock, start)
        while server.sent < 300 << 20:
            server.send(sock, chunk)

    return answer


class DocumentServer:
    """Serves each connection by `behaviour`, in a thread of its own, until it is stopped."""

    def __init__(self, behaviour: Behaviour, context: ssl.SSLContext | None = None) -> None:
        self.behaviour = behaviour
        self.requests = 0
        self.ended = 0  # connections whose client went away, or that were served
        self.sent = 0  # bytes
        self.stopped = False
        self._context = context
        self._listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        scheme = "http" if self._context is None else "https"
        return f"{scheme}://127.0.0.1:{self._listening.getsockname()[1]}/keys"

    def send(self, sock: socket.socket, data: bytes) -> None:
        sock.sendall(data)
        self.sent += len(data)

    def stop(self) -> None:
        self.stopped = True
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self.stopped:
                sock, _ = self._listening.accept()
                self.requests += 1
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
            self.behaviour(self, sock)
        sock.close()
        self.ended += 1
