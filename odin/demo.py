"""A simulated market: what `--demo` shows."""

import random
import secrets
import time
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from odin.bus.interfaces import IBus
from odin.wire.messages import encode

TICK_S: Final = 0.05  # one message each: 20 a second
_START: Final = {
    "BTC": 64_000.0, "ETH": 3_400.0, "SOL": 148.0, "BNB": 590.0, "XRP": 0.52, "ADA": 0.45,
    "DOGE": 0.125, "AVAX": 28.0, "DOT": 6.1, "LINK": 14.2, "LTC": 72.0, "ATOM": 7.4,
}  # fmt: skip
_EXCHANGES: Final = ("binance", "coinbase", "kraken")
_DAY_TICKS: Final = int(86_400 / TICK_S)


class _Token:
    """One token's random walk."""

    def __init__(self, name: str, price: float, rng: random.Random) -> None:
        self.name = name
        self.price = price
        self.open = price * (1 + rng.uniform(-0.04, 0.04))  # a day ago
        self.volume = price * rng.uniform(2e5, 9e5)
        self.supply = rng.uniform(1e7, 9e8)
        self.trades = 0

    def step(self, rng: random.Random) -> None:
        self.price *= 1 + rng.gauss(0, 0.0006)
        self.open += (self.price - self.open) / _DAY_TICKS

    @property
    def change(self) -> float:
        return 100 * (self.price / self.open - 1)


class Market(Service):
    """Publishes prices, trades, volumes, batches and statistics of a dozen tokens to the bus.

    The same seed gives the same walk; the nonces are new each time, or a second demo on the same
    broker would be taken for a repetition.
    """

    _log = Logger()

    def __init__(self, bus: IBus, reactor: Any, seed: int = 1) -> None:
        self._bus = bus
        self._rng = random.Random(seed)
        self._tokens = [_Token(name, price, self._rng) for name, price in _START.items()]
        self._ticks = 0
        self._run = secrets.token_hex(4)
        self._started = time.monotonic()
        self._loop = LoopingCall(self.tick)
        self._loop.clock = reactor

    def startService(self) -> None:
        super().startService()
        self._loop.start(TICK_S).addErrback(
            lambda failure: self._log.failure("the demo market stopped", failure)
        )

    def stopService(self) -> None:
        super().stopService()
        if self._loop.running:
            self._loop.stop()

    def tick(self) -> None:
        """One message, of one kind or the other."""
        self._ticks += 1
        for token in self._tokens:
            token.step(self._rng)
        if self._ticks % 600 == 0:
            self._publish("odin.heartbeat", "heartbeat", self._heartbeat())
        elif self._ticks % 100 == 0:
            self._publish("odin.market.statistics", "marketStats", self._statistics())
        elif self._ticks % 40 == 0:
            updates = [self._price(each) for each in self._tokens]
            batch = {"updates": updates, "count": len(updates)}
            self._publish("odin.token.batch.update", "batchUpdate", batch)
        else:
            token = self._rng.choice(self._tokens)
            kind = self._rng.random()
            if kind < 0.65:
                self._publish(f"odin.token.{token.name}.price", "priceUpdate", self._price(token))
            elif kind < 0.9:
                self._publish(f"odin.trades.{token.name}", "tradeExecuted", self._trade(token))
            else:
                volume = {
                    "tokenId": token.name,
                    "volume24h": round(token.volume, 2),
                    "volumeChange": round(self._rng.gauss(0, 3), 2),
                    "tradeCount": token.trades,
                }
                self._publish(f"odin.token.{token.name}.volume", "volumeUpdate", volume)

    def _publish(self, subject: str, kind: str, members: dict[str, Any]) -> None:
        now_ms = int(time.time() * 1000)
        head = {"type": kind, "timestamp": now_ms, "nonce": f"{self._run}-{self._ticks}"}
        # away for a moment: a market does not repeat itself
        self._bus.publish(subject, encode(head | members)).addErrback(lambda _: None)

    def _price(self, token: _Token) -> dict[str, Any]:
        return {
            "type": "priceUpdate",
            "tokenId": token.name,
            "price": round(token.price, 6),
            "change24h": round(token.change, 3),
            "volume24h": round(token.volume, 2),
            "marketCap": round(token.price * token.supply, 2),
            "source": "simulation",
            "exchange": self._rng.choice(_EXCHANGES),
            "lastUpdated": int(time.time() * 1000),
        }

    def _trade(self, token: _Token) -> dict[str, Any]:
        quantity = round(self._rng.lognormvariate(0, 1) * 1000 / token.price, 6)
        token.trades += 1
        token.volume += quantity * token.price
        return {
            "tokenId": token.name,
            "price": round(token.price, 6),
            "quantity": quantity,
            "side": self._rng.choice(("buy", "sell")),
            "tradeId": f"t-{self._rng.getrandbits(48):012x}",
            "exchange": self._rng.choice(_EXCHANGES),
            "fees": round(quantity * token.price * 0.001, 6),
        }

    def _statistics(self) -> dict[str, Any]:
        tokens = self._tokens
        by_change = sorted(tokens, key=lambda each: each.change)
        by_trades = sorted(tokens, key=lambda each: -each.trades)

        def brief(chosen: list[_Token]) -> list[dict[str, Any]]:
            return [{"tokenId": t.name, "change24h": round(t.change, 3)} for t in chosen]

        return {
            "totalMarketCap": round(sum(each.price * each.supply for each in tokens), 2),
            "totalVolume24h": round(sum(each.volume for each in tokens), 2),
            "activeTokens": len(tokens),
            "topGainers": brief(by_change[:-4:-1]),
            "topLosers": brief(by_change[:3]),
            "mostTraded": brief(by_trades[:3]),
        }

    def _heartbeat(self) -> dict[str, Any]:
        uptime_ms = int((time.monotonic() - self._started) * 1000)
        return {"serverTime": int(time.time() * 1000), "uptime": uptime_ms}
