"""The hub: every session is registered here, every message goes through `deliver`."""

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from twisted.application.service import Service
from twisted.logger import Logger

from odin.delivery.arrivals import Arrivals
from odin.delivery.group import Clock, Group, Recipient, Sweep
from odin.delivery.groups import Groups
from odin.delivery.message import Message, notice

# How long one turn may send before pings, handshakes and other reads get theirs.
SLICE_S: Final = 0.002
MOST_WAITING: Final = 1 << 19  # messages that wait, counted in each group: 8 bytes each
MOST_BYTES: Final = 16 << 20  # of their frames
_REMEMBER_S: Final = 0.25


class Meter(Protocol):
    """What the hub tells about its work, once a round."""

    def round_done(self, latency_s: float, duration_s: float) -> None:
        """A round went out: the age of its oldest message, and how long sending took."""


class Hub(Service):
    """Delivers each message once to every session that wants it.

    Messages that arrive within one reactor turn leave together: their frames wait in their groups
    until `soon` calls back, once, and go out joined. There is no timer: an idle server sends at
    the end of the turn, a busy one joins by itself. Long rounds are cut into slices of SLICE_S.

    In a round each group sends one batch; what it has beyond that waits for the next round. When
    more waits in all groups together than MOST_WAITING or MOST_BYTES, `regulate` is called with
    False: the bus has to wait, until half of it is gone.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        sweep: Sweep,
        soon: Callable[[Callable[[], None]], object],
        clock: Clock,
        meter: Meter,
        regulate: Callable[[bool], None] = lambda _more: None,
    ) -> None:
        """`clock`: seconds, monotonic. `soon`: runs a callable after the reads of this turn.
        `regulate`: told whether the bus may bring more, each time that changes."""
        self.groups = Groups()
        self._batches = self.groups.batches
        self.sessions = 0
        self.delivered = 0  # frames handed over, one per recipient and message
        self.regulated = False  # whether the bus has to wait
        self._regulate_bus = regulate
        self._sweep = sweep
        self._soon = soon
        self._clock = clock
        self._meter = meter
        self._scheduled = False
        self._next: deque[Group] = deque()  # with frames for the next round
        self._round: deque[Group] = deque()
        self._arrivals = Arrivals()
        self._steps: deque[Callable[[], None]] = deque()  # work for single clients
        self._oldest: float | None = None  # arrival of the next round's first message
        self._round_oldest = 0.0
        self._round_began = 0.0
        self._late_s = 0.0  # how old the oldest message of the last round was at its end
        self._late_at = 0.0

    def pressed(self, most_s: float) -> bool:
        """Whether the feed is later than that, now or in the last quarter of a second."""
        now = self._clock()
        oldest = self._round_oldest if self._round else self._oldest
        if oldest is not None and now - oldest > most_s:
            return True
        return self._late_s > most_s and now - self._late_at < _REMEMBER_S

    @property
    def waiting(self) -> int:
        """Messages that are in no batch yet, counted in each group that they are for."""
        return self._batches.waiting

    def register(self, session: Recipient, patterns: frozenset[str]) -> None:
        """A session opened; it gets everything that matches `patterns` from now on."""
        self.sessions += 1
        self.groups.join(session, patterns)

    def unregister(self, session: Recipient, *, settle: bool = False) -> None:
        """A session ended, or sent its close frame: nothing more goes to it. Idempotent.

        With `settle` it first gets what was published until now.
        """
        if session.group is not None:
            self.sessions -= 1
            self.groups.leave(session, settle=settle)

    def resubscribe(self, session: Recipient, patterns: frozenset[str]) -> None:
        """Exchange a session's patterns; what was published before goes by the old ones, at once.

        Afterwards nothing is on its way to the session that was published before, also if the
        patterns are the same. A session that was too slow for it has left.
        """
        group = session.group
        if group is None:
            return
        group.settle(session)
        if session.group is group and group.patterns != patterns:
            self.groups.change(session, patterns)

    def deliver(self, message: Message, arrived: float) -> None:
        """Send one encoded message to everybody subscribed to its channel.

        `arrived`: when the bus had it, on this hub's clock. Cost: one look-up, and one append per
        group; the sending happens at the end of the turn.
        """
        route = self.groups.route(message.channel)
        if not route:
            return
        if self._oldest is None:
            self._oldest = arrived
            self._arrivals.mark(message.offset, arrived)
        self._arrivals.size += len(message.frame)
        for group in route:
            if not group.pending:
                self._next.append(group)
            group.pending.append(message)
        batches = self._batches
        batches.waiting += len(route)
        self._schedule()
        if batches.waiting > MOST_WAITING:
            self._regulate()

    def notify(self, frame: bytes) -> None:
        """Send a notice to every session, whatever it is subscribed to, in order with the feed."""
        message = notice(frame)
        for group in self.groups:
            if not group.pending:
                self._next.append(group)
            group.pending.append(message)
            self._batches.waiting += 1
        self._schedule()

    def later(self, step: Callable[[], None]) -> None:
        """Do a piece of work for one client in a turn to come, after the feed has had its slice."""
        self._steps.append(step)
        self._schedule()

    def flush(self) -> None:
        """Send all that waits, now and in one go; for the end of the process."""
        while self._round or self._next:
            self._flush(slice_s=float("inf"))

    def _flush(self, slice_s: float = SLICE_S) -> None:
        self._scheduled = False
        now = self._clock()
        deadline = now + slice_s
        while self._round or self._next:
            if not self._round:
                self._begin_round(now)
            self._go_on(deadline)
            now = self._clock()
            if self._round:
                break
            self._end_round(now)
            if now >= deadline:
                break
        if self._steps:
            self._work()
        if self._round or self._next:
            self._schedule()
            self._regulate()
        elif self.regulated:
            self._regulate()

    def _work(self) -> None:
        """Steps for a slice of time; one at least, and none of those that they ask for."""
        deadline = self._clock() + SLICE_S
        for _ in range(len(self._steps)):
            step = self._steps.popleft()
            try:
                step()
            except Exception:
                self._log.failure("a step for a client failed")
            if self._clock() >= deadline:
                break
        if self._steps:
            self._schedule()

    def _begin_round(self, now: float) -> None:
        self._round, self._next = self._next, self._round
        self._round_began = now
        self._round_oldest = now if self._oldest is None else self._oldest
        self._oldest = None

    def _go_on(self, deadline: float) -> None:
        """Send, group by group, until the round is over or `deadline`."""
        round_ = self._round
        while round_:
            group = round_[0]
            begins = group.sending is None
            try:
                self.delivered += group.advance(self._sweep, self._clock, deadline)
            except Exception:  # a defect: this batch is lost, the others must not be
                self._log.failure("sending to a group failed")
                group.abandon()
            if begins and group.pending:  # more than a batch
                self._next.append(group)
                self._arrivals.left(group.oldest)
            if group.sending is None:
                round_.popleft()
            if round_ and self._clock() >= deadline:
                return

    def _end_round(self, now: float) -> None:
        self._late_s, self._late_at = now - self._round_oldest, now
        self._meter.round_done(self._late_s, now - self._round_began)
        if self._batches.waiting:
            self._oldest = self._arrivals.end_round(new=self._oldest is not None)
        else:  # also what came during the round may have left with it
            self._arrivals.clear()
            self._oldest = None

    def _regulate(self) -> None:
        """Tell the bus when to wait, and when to go on."""
        share = 2 if self.regulated else 1
        waiting, size = self._batches.waiting, self._arrivals.waiting
        over = waiting > MOST_WAITING // share or size > MOST_BYTES // share
        if over != self.regulated:
            self.regulated = over
            self._regulate_bus(not over)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._soon(self._flush)
