"""The worst legal request: a search among many, at default limits.

    python -m tests.hostile.legal

Each request is made by a client of its own at a server with 10,000 channels and a history of 50,000
messages. Told are the CPU time that it takes in all, and the longest turn of the loop in it: the
least of three tries if it is long, because the machine disturbs but never helps.
"""

import json
import random
import sys
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from tests.hostile.crowded import Crowded, name
from tests.hostile.field import Hostile, ground
from tests.hostile.test_http import request
from tests.integration.clients import HANDSHAKE, TEXT, frame
from tests.integration.harness import sign

_MOST = 1024  # limits.channelsPerClient
_MESSAGE = 65_536  # server.maxMessageSize
_TRIES = 3
_SMALL_S = 0.002  # a turn that is not looked at again
_DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate\r\n"


class Found(NamedTuple):
    """What a request cost."""

    name: str
    cpu_ms: float
    turn_ms: float


class Request(NamedTuple):
    """`data` is what is measured; `before` are messages whose answers are waited for."""

    name: str
    data: bytes
    before: tuple[object, ...] = ()
    extra: str | None = ""  # header lines of the handshake; None for no WebSocket
    query: str = "?channels=none"


def shapes() -> Iterator[tuple[str, list[str]]]:
    """Sets of patterns, each within a message."""
    numbers = range(_MOST)
    dice = random.Random(1)
    yield "short names", [f"x{n}" for n in numbers]
    yield "names that exist", [name(n) for n in numbers]
    yield "names of 50 bytes", [f"odin.token.{'n' * 30}{n:05}.p" for n in numbers]
    yield "x.*", [f"x{n}.*" for n in numbers]
    yield "*.x", [f"*.x{n}" for n in numbers]
    yield "x.>", [f"x{n}.>" for n in numbers]
    yield "*.*.x.>", [f"*.*.c{n}.>" for n in numbers]
    yield "odin.*.x.*", [f"odin.*.c{n}.*" for n in numbers]
    yield "*.token.x.price", [f"*.token.c{n}.price" for n in numbers]
    yield "*.*.*.x", [f"*.*.*.x{n}" for n in numbers]
    yield "all of *", ["*." * n + "*" for n in range(16)] + [">"]
    yield "16 tokens, * and a name", ["*." * 15 + f"x{n}" for n in numbers]
    yield "16 tokens, names", ["odin.token." + f"c{n}." + "a." * 12 + "b" for n in numbers]
    yield "16 tokens, a name and *", [f"x{n}" + ".*" * 15 for n in numbers]
    choice = ("odin", "*"), ("token", "*")
    yield (
        "odin|*.token|*.x|*.price|*",
        [
            f"{choice[0][n & 1]}.{choice[1][n >> 1 & 1]}.c{n >> 3}.{('price', '*')[n >> 2 & 1]}"
            for n in numbers
        ],
    )
    yield "2^10 of a and *", [".".join("a*"[n >> bit & 1] for bit in range(10)) for n in numbers]
    yield (
        "16 tokens of a and *",
        [".".join(dice.choice(("a", "*", "b")) for _ in range(15)) + ".>" for _ in numbers],
    )
    yield "250 bytes", [f"{n:03}" + "x" * 247 for n in range(250)]
    yield "250 bytes of 16 tokens", [f"{n:03}." + "x" * 231 + ".a" * 14 for n in range(230)]
    yield "refused", ["bad..name"] * 2000
    yield "one and the same", ["x.*"] * _MOST
    yield (
        "a and *, 127 tokens",
        [".".join(dice.choice("a*") for _ in range(127)) for _ in range(240)],
    )
    yield "names without end", ["a" + ".a" * n for n in range(120)]


def requests(epoch: str, offset: int) -> Iterator[Request]:
    """All that is tried."""
    yield from _about_subscriptions(epoch, offset)
    yield from _about_tokens()
    yield from _messages()
    yield from _http()


