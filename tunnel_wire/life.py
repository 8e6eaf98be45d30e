"""What time and PING do on a link: receipts for what was sent, round trips, signs of life, deadlines.

Sent bytes are kept until a PING queued behind them is answered (spec.md, 5.4). One PING is outstanding at
most, and it serves all purposes. When the next one asks for receipt, where something was sent and the last
PING is answered:

    last PING queued        `receipt_due`                  `due`
    ───────┼──────────────────────┼──────────────────────────┼──────▶ time
           │ not yet:             │ by the way: whoever      │ nobody did:
           │ `receipt_interval`,  │ sends or reads asks      │ the timer asks
           │ `receipt_patience`   │ (`take_or_ask`), for     │ (`keep`)
           │ for few bytes        │ `_FOLLOWED`              │

On a link that was idle `receipt_due` has passed: what is sent first has its PING right behind it. Where a
writer was without room (`hurried`) nothing follows that would ask by the way, and `due` is `receipt_due`. The
timer's other reasons (the heartbeat, silence, deadlines of streams) may have it due sooner.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from tunnel_wire import frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel_wire.limits import WireLimits
    from tunnel_wire.session import Stream


_FOLLOWED: Final = 0.01
"""Seconds in which something goes out after what went out, and asks for its receipt by the way. The timer is
for what nothing follows: set for the moment when receipt is due, it would be set anew, and wake the loop, for
each question of bulk (a tenth of its CPU).
"""


class Life:
    """One link's clock. Times are in seconds, and passed in."""

    __slots__ = (
        "_asked",
        "_count",
        "_deadlines",
        "_last_ping",
        "_limits",
        "_queue",
        "_soonest",
        "_unasked",
        "due",
        "hurried",
        "last_received",
        "least_round_trip",
        "outstanding",
        "receipt_due",
        "round_trip",
        "sent",
    )

    def __init__(self, limits: WireLimits, now: float, queue: Callable[[bytes], None]) -> None:
        self._limits = limits
        self._queue = queue
        """Queues a frame."""
        self.last_received = now
        self.round_trip: float | None = None
        """From the last answered PING."""
        self.least_round_trip: float | None = None
        """The path's own delay: any more is waiting in queues, most of them ours."""
        self.sent: dict[Stream, None] = {}
        """Streams that have sent since receipt was last asked for, in their order."""
        self.outstanding: float | None = None
        """When the PING was queued whose answer is still to come."""
        self._asked: list[tuple[Stream, int, int, bool]] = []
        """What the outstanding PING stands behind: stream, its epoch, offset, whether its end was sent."""
        self._unasked = 0
        """Bytes sent since then."""
        self.hurried = False
        """When the last receipt came, a writer was without room, as it will be again: nothing follows what it
        sends, and the timer is not to wait for that.
        """
        self._count = 0
        """Of PINGs, and the last one's payload."""
        self._last_ping = now - limits.heartbeat_after
        self._deadlines: dict[Stream, float] = {}
        self._soonest = math.inf
        """Not later than the first of the deadlines."""
        self.receipt_due = math.inf
        """When to ask for receipt, if there is something to ask for and the last question was answered."""
        self.due = now
        """When time has something to do here next. What comes may move it on: it need not be met exactly."""
        self._reckon()

    def dispose(self) -> None:
        """Queue nothing any more, and let go of whoever took it."""
        self._queue = _nowhere

    # --- PING -------------------------------------------------------------------------------------

    def note_sent(self, stream: Stream, size: int) -> None:
        """The stream has sent `size` bytes."""
        # This is called for each frame. The first bytes make receipt due, and many make it due sooner.
        first, before = not self.sent, self._unasked
        self.sent[stream] = None
        self._unasked += size
        if first or before < self._limits.receipt_size <= self._unasked:
            self._reckon()

    def ask_for_receipt(self, now: float) -> bool:
        """Queue a PING behind what was sent, if that is due."""
        if now < self.receipt_due or not self.sent:
            return False
        self._asked = [
            (stream, stream.epoch, stream.outgoing.sent, stream.outgoing.end_sent) for stream in self.sent
        ]
        self.sent.clear()
        self._unasked = 0
        self.hurried = False
        self._ping(now)
        return True

    def probe(self, now: float) -> None:
        """Ask the peer for a sign of life, if no question is open already."""
        if self.outstanding is None:
            self._ping(now)

    def refresh_round_trip(self, now: float) -> None:
        """Ask if the last answer is old: an end that only receives would know of no round trip, or an old
        one.
        """
        if now >= self._last_ping + self._limits.heartbeat_after:
            self.probe(now)

    def answered(self, payload: bytes, now: float) -> list[tuple[Stream, int, int, bool]]:
        """A PING came back: what it is the receipt for. Empty if it is not ours."""
        if self.outstanding is None or payload != self._count.to_bytes(8, "big"):
            return []
        self.round_trip = now - self.outstanding
        self.least_round_trip = min(self.round_trip, self.least_round_trip or math.inf)
        self.outstanding = None
        asked, self._asked = self._asked, []
        if asked:
            self.hurried = any(stream.outgoing.full for stream, _, _, _ in asked)
        self._reckon()
        return asked

    def _ping(self, now: float) -> None:
        self._count += 1
        self.outstanding = self._last_ping = now
        self._queue(frames.ping(self._count.to_bytes(8, "big")))
        self._reckon()

    # --- time -------------------------------------------------------------------------------------

    def set_deadline(self, stream: Stream, when: float) -> None:
        """Have `expired` name the stream at `when`, unless it is forgotten by then."""
        self._deadlines[stream] = when
        self._soonest = min(self._soonest, when)
        self.due = min(self.due, when)

    def forget(self, stream: Stream) -> None:
        """The stream is closed: no deadline, no receipt."""
        self._deadlines.pop(stream, None)
        self.sent.pop(stream, None)

    def expired(self, now: float) -> list[Stream]:
        """The streams whose deadline has come; they are forgotten."""
        if now < self._soonest:
            return []
        due = [stream for stream, when in self._deadlines.items() if when <= now]
        for stream in due:
            del self._deadlines[stream]
        self._soonest = min(self._deadlines.values(), default=math.inf)
        return due

    def silent(self, now: float) -> bool:
        """Whether nothing has been received for so long that the link is given up."""
        return now >= self.last_received + self._limits.silence_limit

    def unanswered(self, now: float) -> float:
        """Seconds for which a question has been open and nothing at all has come; 0 if none is open."""
        if self.outstanding is None:
            return 0.0
        return max(0.0, now - max(self.outstanding, self.last_received))

    def keep(self, now: float) -> None:
        """Ask for receipt or for a sign of life, whichever is due."""
        if not self.ask_for_receipt(now) and now >= self.last_received + self._limits.heartbeat_after:
            self.probe(now)
        self._reckon()

    def _reckon(self) -> None:
        """Set `receipt_due` and `due` anew: where they change, rather than for each frame that asks."""
        limits = self._limits
        self.receipt_due = math.inf
        if self.outstanding is not None:
            due = self.last_received + limits.silence_limit
        else:
            due = self.last_received + limits.heartbeat_after
            if self.sent:
                # Each question has both ends woken, and their timers: a few bytes can wait for others.
                soon = self._unasked >= limits.receipt_size
                wait = limits.receipt_interval if soon else limits.receipt_patience
                self.receipt_due = self._last_ping + wait
                due = min(due, self.receipt_due if self.hurried else self.receipt_due + _FOLLOWED)
        self.due = min(self._soonest, due)


def _nowhere(frame: bytes) -> None:
    pass
