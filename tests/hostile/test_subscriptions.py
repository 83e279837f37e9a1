"""Requests about subscriptions: what they cost is bounded by what was asked for."""

import json

from tests.hostile.crowded import CHANNELS, Crowded, name
from tests.hostile.field import TURN, Hostile
from tests.integration.clients import TEXT, frame
from tests.integration.harness import sign

_TOKENS = 16  # that a pattern may have


def subscribe(channels: list[str], **more: object) -> dict[str, object]:
    return {"type": "subscribe", "data": {"channels": channels, **more}}


def deep(number: int, tokens: int) -> str:
    """A pattern that matches nothing, with as many wildcards as it may have."""
    return "odin.token." + "*." * (tokens - 3) + f"x{number}"


def long(number: int, letter: str) -> str:
    """A pattern of 250 bytes and 127 tokens."""
    return (f"{letter}-{number}." + "a." * 126)[:249].rstrip(".") + ".>"


class SubscriptionAttacks(Crowded):
    """One anonymous client, within the limits of the protocol or not."""

    def test_snapshot(self) -> None:
        """A snapshot of 1,000 patterns with wildcards is no product of patterns and channels (A1)."""
        for title, tokens in (("19 tokens", 19), ("16 tokens", _TOKENS)):
            with self.attack(f"A1 snapshot of 1,000 patterns, {title}", cost=9000, turn=TURN):
                client = self.opened()
                asked = [deep(number, tokens) for number in range(1000)]
                answer = client.ask(subscribe(asked, snapshot=True))
                self.assertEqual(answer["type"], "subscription_ack")

    def test_recovery(self) -> None:
        """So is a recovery (A1)."""
        epoch, offset = self.position()
        where = {"epoch": epoch, "offset": offset - 9_000}
        for title, patterns in (
            ("short patterns", [f"*.*.x{number}.>" for number in range(1000)]),
            ("16 tokens", [deep(number, _TOKENS) for number in range(1000)]),
        ):
            with self.attack(f"A1 recovery of 1,000 {title}", cost=9000, turn=TURN):
                client = self.opened()
                answer = client.ask(subscribe(patterns, recover=where))
                self.assertEqual(answer["type"], "subscription_ack")

    def test_long_patterns(self) -> None:
        """Patterns of 127 tokens make nothing that comes later dear, and take no memory (A3)."""
        with self.attack("A3 patterns of 127 tokens", cost=6000, turn=TURN, peak_mb=4):
            client = self.opened()
            for letter in "abcde":
                client.ask(subscribe([long(number, letter) for number in range(204)]))
            self._churn(client)

    def test_many_patterns(self) -> None:
        """A subscription more or less costs the same beside 1,020 others (A3)."""
        for title, patterns in (
            ("1,020 patterns", [f"odin.t{number}.*" for number in range(1020)]),
            ("1,020 names", [f"odin.t{number}" for number in range(1020)]),
        ):
            with self.attack(f"A3 churn beside {title}", cost=6000, turn=TURN):
                client = self.opened()
                client.ask(subscribe(patterns))
                self._churn(client)

    def test_same_recovery(self) -> None:
        """Recoveries as often as allowed: of the same, of others each time, of too much (A13)."""
        epoch, offset = self.position()
        where = {"epoch": epoch, "offset": offset - 9_900}
        behind = {"epoch": epoch, "offset": max(0, offset - 10_500)}
        for title, requests in (
            ("the same", [subscribe(["odin.*.*.volume"], recover=where)] * 100),
            ("others", [subscribe([f"odin.*.*.{n}"], recover=where) for n in range(100)]),
            ("too much", [subscribe([">"], recover=behind)] * 100),
        ):
            with self.attack(f"A13 100 recovers: {title}", cost=9000, turn=TURN):
                self.opened().paced(requests)

    def test_other_recoveries(self) -> None:
        """Many different recoveries leave nothing behind (A13)."""
        epoch, offset = self.position()
        with self.attack("A13 1,000 different recovers", kept_mb=4, turn=TURN):
            for first in range(0, 1000, 100):
                client = self.opened()
                client.paced([
                    subscribe(
                        [f"n{number}.{each}" for each in range(20)],
                        recover={"epoch": epoch, "offset": offset - number % 50},
                    )
                    for number in range(first, first + 100)
                ])  # fmt: skip
                client.close()

    def test_other_snapshots(self) -> None:
        """Nor do snapshots of many sets of patterns, of clients that have gone (A13)."""
        with self.attack("A13 255 different snapshots", kept_mb=8, turn=TURN):
            for first in range(0, 255, 85):
                client = self.opened()
                client.paced(
                    [subscribe(["odin.token.*.price", f"x{first + n}"]) for n in range(85)]
                )
                self.nats.publish_each(*((name(n), b'{"v":0}') for n in range(0, CHANNELS, 5)))
                client.close()

    def test_large_tokens(self) -> None:
        """A token with many channels is read once, in time that grows with them (A28)."""
        channels = [f"a{number}.*" for number in range(600)]
        token = sign(channels=channels)
        with self.attack("A28 10 tokens with 600 channels", cost=10 * 500, turn=TURN):
            client = self.opened()
            for _ in range(10):
                answer = client.ask({"type": "auth", "token": token})
                self.assertEqual(answer["type"], "auth_ack")

    def test_at_once(self) -> None:
        """What many clients ask for in the same moment is not done in one turn of the loop."""
        asked = [deep(number, _TOKENS) for number in range(1000)]
        data = frame(TEXT, json.dumps(subscribe(asked, snapshot=True)).encode())
        with self.attack("50 clients subscribe at once", turn=TURN, peak_mb=20):
            clients = [self.opened() for _ in range(50)]
            for client in clients:
                client.pour(data, 1)

    def _churn(self, client: Hostile) -> None:
        """One name more and one less, as often as the burst allows it."""
        client.paced([subscribe(["z"]), {"type": "unsubscribe", "data": {"channels": ["z"]}}] * 40)
