"""A document of the web, fetched in a thread of its own: bounded in time and in size.

urllib blocks, and each of its timeouts begins anew with every byte: a server that sends one a
second would keep a thread for ever. So the deadline is kept from outside, by the reactor, which
ends the connection under the thread. The thread is a daemon: the process never waits for it.
"""

import contextlib
import socket
import ssl
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from threading import Lock, Thread
from typing import IO, Any, Generic, TypeVar
from urllib.error import HTTPError
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


class FetchFailed(Exception):
    """There is no document; the text says why, for operators."""


class Fetch(Generic[T]):
    """One GET of an http or https URL. Redirects are not followed.

    `answer` gets what `understand` makes of the document, which is done in the thread; or it fails
    with FetchFailed, or with what `understand` raised.
    """

    def __init__(
        self,
        url: str,
        understand: Callable[[bytes], T],
        reactor: Any,
        *,
        timeout_s: float,
        most_bytes: int,
    ) -> None:
        """Begin; `timeout_s` is for all of it."""
        self.answer: Deferred[T] = Deferred()
        self._url = url
        self._understand = understand
        self._reactor = reactor
        self._timeout_s = timeout_s
        self._most_bytes = most_bytes
        self._lock = Lock()
        self._held: list[socket.socket] = []
        self._ended = False
        self._deadline = reactor.callLater(timeout_s, self.end, f"took more than {timeout_s:g} s")
        Thread(target=self._run, name="fetch", daemon=True).start()

    def end(self, why: str = "given up") -> None:
        """Fail, if there is no answer yet, and let the thread end."""
        with self._lock:
            self._ended = True
            self._close()
        self._settle(Failure(FetchFailed(why)))

    def _settle(self, result: T | Failure) -> None:
        """Give the answer, the first time."""
        if self._deadline.active():
            self._deadline.cancel()
        if not self.answer.called:
            self.answer.callback(result)

    def _close(self) -> None:
        while self._held:
            with contextlib.suppress(OSError), self._held.pop() as sock:
                sock.shutdown(socket.SHUT_RDWR)

    # -- in the thread

    def _run(self) -> None:
        result: T | Failure
        try:
            result = self._understand(self._read())
        except Exception:
            result = Failure()
        with self._lock:
            self._close()
        with contextlib.suppress(RuntimeError):  # the reactor is gone
            self._reactor.callFromThread(self._settle, result)

    def _read(self) -> bytes:
        """Raises: FetchFailed."""
        try:
            opener = _opener(self._hold)
            with opener.open(Request(self._url), timeout=self._timeout_s) as response:
                document: bytes = response.read(self._most_bytes + 1)
        except HTTPError as error:
            error.close()
            raise FetchFailed(f"status {error.code}") from None
        except (OSError, HTTPException, ValueError) as error:
            text = " ".join(str(error).split())  # may quote the server
            raise FetchFailed(text[:200] or type(error).__name__) from None
        if len(document) > self._most_bytes:
            raise FetchFailed(f"larger than {self._most_bytes} bytes")
        return document

    def _hold(self, sock: socket.socket) -> None:
        """Keep a second handle of a connection, that can end it whatever it is doing."""
        with self._lock:
            if self._ended:
                raise FetchFailed("given up")
            self._held.append(sock.dup())


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        """Go nowhere: the answer is an error, as any other status but 200."""


def _opener(hold: Callable[[socket.socket], None]) -> OpenerDirector:
    """For http and https alone, by the proxies of the environment.

    Connections are held from before a TLS handshake, and a proxy's answer.
    """

    class Held(HTTPConnection):
        _sock: socket.socket | None = None

        @property
        def sock(self) -> socket.socket | None:
            return self._sock

        @sock.setter
        def sock(self, sock: socket.socket | None) -> None:
            if sock is not None and not isinstance(sock, ssl.SSLSocket):
                hold(sock)
            self._sock = sock

    class HeldTLS(HTTPSConnection, Held):
        pass

    class Plain(HTTPHandler):
        def http_open(self, req: Request) -> Any:
            return self.do_open(Held, req)

    class TLS(HTTPSHandler):
        def https_open(self, req: Request) -> Any:
            return self.do_open(HeldTLS, req, context=ssl.create_default_context())

    opener = OpenerDirector()
    for handler in (
        ProxyHandler(), Plain(), TLS(), _NoRedirects(), UnknownHandler(),
        HTTPErrorProcessor(), HTTPDefaultErrorHandler(),
    ):  # fmt: skip
        opener.add_handler(handler)
    return opener
