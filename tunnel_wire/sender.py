"""What goes out next on a link: control frames at once, then one DATA frame a stream, in turn."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from tunnel_wire import frames
from tunnel_wire.frames import HEADER_SIZE
from tunnel_wire.stream_state import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel_wire.flow import Buffer
    from tunnel_wire.session import Stream

_URGENT: Final = 4096
"""Streams with at most so many bytes queued take their turn before the bulky ones."""
_RESERVE: Final = 64 * 1024
"""Bytes of the connection's credit that bulk leaves to those, sixteen of them at their largest. Credit comes
back when the peer has read what is on its way: a small write that had to wait for it would wait for all of
that. Our own peers grant so much more than pieces of bulk need (`WireLimits.connection_window`).
"""
_MUCH: Final = 1024 * 1024
"""Bytes of credit from which on there is a reserve. A stock peer grants 65,535, and may return nothing before
all of it is used: with a reserve, bulk would wait for ever.
"""

# A WINDOW_UPDATE costs the peer 13 bytes, and us the visit to a stream and a call of its user. So those that
# have a reason (spec.md, 8) are counted here, as DATA goes out; of the others, many are a flood (`Receiver`).
_UPDATES_A_FRAME: Final = 2
"""One for the stream's window and one for the connection's, however short the frame."""
_CREDIT_PIECE: Final = 4096
"""The least bytes that a sensible peer returns credit for, where it gets many at once: so many of a frame are
a reason for one more.
"""
_DRIBBLE: Final = 512
"""Bytes. A smaller frame, when more is queued, is the doing of a peer that grants no more. It is no reason
for another WINDOW_UPDATE: else each byte of credit would pay for the next.
"""
_UPDATES_A_STREAM: Final = 10
"""For a stream as a link begins to carry it: one that comes from another link may be granted a whole window
here, in eighths, for frames that went out there, and what `Carrier.grant_rest` adds.
"""
_MOST_UPDATES: Final = 1 << 16
"""However much was sent: reasons of long ago are no leave for a flood."""


class Sender:
    """The queue of control frames, and the streams that wait for their turn."""

    __slots__ = (
        "_control",
        "_note_sent",
        "_on_framed",
        "_ready",
        "_reserve",
        "_urgent",
        "caused",
        "closed",
        "credit",
        "max_frame",
        "updates_due",
    )

    def __init__(
        self, *, max_frame: int, on_framed: Callable[[Stream], None], note_sent: Callable[[Stream, int], None]
    ) -> None:
        self._on_framed = on_framed
        """Called when everything that a stream had written is framed."""
        self._note_sent = note_sent
        """Told of each stream that sends, and how many bytes."""
        self._control = bytearray()
        self._urgent: deque[Stream] = deque()
        self._ready: deque[Stream] = deque()
        self.caused = 0
        """Bytes of queued control frames that answer the peer's."""
        self.credit = frames.DEFAULT_WINDOW
        """Bytes of DATA that the peer takes on this connection."""
        self.updates_due = 0
        """WINDOW_UPDATE frames that the peer has a reason to send."""
        self._reserve = 0
        """Bytes of credit that bulk leaves alone."""
        self.max_frame = max_frame
        """Largest payload of a DATA frame."""
        self.closed = False
        """GOAWAY is queued or came: no stream gets a turn any more."""

    def dispose(self) -> None:
        """Call nobody any more, and let go of whom it called."""
        self._on_framed = _nobody

    def queue(self, control: bytes) -> None:
        """Queue control frames of our own accord."""
        self._control += control

    def add_credit(self, increment: int) -> None:
        """The peer takes so many bytes of DATA more."""
        self.credit += increment
        if self.credit >= _MUCH:
            self._reserve = _RESERVE

    def expect_updates(self, count: int = _UPDATES_A_STREAM) -> None:
        """The peer has a reason for so many WINDOW_UPDATE frames more; by default, for a stream's coming."""
        self.updates_due = min(self.updates_due + count, _MOST_UPDATES)

    def answer(self, control: bytes) -> None:
        """Queue control frames that the peer has caused."""
        self._control += control
        self.caused += len(control)

    def schedule(self, stream: Stream) -> None:
        """Give the stream a turn if it has something to send."""
        if stream.scheduled or (stream.state is not State.OPEN and not stream.optimistic):
            return
        outgoing = stream.outgoing
        sent = outgoing.sent
        queued = outgoing.written - sent
        if (queued and sent < outgoing.limit) or (
            outgoing.end is not None and not outgoing.end_sent and not queued
        ):
            stream.scheduled = True
            (self._urgent if queued <= _URGENT else self._ready).append(stream)

    def drop(self, stream: Stream) -> None:
        """Take the stream's turn away."""
        if stream.scheduled:
            stream.scheduled = False
            for queue in (self._urgent, self._ready):
                if stream in queue:
                    queue.remove(stream)

    def take(self, size: int) -> list[Buffer]:
        """What to send next, until about `size` bytes. Empty when nothing is due.

        The buffers must be encrypted before anything else happens here: as frames are taken, so they stand on
        the wire. A PING is a receipt for what was taken before it.
        """
        out: list[Buffer] = []
        if not (self._control or self._urgent or self._ready):
            return out
        total = 0
        if self._control:
            total = self._take_control(out)
            self.caused = 0
        if self.closed:
            return out
        longest = min(size, self.max_frame)
        while total < size and (self._urgent or self._ready):
            queue = self._urgent or self._ready
            stream = queue[0]
            outgoing = stream.outgoing
            sendable = outgoing.sendable()
            credit = self.credit if queue is self._urgent else self.credit - self._reserve
            # Of two, min() is a comparison where this is compiled; of three, a call.
            limit = min(longest, credit)
            allowed = min(limit, sendable)
            may_send = stream.state is State.OPEN or stream.optimistic
            if allowed <= 0 < sendable and may_send:
                break  # The connection's window is used up: turns are kept until credit comes.
            queue.popleft()
            stream.scheduled = False
            if not may_send:
                continue
            if allowed > 0:
                pieces = outgoing.take(allowed)
                self.credit -= allowed
                total += allowed + HEADER_SIZE
                out.append(frames.frame_header(allowed, frames.DATA, 0, stream.stream_id))
                out += pieces
                self._note_sent(stream, allowed)
                if allowed >= _DRIBBLE or outgoing.sent == outgoing.written:
                    self.expect_updates(_UPDATES_A_FRAME + allowed // _CREDIT_PIECE)
            if outgoing.sent < outgoing.written:
                self.schedule(stream)
            elif outgoing.end is not None or stream.pending_reset is not None:
                self._on_framed(stream)
                if self._control:
                    # END_STREAM or a reset goes right behind the stream's last DATA.
                    total += self._take_control(out)
        return out

    def _take_control(self, out: list[Buffer]) -> int:
        control, self._control = self._control, bytearray()
        out.append(control)
        return len(control)


def _nobody(stream: Stream) -> None:
    pass
