"""Memory: what one hostile client can make the server keep, and many of them."""

import contextlib
import json
import os
import resource
from collections.abc import Callable

from tests.hostile.crowded import Crowded, name
from tests.hostile.field import TURN, Hostile
from tests.hostile.test_http import request
from tests.hostile.test_subscriptions import deep, subscribe
from tests.integration.clients import PING, TEXT, frame

_MESSAGE_KB = 64  # server.maxMessageSize
_KEEPS_KB = 128  # limits.keptPerClient: subscriptions, and requests that wait
CLIENTS = int(os.environ.get("ATTACK_CLIENTS", "60"))
_FEW = 100
_PENDING_KB = 1024  # delivery.maxPending
_KEPT_KB = 64  # a client beside that, and beside what the kernel holds


class CrowdAttacks(Crowded):
    """Default limits, 10,000 channels with 1.5 KB each."""

    payload = 1500

    def test_unread_snapshots(self) -> None:
        """A snapshot that nobody reads is not copied for each (A14)."""
        limit = 10 * (_PENDING_KB + _KEPT_KB) / 1024
        with self.attack("A14 10 unread snapshots", peak_mb=limit, turn=TURN):
            for _ in range(10):
                client = self.hostile(None, 4096)
                client.open("?channels=none")
                client.say(subscribe(["odin.>"], snapshot=True))

    def test_unread_replays(self) -> None:
        """Nor is a replay, each of its own (A14)."""
        limit = 10 * (_PENDING_KB + _KEPT_KB) / 1024
        epoch, offset = self.position()
        with self.attack("A14 10 unread replays", peak_mb=limit, turn=TURN):
            for number in range(10):
                client = self.hostile(None, 4096)
                client.open("?channels=none")
                where = {"epoch": epoch, "offset": offset - 5000 - number}
                client.say(subscribe(["odin.token.*.price", f"x{number}"], recover=where))

    def test_subscriptions(self) -> None:
        """Many with the worst legal subscriptions."""
        self._many("the worst subscriptions", self._subscribes, _KEPT_KB + _KEEPS_KB)

    def test_half_messages(self) -> None:
        """Many that stop in the middle of a message."""
        self._many("half a message", self._half_a_message, _KEPT_KB + _MESSAGE_KB)

    def test_unread_replies(self) -> None:
        """Many that ask for long replies and do not read them."""
        self._many("unread replies", self._unread_replies, _KEPT_KB + _PENDING_KB)

    def test_many_unread_snapshots(self) -> None:
        """Many that ask for a snapshot and do not read it."""
        self._many("unread snapshots", self._unread_snapshot, _KEPT_KB + _PENDING_KB)

    def test_many_unread_replays(self) -> None:
        """Many that ask for replays, each for another one, and do not read them."""
        epoch, offset = self.position()

        def act(client: Hostile, number: int) -> None:
            client.open("?channels=none")
            where = {"epoch": epoch, "offset": offset - 9000 - number % 500}
            request = subscribe(["odin.token.*.price", f"x{number}"], recover=where)
            _send(client, frame(TEXT, json.dumps(request).encode()))

        self._many("unread replays", act, _KEPT_KB + _PENDING_KB)

    def test_pipelined(self) -> None:
        """Many that send requests and read no answer."""
        self._many("pipelined requests", self._pipelined, _KEPT_KB)

    def test_half_bodies(self) -> None:
        """Many that do not finish a request's body."""
        self._many("half-sent bodies", self._half_a_body, _KEPT_KB + _MESSAGE_KB)

    def test_waiting_requests(self) -> None:
        """Many whose requests wait behind a snapshot that they do not read."""
        kept_kb = _KEPT_KB + _KEEPS_KB + _PENDING_KB
        self._many("requests that wait", self._waiting, kept_kb)

    def _many(self, title: str, act: Callable[[Hostile, int], None], each_kb: int) -> None:
        """So many clients do this; each takes no more than so much."""
        most_mb = 1 + CLIENTS * each_kb / 1024
        # a table of 700,000 patterns grows in one step of 40 ms
        turn = TURN if CLIENTS <= _FEW else None
        with self.attack(f"{CLIENTS} clients: {title}", turn=turn, peak_mb=most_mb) as figures:
            clients = []
            for number in range(CLIENTS):  # each at once: a handshake has its time
                clients.append(self._connected())
                act(clients[-1], number)
        figures.name += f" ({figures.peak_mb * 1024 / CLIENTS:.0f} KB each)"
        for client in clients:
            client.close()

    def _connected(self) -> Hostile:
        return self.hostile(None, 4096)

    def _subscribes(self, client: Hostile, number: int) -> None:
        client.open("?channels=none")
        asked = [f"o{number}.*.{each}.*" for each in range(700)]
        asked += [deep(each, 16) + str(number) for each in range(324)]
        _send(client, frame(TEXT, json.dumps(subscribe(asked)).encode()))

    def _half_a_message(self, client: Hostile, _number: int) -> None:
        client.open("?channels=none")
        _send(client, frame(TEXT, b'{"type":"ping","nonce":"' + b"x" * 60_000, length=65_000))

    def _unread_replies(self, client: Hostile, number: int) -> None:
        client.open("?channels=none")
        names = [f"{number}.{each}." + "n" * 45 for each in range(1000)]
        again = json.dumps({"type": "subscriptions"}).encode()
        data = frame(TEXT, json.dumps(subscribe(names)).encode()) + frame(TEXT, again) * 60
        _send(client, data)

    def _unread_snapshot(self, client: Hostile, _number: int) -> None:
        client.open("?channels=none")
        _send(client, frame(TEXT, json.dumps(subscribe(["odin.>"], snapshot=True)).encode()))

    def _pipelined(self, client: Hostile, _number: int) -> None:
        _send(client, request("GET", "/stats", client.host) * 200)

    def _half_a_body(self, client: Hostile, _number: int) -> None:
        head = f"POST /publish HTTP/1.1\r\nHost: {client.host}\r\nContent-Length: 65000\r\n\r\n"
        _send(client, head.encode() + b"x" * 64_000)

    def _waiting(self, client: Hostile, _number: int) -> None:
        client.open("?channels=none")
        first = subscribe(["odin.>"], snapshot=True)
        others = [subscribe([f"{name(each)}.{n}" for each in range(50)]) for n in range(60)]
        _send(client, b"".join(frame(TEXT, json.dumps(each).encode()) for each in (first, *others)))


