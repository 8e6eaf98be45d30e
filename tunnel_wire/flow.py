"""The ledgers of DATA: what was written, framed, received, granted and kept. The hot path, without I/O.

Offsets are absolute, in bytes of payload from the stream's start, so that they mean the same on every link:

    Outgoing   acknowledged <= sent <= written <= limit
               [acknowledged, sent) is kept, [sent, written) is queued
    Incoming   consumed <= received <= granted
               [consumed, received) is queued for the consumer

Credit (`limit`, `granted`) is permission and never receipt: sent bytes are let go of by `acknowledge` alone.
"""

from __future__ import annotations

import mmap
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel_wire.limits import WireLimits

Buffer = bytes | bytearray | memoryview
Segment = mmap.mmap | bytearray

SEGMENT: Final = 512 * 1024
"""Size in bytes of the pieces in which sockets are read, and in which sent bytes are kept.

Each piece costs both ends its wake-ups, calls and cold caches: with half the size bulk costs a tenth more
CPU. Twice the size gains nothing: what is being moved then leaves the core's own cache.
"""


_TURN_TIME: Final = 0.01
"""Seconds that a round trip counts for at least, where a window may grow. On a short way it is not the line
that takes time but the stream's turn among others at the sender, which uses credit no sooner. By the line
alone such a window would stay small, and with it the stream's share: no frame is larger than its window.
"""
_JOIN_BELOW: Final = 4096
"""Received pieces that are together not larger are kept as one."""


class CreditExceeded(Exception):
    """The peer sent more than it was granted, or granted more than HTTP/2 can count."""


class Budget:
    """Memory promised or held for streams by the whole process, in bytes."""

    __slots__ = ("reclaimable", "total", "used")

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self.reclaimable: dict[object, Callable[[], None]] = {}
        """Holders that can be made to release what they have, the first first: it leaves this then."""

    def reserve(self, amount: int) -> bool:
        """Take `amount` bytes out of the budget, or say that they are not there."""
        if self.used + amount > self.total:
            return False
        self.used += amount
        return True

    def reserve_at_cost(self, amount: int) -> bool:
        """As `reserve`; what is reclaimable is given up for it, one holder after the other."""
        while not (reserved := self.reserve(amount)) and self.reclaimable and amount <= self.total:
            next(iter(self.reclaimable.values()))()
        return reserved

    def reserve_growth(self, amount: int) -> bool:
        """The same for what a stream can do without: half of the budget is kept for new streams."""
        return self.used + amount <= self.total // 2 and self.reserve(amount)

    def release(self, amount: int) -> None:
        """Give back what `reserve` took."""
        self.used -= amount
        assert self.used >= 0


class SegmentPool:
    """Buffers for reading sockets, used again instead of being made each time.

    They are mapped: what was never read into takes no memory. A bytearray would be filled with zeros, and one
    call of a few bytes would leave half a MiB resident in an agent that is idle otherwise.
    """

    __slots__ = ("_spare", "_spares")

    def __init__(self, spares: int = 32) -> None:
        self._spare: list[Segment] = []
        self._spares = spares

    def peek(self) -> Segment:
        """The buffer that `take` gives next; it stays here, for a read that is copied before anybody else
        reads.

        A read that is worth keeping needs no copy: `take` right behind gives this very buffer, as long as
        nobody has called `take` or `give` in between.
        """
        if not self._spare:
            self._spare.append(_mapped())
        return self._spare[-1]

    def take(self) -> Segment:
        """A buffer of `SEGMENT` bytes with unspecified content."""
        return self._spare.pop() if self._spare else _mapped()

    def give(self, segment: Segment) -> None:
        """Return a buffer that nobody looks at any more."""
        if len(self._spare) < self._spares:
            self._spare.append(segment)


def _mapped() -> mmap.mmap:
    return mmap.mmap(-1, SEGMENT, flags=mmap.MAP_PRIVATE)


