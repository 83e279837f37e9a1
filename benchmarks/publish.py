"""The publisher: so many messages a second to NATS, over a raw socket, one batch a millisecond."""

import argparse
import json
import socket
import time


def main() -> None:
    """Publishes, then prints the rate that was reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--prefix", default="T", help="of the tokens")
    parser.add_argument("--bytes", type=int, default=200)
    arguments = parser.parse_args()
    sock = socket.create_connection(("127.0.0.1", arguments.port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\n')
    pad = "x" * max(0, arguments.bytes - 150)
    prefix = arguments.prefix
    run = f"{time.time_ns():x}"
    sent, started = 0, time.perf_counter()
    while sent < arguments.count:
        owed = min(arguments.count, int((time.perf_counter() - started) * arguments.rate) + 1)
        batch = []
        for number in range(sent, owed):
            channel = number % arguments.channels
            payload = (
                f'{{"type":"priceUpdate","timestamp":{time.time_ns() // 1_000_000},'
                f'"nonce":"{run}-{number}","tokenId":"{prefix}{channel}","price":{number}.5,'
                f'"seq":{number // arguments.channels},"ts":{time.monotonic_ns()},"pad":"{pad}"}}'
            )
            batch.append(f"PUB odin.token.{prefix}{channel}.price {len(payload)}\r\n{payload}\r\n")
        sock.sendall("".join(batch).encode())
        sent = owed
        time.sleep(0.001)
    took = time.perf_counter() - started
    sock.sendall(b"PING\r\n")
    while b"PONG" not in sock.recv(65536):
        pass
    print(json.dumps({"rate": sent / took}))


if __name__ == "__main__":
    main()