class EverythingAttacks(Crowded):
    """One client that does all of it, in turn."""

    def test_everything(self) -> None:
        """All attacks of one client, one after another: memory and the others stay."""
        epoch, offset = self.position()
        with self.attack("one client, all of it in turn", turn=TURN, peak_mb=4, kept_mb=4):
            for data in (
                frame(PING) * 5000,
                frame(PING, length=1 << 40) + bytes(4 << 20),
                frame(TEXT, b"\xff" * 64, rsv=4) + frame(PING) * 5000,
                frame(TEXT, b"x", fin=False) + frame(0, b"x" * 16, fin=False) * 4000,
                frame(TEXT, json.dumps(subscribe([deep(n, 16) for n in range(1000)], snapshot=True)).encode()) * 3,
                *(
                    frame(TEXT, json.dumps(subscribe([pattern], recover={"epoch": epoch, "offset": offset - back})).encode()) * 30
                    for pattern, back in ((">", 9000), ("odin.*.*.volume", 9500), (name(5), 9900))
                ),
                frame(TEXT, b"[" * 32_000) * 4,
                b"".join(frame(TEXT, json.dumps({"type": "ping", "nonce": "n" * 30_000, "id": n}).encode()) for n in range(100)),
            ):  # fmt: skip
                client = self.opened()
                client.pour(data, 0.2)
                client.close()
            client = self.hostile()
            client.pour(request("GET", "/stats", client.host) * 5000, 0.2)


def _send(client: Hostile, data: bytes) -> None:
    """Send without reading, as much as is taken at once."""
    client.socket.settimeout(0.2)
    with contextlib.suppress(OSError):
        client.socket.sendall(data)


def _room() -> None:
    """More clients than a process may have files by default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, CLIENTS + 500)), hard))


_room()