class Outgoing:
    """One direction's bytes from here: queued, then sent and kept until their receipt is known."""

    __slots__ = (
        "_budget",
        "_kept",
        "_limits",
        "_pool",
        "_queue",
        "acknowledged",
        "allowance",
        "end",
        "end_acknowledged",
        "end_sent",
        "limit",
        "sent",
        "written",
    )

    def __init__(self, budget: Budget, pool: SegmentPool, limits: WireLimits) -> None:
        self._budget = budget
        self._pool = pool
        self._limits = limits
        self.acknowledged = 0
        self.sent = 0
        self.written = 0
        self.limit = 0
        """Highest offset that the peer has granted."""
        self.allowance = limits.kept_floor
        """Bytes that may stand between `acknowledged` and `written`; the floor is reserved by the stream."""
        self.end: int | None = None
        """Offset of the end, once the user has ended this direction."""
        self.end_sent = False
        self.end_acknowledged = False
        # Each piece: the bytes, and the pool's segment to give back with the last slice of it. In front of
        # what is kept stands the offset of its end.
        self._queue: deque[tuple[Buffer, Segment | None]] = deque()
        self._kept: deque[tuple[int, Buffer, Segment | None]] = deque()

    @property
    def queued(self) -> int:
        """Bytes written and not yet framed."""
        return self.written - self.sent

    @property
    def full(self) -> bool:
        """As much is kept as may be: the writer waits for receipt."""
        return self.written - self.acknowledged >= self.allowance

    def room(self) -> int:
        """Bytes that may be written now, their memory reserved: asking is what makes `allowance` grow.

        Nothing is taken that the peer has not granted room for. What was reserved goes back when all that was
        written is acknowledged, or discarded.
        """
        written = self.written
        room = min(self.limit - written, self._limits.max_queued - (written - self.sent))
        if room <= 0:
            return 0
        kept = written - self.acknowledged
        while (kept_room := self.allowance - kept) < room:
            # Doubled: the budget is asked a few times while a stream speeds up, and not for each write.
            more = min(self.allowance, self._limits.max_kept - self.allowance)
            if more <= 0 or not self._budget.reserve_growth(more):
                return max(0, kept_room)
            self.allowance += more
        return room

    def write(self, data: Buffer, segment: Segment | None = None) -> None:
        """Queue `data`, which must not change until its receipt; `segment` then goes back to the pool."""
        self._queue.append((data, segment))
        self.written += len(data)

    def sendable(self) -> int:
        """Bytes that may be framed now, as far as this stream is concerned."""
        return min(self.written, self.limit) - self.sent

    def take(self, size: int) -> list[Buffer]:
        """The next at most `size` bytes, for one frame. They stay kept until `acknowledge`."""
        pieces: list[Buffer] = []
        left = min(size, self.sendable())
        while left > 0:
            data, segment = self._queue.popleft()
            length = len(data)
            if length > left:
                view = memoryview(data)
                self._queue.appendleft((view[left:], segment))
                data, segment, length = view[:left], None, left
            left -= length
            self.sent += length
            self._kept.append((self.sent, data, segment))
            pieces.append(data)
        return pieces

    def acknowledge(self, offset: int) -> None:
        """The peer has received everything before `offset`: let go of it."""
        kept = self._kept
        while kept and kept[0][0] <= offset:
            _, _, segment = kept.popleft()
            if segment is not None:
                self._pool.give(segment)
        self.acknowledged = max(self.acknowledged, offset)
        if self.acknowledged == self.written and self.allowance > self._limits.kept_floor:
            self._budget.release(self.allowance - self._limits.kept_floor)
            self.allowance = self._limits.kept_floor

    def resume(self, received: int, limit: int) -> bool:
        """Go on behind what the peer has `received`, on a new link and within `limit`; end again if ended.

        False, and nothing has changed, if that was never sent or was let go of.
        """
        if not self.acknowledged <= received <= self.sent:
            return False
        self.acknowledge(received)
        while self._kept:
            end, data, segment = self._kept.pop()
            behind = len(data) - (end - received)
            self._queue.appendleft((memoryview(data)[behind:] if behind > 0 else data, segment))
        self.sent = received
        self.limit = limit
        # Known or not, the end is said again: the new link's HTTP/2 stream ends by nothing else.
        self.end_sent = self.end_acknowledged = False
        return True

    def finish(self) -> None:
        """The peer has everything, the end included."""
        self.acknowledge(self.sent)
        self.end_acknowledged = True

    def discard(self) -> None:
        """The stream was reset: forget everything queued and kept."""
        # Their segments go to the allocator, not to the pool: resets are rare, and a reader may still hold
        # one.
        self._queue.clear()
        self._kept.clear()
        self.sent = self.acknowledged = self.written
        if self.allowance > self._limits.kept_floor:
            self._budget.release(self.allowance - self._limits.kept_floor)
            self.allowance = self._limits.kept_floor


