"""Times of many clients as a histogram that can be merged, and figures beside their musts."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

_BUCKET_US = 100


class Spread:
    """A histogram of times with buckets of 0.1 ms; least and most are exact to 1 us."""

    def __init__(self) -> None:
        self.buckets: Counter[int] = Counter()
        self.least_us, self.most_us = 0, 0

    @classmethod
    def of(cls, times_us: Iterable[int]) -> "Spread":
        """The spread of these times."""
        spread = cls()
        times = list(times_us)
        if times:
            spread.buckets.update(each // _BUCKET_US for each in times)
            spread.least_us, spread.most_us = min(times), max(times)
        return spread

    @classmethod
    def merged(cls, parts: Iterable[dict[str, Any]]) -> "Spread":
        """What several processes have sent."""
        spread = cls()
        there = [part for part in parts if part["buckets"]]
        for part in there:
            for bucket, count in part["buckets"].items():
                spread.buckets[int(bucket)] += count
        if there:
            spread.least_us = min(part["least_us"] for part in there)
            spread.most_us = max(part["most_us"] for part in there)
        return spread

    def to_json(self) -> dict[str, Any]:
        """For another process."""
        return {"buckets": self.buckets, "least_us": self.least_us, "most_us": self.most_us}

    @property
    def count(self) -> int:
        return self.buckets.total()

    @property
    def least_ms(self) -> float:
        return self.least_us / 1000

    @property
    def most_ms(self) -> float:
        return self.most_us / 1000

    def ms(self, percent: float) -> float:
        """A percentile: the upper end of its bucket, at most the largest time."""
        rank, seen = self.count * percent / 100, 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= rank:
                return min((bucket + 1) * _BUCKET_US, self.most_us) / 1000
        return 0.0

    def summary(self) -> dict[str, float]:
        """For a result file."""
        return {
            "count": self.count, "least_ms": self.least_ms, "p50_ms": self.ms(50),
            "p99_ms": self.ms(99), "max_ms": self.most_ms,
        }  # fmt: skip


def checked(rows: Iterable[tuple[str, str, str, bool | None]]) -> str:
    """Rows of (figure, value, must, whether it is met; None where there is no must)."""
    verdicts = {None: "", True: "yes", False: "NO"}
    lines = [("figure", "value", "must", "met")]
    lines += [(name, value, must, verdicts[met]) for name, value, must, met in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))  # type: ignore[arg-type] # four of them
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)
