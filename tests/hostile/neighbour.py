"""A well-behaved client, in a process of its own: `python neighbour.py PORT`.

Sends a `heartbeat` 50 ms after the last answer and prints a line for each, when it was sent and how
long the answer took, in seconds of the monotonic clock, which all processes share. Ends with its
standard input. No imports of ours: it must be there at once, and cost nothing.
"""

import select
import socket
import sys
import time

_PAUSE_S = 0.05
_MESSAGE = b'{"type":"heartbeat"}'
_FRAME = bytes([0x81, 0x80 | len(_MESSAGE)]) + bytes(4) + _MESSAGE


def main() -> None:
    """Until the parent closes our standard input, or the server us."""
    sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(
        b"GET /ws?channels=none HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\n\r\n" % int(sys.argv[1])
    )
    seen = b""
    while b"connectionEstablished" not in seen:
        seen += sock.recv(4096) or sys.exit("refused")
    while True:
        sent = time.monotonic()
        sock.sendall(_FRAME)
        answer = b""
        while b'"heartbeat"' not in answer:
            more = sock.recv(4096)
            if not more:
                sys.exit("closed")
            answer += more
            if answer[0] == 0x89:  # a ping: answered, not counted
                sock.sendall(bytes([0x8A, 0x80, 0, 0, 0, 0]))
                answer = answer[2:]
        print(f"{sent} {time.monotonic() - sent}", flush=True)
        if select.select([sys.stdin], [], [], _PAUSE_S)[0]:
            return


if __name__ == "__main__":
    try:
        main()
    except OSError:
        sys.exit("cut off")