class Incoming:
    """One direction's bytes to here: received, queued while the consumer is slow, consumed, granted."""

    __slots__ = (
        "_budget",
        "_limits",
        "_mark_offset",
        "_mark_time",
        "consumed",
        "end",
        "granted",
        "queue",
        "received",
        "window",
    )

    def __init__(self, budget: Budget, limits: WireLimits) -> None:
        self._budget = budget
        self._limits = limits
        self.received = 0
        self.consumed = 0
        self.window = limits.initial_window
        """Bytes that may be granted and not consumed; reserved in the budget by the stream."""
        self.granted = self.window
        self.end: int | None = None
        """Offset of the peer's end."""
        self.queue: deque[bytes] = deque()
        self._mark_offset = 0
        self._mark_time: float | None = None
        """When `consumed` was at the mark: from there on the consumer's speed is measured."""

    @property
    def queued(self) -> int:
        """Bytes received and not yet consumed."""
        return self.received - self.consumed

    def admit(self, size: int) -> None:
        """Check a DATA frame's length at its header. Raises `CreditExceeded`."""
        if self.received + size > self.granted:
            raise CreditExceeded(f"{self.received + size - self.granted} bytes beyond the window")

    def keep(self, data: memoryview) -> None:
        """Queue a copy. Small pieces are joined: an object for each byte would be fifty times its window."""
        queue = self.queue
        if queue and len(queue[-1]) + len(data) <= _JOIN_BELOW:
            queue[-1] += data
        else:
            queue.append(bytes(data))

    def consume(self, size: int, now: float, round_trip: float | None) -> int:
        """The consumer took `size` bytes at `now`. Returns credit to send in WINDOW_UPDATE, often 0.

        Credit goes back in eighths of the window, so that a consumer of small pieces costs few frames. The
        window doubles when it was the limit, and not the consumer.
        """
        self.consumed += size
        owed = self.window - (self.granted - self.consumed)
        if owed * 8 < self.window or self.end is not None:
            return 0
        if self._mark_time is None:
            self._mark_time, self._mark_offset = now, self.consumed
        elif (drained := self.consumed - self._mark_offset) * 2 > self.window:
            # Where the window is the limit, a window comes each round trip, `drained` in drained / window of
            # one. Up to four times as long still counts: for half a window, the least looked at, two of them.
            limited = (
                round_trip is not None
                and now - self._mark_time < 4 * max(round_trip, _TURN_TIME) * drained / self.window
            )
            more = min(self.window, self._limits.max_window - self.window)
            if limited and more > 0 and self._budget.reserve_growth(more):
                owed += more
                self.window += more
            self._mark_time, self._mark_offset = now, self.consumed
        self.granted += owed
        return owed

    def refill(self) -> None:
        """Grant what is owed, as a new link begins: its header block says how far that goes."""
        if self.end is None:
            self.granted = max(self.granted, self.consumed + self.window)
        self._mark_time = None

    def discard(self) -> None:
        """Nobody will consume what is queued."""
        self.queue.clear()
        self.consumed = self.received