def _about_subscriptions(epoch: str, offset: int) -> Iterator[Request]:
    backs = {"9,900": offset - 9900, "9": offset - 9, "too old": 1, "ahead": offset + 5}
    for shape, every in shapes():
        patterns = every
        data = {"channels": patterns}
        plain = {"type": "subscribe", "data": data}
        if len(json.dumps(plain)) > _MESSAGE:
            patterns = patterns[: len(patterns) * _MESSAGE // len(json.dumps(plain)) - 10]
            data = {"channels": patterns}
            plain = {"type": "subscribe", "data": data}
        yield Request(f"subscribe: {shape}", _text(plain))
        yield Request(
            f"snapshot: {shape}", _text({"type": "subscribe", "data": data | {"snapshot": True}})
        )
        for back, at in backs.items():
            where = {"recover": {"epoch": epoch, "offset": at}}
            yield Request(
                f"recover {back}: {shape}", _text({"type": "subscribe", "data": data | where})
            )
        yield Request(
            f"unsubscribe: {shape}", _text({"type": "unsubscribe", "data": data}), (plain,)
        )
        yield Request(f"list: {shape}", _text({"type": "subscriptions"}), (plain,))
        one = _text({"type": "subscribe", "data": {"channels": ["one.more"]}})
        yield Request(f"one more: {shape}", one, (plain,))
        narrow = sign(channels=[f"a{n}.*" for n in range(500)])
        yield Request(f"auth: {shape}", _text({"type": "auth", "token": narrow}), (plain,))
    for shape, patterns in (
        ("everything", [">"]),
        ("prices", ["odin.*.*.price"]),
        ("one", [name(1)]),
    ):
        data = {"channels": patterns}
        yield Request(
            f"snapshot: {shape}", _text({"type": "subscribe", "data": data | {"snapshot": True}})
        )
        for back in (100, 9_900, 20_000, 45_000):
            where = {"recover": {"epoch": epoch, "offset": max(1, offset - back)}}
            both = data | where | {"snapshot": True}
            yield Request(
                f"recover {back}: {shape}", _text({"type": "subscribe", "data": data | where})
            )
            yield Request(
                f"recover {back} or snapshot: {shape}", _text({"type": "subscribe", "data": both})
            )


def _about_tokens() -> Iterator[Request]:
    for shape, channels in (
        ("names", [f"a{n}" for n in range(700)]),
        ("x.*", [f"a{n}.*" for n in range(500)]),
        ("*", [".".join("a*"[n >> bit & 1] for bit in range(6)) for n in range(64)] * 5),
        ("2^8 of a and *", [".".join("a*"[n >> bit & 1] for bit in range(8)) for n in range(256)]),
        ("deep", ["*." * n + "a" for n in range(70)]),
    ):
        token = sign(channels=channels)
        yield Request(
            f"auth: a token of {len(token)} bytes, {shape}", _text({"type": "auth", "token": token})
        )
        wanted = [f"a{n}.b" for n in range(_MOST)]
        yield Request(
            f"subscribe under a token, {shape}", _text({"type": "subscribe", "data": {"channels": wanted}}),
            ({"type": "auth", "token": token},),
        )  # fmt: skip
        wanted = [".".join("a*"[n >> bit & 1] for bit in range(8)) for n in range(256)] * 4
        yield Request(
            f"subscribe stars under a token, {shape}", _text({"type": "subscribe", "data": {"channels": wanted}}),
            ({"type": "auth", "token": token},),
        )  # fmt: skip
    yield Request("auth: a bad token of 60 KB", _text({"type": "auth", "token": "a." * 30_000}))
    yield Request(
        "auth: a bad token of 8 KB", _text({"type": "auth", "token": "eyJh." + "a" * 8000 + ".b"})
    )


def _messages() -> Iterator[Request]:
    token = f"Authorization: Bearer {sign(publish=['>'])}\r\n"
    size = _MESSAGE - 200
    values = {
        "deep arrays": "[" * (size // 2) + "]" * (size // 2),
        "deep objects": '{"a":' * (size // 6) + "1" + "}" * (size // 6),
        "500 deep": "[" * 500 + "]" * 500,
        "numbers": "[" + "1," * (size // 2 - 1) + "1]",
        "floats": "[" + "1e9," * (size // 4 - 1) + "1]",
        "a long number": "9" * size,
        "a long float": "0." + "9" * size,
        "empty objects": "[" + "{}," * (size // 3 - 1) + "1]",
        "keys": "{" + ",".join(f'"{n}":0' for n in range(6500)) + "}",
        "one key again": "{" + ",".join('"a":0' for _ in range(10_000)) + "}",
        "channel again": "{" + ",".join('"channel":0' for _ in range(5000)) + "}",
        "nonce again": "{" + ",".join('"nonce":"n"' for _ in range(5000)) + "}",
        "escapes": '"' + "\\u00e4" * (size // 6) + '"',
        "half characters": '"' + "\\ud800" * (size // 6) + '"',
        "text": '"' + "ä" * (size // 2) + '"',
    }
    for title, value in values.items():
        text = f'{{"type":"publish","channel":"odin.token.c1.price","data":{value}}}'
        yield Request(f"publish: {title}", frame(TEXT, text.encode()), extra=token)
        yield Request(f"ping with {title}", frame(TEXT, f'{{"type":"ping","x":{value}}}'.encode()))
        yield Request(
            f"ping, nonce is {title}", frame(TEXT, f'{{"type":"ping","nonce":{value}}}'.encode())
        )
        yield Request(
            f"ping, id is {title}", frame(TEXT, f'{{"type":"ping","id":{value}}}'.encode())
        )
        yield Request(f"a message that is {title}", frame(TEXT, value.encode()))
        yield Request(
            f"subscribe to {title}",
            frame(TEXT, f'{{"type":"subscribe","data":{{"channels":{value}}}}}'.encode()),
        )
    ping = json.dumps({"type": "ping", "nonce": "n" * (size - 100)}).encode()
    for part in (1, 15, 16, 100, 4000):
        yield Request(f"a message in fragments of {part}", _fragments(ping, part))
    for title, plain in (
        ("zeros", b"0" * size),
        ("noise", random.Random(1).randbytes(size // 2).hex().encode()),
    ):
        deflate = zlib.compressobj(wbits=-15)
        data = deflate.compress(b'{"type":"ping","nonce":"' + plain + b'"}') + deflate.flush(
            zlib.Z_SYNC_FLUSH
        )
        yield Request(f"deflated {title}", frame(TEXT, data[:-4], rsv=4), extra=_DEFLATE)
    yield Request(
        "empty deflate blocks", frame(TEXT, b"\x00\x00\x00\xff\xff" * 12_000, rsv=4), extra=_DEFLATE
    )


def _http() -> Iterator[Request]:
    host = "127.0.0.1"
    for page in (
        "/",
        "/livez",
        "/readyz",
        "/health",
        "/stats",
        "/metrics",
        "/nothing",
        "/ws",
        "/auth/token",
    ):
        yield Request(f"GET {page}", request("GET", page, host), extra=None)
    names = ",".join(f"a{n}.*" for n in range(900))
    yield Request(
        "GET /auth/token with 8 KB",
        request("GET", f"/auth/token?channels={names}", host),
        extra=None,
    )
    yield Request(
        "GET with 8 KB of parameters", request("GET", "/livez?" + "a&" * 3900, host), extra=None
    )
    lines = "".join(f"X-{n}: {'y' * 120}\r\n" for n in range(95))
    yield Request("GET with 95 headers", request("GET", "/livez", host, lines), extra=None)
    for title, kind in (
        ("JSON", "Content-Type: application/json\r\n"),
        ("form", "Content-Type: application/x-www-form-urlencoded\r\n"),
        ("multipart", "Content-Type: multipart/form-data; boundary=x\r\n"),
    ):
        for page in ("/nothing", "/publish?subject=odin.token.c1.price"):
            auth = f"{kind}Authorization: Bearer {sign(publish=['>'])}\r\n"
            part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'
            body = part * 1200 + b"--x--\r\n" if title == "multipart" else b"a&" * 32_000
            yield Request(
                f"POST {page[:8]} {title}", request("POST", page, host, auth, body), extra=None
            )
    chunks = b"1\r\na\r\n" * 10_000 + b"0\r\n\r\n"
    head = f"POST /nothing HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n"
    yield Request("POST in chunks of one byte", head.encode() + chunks, extra=None)
    upgrade = HANDSHAKE.replace("{host}", host)
    wild = ",".join(f"a{n}.*" for n in range(900))
    token = sign(channels=[f"a{n}.*" for n in range(480)])
    for title, text in (
        ("plain", upgrade.replace("{path}", "/ws")),
        ("8 KB of channels", upgrade.replace("{path}", f"/ws?channels={wild}")),
        ("a token of 8 KB", upgrade.replace("{path}", "/ws") + f"Authorization: Bearer {token}\r\n"),
        ("95 headers", upgrade.replace("{path}", "/ws") + lines),
        ("1,000 protocols", upgrade.replace("{path}", "/ws") + "Sec-WebSocket-Protocol: " + "a," * 3900 + "a\r\n"),
        ("1,000 extensions", upgrade.replace("{path}", "/ws") + "Sec-WebSocket-Extensions: " + "permessage-deflate," * 400 + "x\r\n"),
    ):  # fmt: skip
        yield Request(f"handshake, {title}", (text + "\r\n").encode(), extra=None)


def _text(message: object) -> bytes:
    return frame(TEXT, json.dumps(message).encode())


def _fragments(text: bytes, size: int) -> bytes:
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    middle = b"".join(frame(0, part, fin=False) for part in parts[1:-1])
    return frame(TEXT, parts[0], fin=False) + middle + frame(0, parts[-1])


class Search(Crowded):
    """The server with the longest history that it keeps by default."""

    messages = 50_000

    def measure(self, request: Request) -> Found:
        """The least of several tries."""
        victim, _neighbour = ground(self.odin)
        tries = []
        for _ in range(_TRIES):
            client = Hostile(self.odin.host)
            if request.extra is not None:
                client.open(request.query, request.extra)
            for each in request.before:
                client.ask(each)
            victim.quiet()
            victim.forget()
            cpu_s = victim.cpu_s
            client.pour(request.data, 5)
            while client.drain(0.15):
                pass
            victim.quiet()
            tries.append((victim.cpu_s - cpu_s, victim.longest_turn_s()))
            client.close()
            if tries[-1][1] < _SMALL_S:
                break
        cpu_s, turn_s = (min(column) for column in zip(*tries, strict=True))
        return Found(request.name, cpu_s * 1e3, turn_s * 1e3)

    def search(self) -> list[Found]:
        """All of them, measured."""
        epoch, offset = self.position()
        found = []
        for each in requests(epoch, offset):
            found.append(self.measure(each))
            if not self.odin.running:
                raise AssertionError(f"the server ended by {each.name}")
        return found

    def runTest(self) -> None:
        """Unused: it is no test."""


def report(found: list[Found], most: int = 10) -> str:
    """The worst, by the longest turn and by all of it."""
    lines = [f"{len(found)} legal requests; aims: 5 ms of the loop at a time, 20 ms in all"]
    for title, key in (("the longest turn", 2), ("CPU in all", 1)):
        lines.append(f"\nthe {most} worst by {title}:{'':20}turn ms   CPU ms")
        for each in sorted(found, key=lambda it: -it[key])[:most]:
            lines.append(f"  {each.name:50} {each.turn_ms:8.1f} {each.cpu_ms:8.1f}")
    return "\n".join(lines)


def main() -> None:
    print(report(Search().search(), int((sys.argv[1:] or ["10"])[0])))


if __name__ == "__main__":
    main()
