"""Listening sockets: made once, passed on, and closed without breaking a promise."""

import contextlib
import ctypes
import socket
import struct
from typing import Final, NamedTuple

from twisted.internet.error import CannotListenError

BACKLOG: Final = 4096
_SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h
_DROP_ALL: Final = struct.pack("=HBBI", 0x06, 0, 0, 0)  # one BPF instruction: return 0


class Listening(NamedTuple):
    """Sockets to listen on. `kept`: systemd holds them, too, and who waits there waits on."""

    sockets: list[socket.socket]
    kept: bool = False


def listen(
    host: str, port: int, *, send_buffer: int = 0, shared: bool = False, backlog: int = BACKLOG
) -> socket.socket:
    """A TCP socket that listens.

    `send_buffer`: bytes that the kernel may hold for each connection (SO_SNDBUF; it counts twice
    that, with its own overhead), 0 for its own choice, which grows to megabytes. `shared`: other
    sockets may listen at the same address (SO_REUSEPORT); the kernel deals connections out.

    Raises: CannotListenError.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        settle(sock, send_buffer)
        sock.bind((host, port))
        sock.listen(backlog)
    except (OSError, UnicodeError, ValueError) as error:  # the latter for what is no host at all
        sock.close()
        raise CannotListenError(host, port, error) from None
    return sock


def reason_of(error: CannotListenError) -> str:
    """One line for people."""
    cause = getattr(error.socketError, "strerror", None) or error.socketError
    return f"cannot listen on {error.interface or '*'}:{error.port}: {cause}"


def check_free(host: str, port: int) -> None:
    """Whether nobody listens there, also no socket that would share. Raises: CannotListenError."""
    listen(host, port).close()


def settle(sock: socket.socket, send_buffer: int) -> None:
    """Options that every connection inherits, and that cost nothing there."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if send_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)


def stop_arrivals(sock: socket.socket) -> None:
    """Let no further connection begin; those that wait to be accepted stay.

    Without it the kernel would reset whoever came between the last accept and the close. The
    filter is the socket's, whoever else holds it. Where there is none, nothing happens.
    """
    program = ctypes.create_string_buffer(_DROP_ALL)
    filter_ = struct.pack("HP", 1, ctypes.addressof(program))
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)


def name_of(sock: socket.socket) -> tuple[str, int]:
    """(address, port) of a listening socket; (path, 0) of a UNIX one."""
    name = sock.getsockname()
    return (name[0], name[1]) if isinstance(name, tuple) else (str(name), 0)


def again(sock: socket.socket, send_buffer: int) -> socket.socket:
    """One more socket that listens where a shared one does. Raises: CannotListenError."""
    host, port = name_of(sock)
    return listen(host, port, send_buffer=send_buffer, shared=True)
