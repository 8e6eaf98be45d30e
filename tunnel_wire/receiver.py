"""What each frame of the peer means, for streams that bypass h2 with their DATA and credit.

h2 (`control_plane.py`) keeps settings, HPACK, stream states and resets. DATA payloads, WINDOW_UPDATE, PING
and GOAWAY never reach it (DATA would cost most of the throughput, GOAWAY would close it to all data), so the
rules that it would have enforced for them are kept here: RFC 9113, 5.1 (states), 5.2 and 6.9 (credit), 6.7
and 6.8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import h2.events
from h2.settings import SettingCodes

from tunnel_wire import frames
from tunnel_wire.carrier import Carrier
from tunnel_wire.causes import clean_detail
from tunnel_wire.control_plane import WHOLE
from tunnel_wire.data_received import DataReceived
from tunnel_wire.events import EndReceived, RoomGained, StreamReset
from tunnel_wire.flow import CreditExceeded
from tunnel_wire.frame_reader import FrameSink
from tunnel_wire.frames import HEADER_SIZE, MAX_WINDOW, ErrorCode, Violation
from tunnel_wire.link_window import LinkWindow
from tunnel_wire.rates import Allowance
from tunnel_wire.stream_state import EndCause, State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tunnel_wire.events import Event
    from tunnel_wire.hello import Headers
    from tunnel_wire.limits import WireLimits
    from tunnel_wire.session import Stream


_MAX_WITHHELD: Final = 16
"""PING answers withheld at once. A peer that asks for receipts has one outstanding."""
_VISITS_A_FRAME: Final = 64
"""Streams that one frame has us visit for the price of one frame more."""


class Receiver(Carrier, FrameSink):
    """The receiving half of a connection: turns frames into events. Raises `Violation`."""

    __slots__ = (
        "_data_ends",
        "_data_id",
        "_data_stream",
        "_events",
        "_floods",
        "_highest",
        "_late",
        "_now",
        "_resets",
        "_window",
    )

    def __init__(self, *, client: bool, limits: WireLimits, now: float) -> None:
        super().__init__(client=client, limits=limits, now=now)
        self._events: list[Event] = []
        self._now = now
        self._highest = 0
        """Highest stream id that was ever opened here."""
        # The DATA frame that is coming.
        self._data_stream: Stream | None = None
        self._data_id = 0
        self._data_ends = False
        size = max(limits.connection_window, frames.DEFAULT_WINDOW)
        self._window = LinkWindow(size, max(size, limits.max_connection_window), now)
        self._floods = Allowance(limits.control_rate, limits.control_burst, now)
        """Frames that cost us more than the peer, of all kinds together."""
        self._resets = Allowance(limits.reset_rate, limits.reset_burst, now)
        """Resets, and errors of streams."""
        self._late = Allowance(limits.reset_rate, limits.reset_burst, now)
        """Header blocks on streams that we have reset: one each comes by itself."""
        if size > frames.DEFAULT_WINDOW:
            self._queue(frames.window_update(0, size - frames.DEFAULT_WINDOW))

    # --- what opener and answerer override --------------------------------------------------------

    def on_request(self, stream_id: int, headers: Headers, *, ended: bool) -> None:
        """A request's header block came."""
        raise NotImplementedError

    def on_response(self, stream_id: int, headers: Headers, *, ended: bool) -> None:
        """A response's header block came."""
        raise NotImplementedError

    def takes(self, stream: Stream) -> bool:
        """Whether DATA may come for it now."""
        return stream.state is State.OPEN

    # --- DATA -------------------------------------------------------------------------------------

    def begin_data(self, length: int, flags: int, stream_id: int) -> None:
        """Every check that h2 would make, before the payload comes."""
        try:
            increment = self._window.take(length, self._now, self._life.least_round_trip)
        except CreditExceeded as exc:
            raise Violation(ErrorCode.FLOW_CONTROL_ERROR, str(exc)) from None
        ends = bool(flags & frames.FLAG_END_STREAM)
        if not length and not ends:
            self._count_flood("empty DATA frames")
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_unattached(stream_id)
        elif code := self._refuse_data(stream, length, ends=ends):
            self._stream_error(stream, code)
            stream = None
        elif stream.abandoned and length:
            stream.reset(ErrorCode.CANCEL)
            stream = None
        self._data_stream, self._data_id, self._data_ends = stream, stream_id, ends
        if increment:
            self._sender.answer(frames.window_update(0, increment))

    def _refuse_data(self, stream: Stream, length: int, *, ends: bool) -> ErrorCode | None:
        # Without data, its end may come once more: on another link (`Outgoing.resume`).
        if stream.incoming.end is not None and (length or stream.end_came):
            return ErrorCode.STREAM_CLOSED
        if stream.state is not State.OPEN and (ends or not self.takes(stream)):
            return ErrorCode.PROTOCOL_ERROR
        try:
            stream.incoming.admit(length)
        except CreditExceeded:
            return ErrorCode.FLOW_CONTROL_ERROR
        return None

    def _check_unattached(self, stream_id: int) -> None:
        """DATA for a stream that is not ours, or no more: swallowed, unless the peer should know better."""
        if self._is_idle(stream_id):
            raise Violation(ErrorCode.PROTOCOL_ERROR, f"DATA on idle stream {stream_id}")
        if self._h2.closed_by_peer(stream_id):
            raise Violation(ErrorCode.STREAM_CLOSED, f"DATA on ended stream {stream_id}")

    def padding(self, size: int) -> None:
        """Padding takes stream credit that no consumer will return."""
        if self._data_stream is not None:
            self._sender.answer(frames.window_update(self._data_id, size))

    def payload(self, piece: memoryview) -> None:
        """Hand it on, unless the stream has gone since the frame began."""
        stream = self._data_stream
        if stream is not None and (stream.state is State.OPEN or self.takes(stream)):
            if stream.abandoned:  # its user has closed it in the middle of the frame
                stream.reset(ErrorCode.CANCEL)
                return
            stream.incoming.received += len(piece)
            self._events.append(DataReceived(stream, piece))

    def end_data(self) -> None:
        """Tell h2 of the end; of all DATA, it is what h2 sees."""
        self._data_stream = None
        stream_id = self._data_id
        if self._data_ends and stream_id in self._h2.streams:
            if stream_id in self._streams:
                self._h2.receive_end(stream_id)
                self._receive_end(stream_id)
            else:
                # About the link itself, or of a stream that another has: nothing of it was checked here.
                self._feed(frames.frame_header(0, frames.DATA, frames.FLAG_END_STREAM, stream_id))

    def detach(self, stream: Stream) -> None:
        """Also drops what is left of a frame of its that is coming."""
        super().detach(stream)
        if self._data_stream is stream:
            self._data_stream = None

    # --- other frames -----------------------------------------------------------------------------

    def control(self, frame: memoryview, kind: int, flags: int, stream_id: int) -> None:
        """A whole frame other than DATA."""
        match kind:
            case frames.WINDOW_UPDATE:
                self._receive_window_update(frame, stream_id)
            case frames.PING:
                self._receive_ping(frame, flags, stream_id)
            case frames.RST_STREAM:
                self._receive_reset(frame, stream_id)
            case frames.HEADERS | frames.CONTINUATION:
                self._receive_headers(frame, kind, flags, stream_id)
            case frames.GOAWAY:
                self._receive_goaway(frame, stream_id)
            case frames.PUSH_PROMISE:
                raise Violation(ErrorCode.PROTOCOL_ERROR, "a push, which is disabled")
            case frames.SETTINGS | frames.PRIORITY:
                # Six bytes each: one frame may have as many as all others of a second together.
                self._count_flood("SETTINGS or PRIORITY frames", max(1, (len(frame) - HEADER_SIZE) // 6))
                self._feed(bytes(frame))
            case _:
                self._count_flood("unknown frames")

    def _count_flood(self, what: str, cost: float = 1) -> None:
        if not self._floods.spend(self._now, cost):
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, f"a flood of {what}")

    def _count_reset(self) -> None:
        if not self._resets.spend(self._now):
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, "a flood of resets")

    def _is_idle(self, stream_id: int) -> bool:
        return stream_id > self._highest or stream_id % 2 == 0

    def _receive_window_update(self, frame: memoryview, stream_id: int) -> None:
        if len(frame) != HEADER_SIZE + 4:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, "a malformed WINDOW_UPDATE")
        if self._sender.updates_due:
            self._sender.updates_due -= 1
        else:
            self._count_flood("WINDOW_UPDATE frames")
        increment = int.from_bytes(frame[HEADER_SIZE:], "big") & 0x7FFFFFFF
        if stream_id == 0:
            if increment == 0:
                raise Violation(ErrorCode.PROTOCOL_ERROR, "a WINDOW_UPDATE of 0")
            self._sender.add_credit(increment)
            if self._sender.credit > MAX_WINDOW:
                raise Violation(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window overflowed")
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            if self._is_idle(stream_id):
                raise Violation(ErrorCode.PROTOCOL_ERROR, f"WINDOW_UPDATE on idle stream {stream_id}")
            if stream_id in self._h2.streams:
                self._feed(bytes(frame))
        elif increment == 0:
            self._stream_error(stream, ErrorCode.PROTOCOL_ERROR)
        else:
            outgoing = stream.outgoing
            outgoing.limit += increment
            if outgoing.limit - outgoing.sent > MAX_WINDOW:
                self._stream_error(stream, ErrorCode.FLOW_CONTROL_ERROR)
            else:
                self._sender.schedule(stream)
                self._events.append(RoomGained(stream))

    def _receive_ping(self, frame: memoryview, flags: int, stream_id: int) -> None:
        self._count_flood("PING frames")
        if len(frame) != HEADER_SIZE + 8:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, "a malformed PING")
        if stream_id:
            raise Violation(ErrorCode.PROTOCOL_ERROR, f"PING on stream {stream_id}")
        payload = bytes(frame[HEADER_SIZE:])
        if not flags & frames.FLAG_ACK:
            self._answer_ping(frames.ping(payload, ack=True))
            return
        for stream, epoch, sent, end_sent in self._life.answered(payload, self._now):
            # What the peer had let go of when this came there, it has dropped.
            if stream.state is State.CLOSED or stream.epoch != epoch:
                continue
            stream.outgoing.acknowledge(sent)
            if end_sent:
                stream.outgoing.end_acknowledged = True
                stream.finish_if_done()
            else:
                self._events.append(RoomGained(stream))

    def _answer_ping(self, answer: bytes) -> None:
        if not self._left:
            self._sender.answer(answer)
        elif len(self._withheld) < _MAX_WITHHELD:
            self._withheld.append(answer)
        else:
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, "PING frames without waiting for an answer")

    def _receive_reset(self, frame: memoryview, stream_id: int) -> None:
        self._count_reset()
        if len(frame) != HEADER_SIZE + 4:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, "a malformed RST_STREAM")
        if self._is_idle(stream_id):
            raise Violation(ErrorCode.PROTOCOL_ERROR, f"RST_STREAM on idle stream {stream_id}")
        if stream_id in self._h2.streams:
            self._feed(bytes(frame))

    def _receive_headers(self, frame: memoryview, kind: int, flags: int, stream_id: int) -> None:
        # h2 must see it for HPACK's sake, but would reset once more what we have reset.
        silently = not self._is_idle(stream_id) and self._h2.reset_by_us(stream_id)
        self._highest = max(self._highest, stream_id)
        if silently and not self._late.spend(self._now):
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, "a flood of headers on streams that were reset")
        if kind == frames.HEADERS and silently and flags | frames.FLAG_END_STREAM == WHOLE:
            self._h2.drop_headers(frame)
        elif kind == frames.HEADERS:
            self._take(self._h2.receive_headers(frame, flags, stream_id), silently=silently)
        else:
            self._feed(bytes(frame), silently=silently)

    def _receive_goaway(self, frame: memoryview, stream_id: int) -> None:
        """The peer retires the connection (RFC 9113, 6.8): what it has accepted may go on to its end."""
        if len(frame) < HEADER_SIZE + 8:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, "a malformed GOAWAY")
        self._count_flood("GOAWAY frames", 1 + len(self._streams) / _VISITS_A_FRAME)
        if stream_id:
            raise Violation(ErrorCode.PROTOCOL_ERROR, f"GOAWAY on stream {stream_id}")
        last = int.from_bytes(frame[HEADER_SIZE : HEADER_SIZE + 4], "big") & 0x7FFFFFFF
        code = int.from_bytes(frame[HEADER_SIZE + 4 : HEADER_SIZE + 8], "big")
        if code != ErrorCode.NO_ERROR:
            said = clean_detail(bytes(frame[HEADER_SIZE + 8 :]).decode("ascii", "replace"))
            self._sender.closed = True
            raise Violation(code, f"the other end gave the link up{': ' if said else ''}{said}")
        self.draining = True
        if self._h2.config.client_side:
            for stream in [stream for number, stream in self._streams.items() if number > last]:
                if stream.resumable:
                    continue  # it waits for the next link
                self._end_stream(stream, EndCause.PEER_RESET, ErrorCode.REFUSED_STREAM)

    def _feed(self, frame: bytes, *, silently: bool = False) -> None:
        """Give one frame to h2."""
        self._take(self._h2.receive_data(frame), silently=silently)

    def _take(self, received: Iterable[h2.events.Event], *, silently: bool = False) -> None:
        """Take what h2 makes of a frame: its answer, and events."""
        answer = self._h2.data_to_send()
        if not silently:
            self._sender.answer(answer)
        for event in received:
            self._handle(event)

    def _handle(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived():
                self._h2.reap(event.stream_id)
                self.on_request(
                    event.stream_id, _headers(event.headers), ended=event.stream_ended is not None
                )
            case h2.events.ResponseReceived():
                self._h2.reap(event.stream_id)
                self.on_response(
                    event.stream_id, _headers(event.headers), ended=event.stream_ended is not None
                )
            case h2.events.InformationalResponseReceived():
                self._count_flood("informational answers")
            case h2.events.TrailersReceived():
                stream = self._streams.get(event.stream_id)
                if stream is not None:
                    self._stream_error(stream, ErrorCode.PROTOCOL_ERROR)
            case h2.events.StreamEnded():
                self._receive_end(event.stream_id)
            case h2.events.StreamReset():
                self._h2.reap(event.stream_id)
                if event.remote_reset:
                    self.returned(event.stream_id)
                else:
                    self._count_reset()
                stream = self._streams.get(event.stream_id)
                if stream is not None:
                    cause = EndCause.PEER_RESET if event.remote_reset else EndCause.PROTOCOL
                    self._end_stream(stream, cause, int(event.error_code))
            case h2.events.RemoteSettingsChanged():
                self._apply_settings(event)
            case _:
                pass

    def _receive_end(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None and stream.state is State.OPEN:
            stream.end_came = True
            if stream.incoming.end is None:
                stream.incoming.end = stream.incoming.received
                stream.sent_before_end = stream.outgoing.sent
                self._events.append(EndReceived(stream))
            stream.finish_if_done()
        if self._h2.reap(stream_id):
            # Both directions ended: the id is free. The stream lives on until its bytes are acknowledged.
            self._streams.pop(stream_id, None)

    def _apply_settings(self, event: h2.events.RemoteSettingsChanged) -> None:
        self._h2.compact_settings()
        changed = event.changed_settings
        if SettingCodes.INITIAL_WINDOW_SIZE in changed:
            window = changed[SettingCodes.INITIAL_WINDOW_SIZE].new_value
            # RFC 9113, 6.9.2: the difference applies to every open stream, and may make its window negative.
            # It costs the peer six bytes, and us a visit to each: they count as so many frames.
            self._count_flood("SETTINGS that change every window", len(self._streams) / _VISITS_A_FRAME)
            delta, self._peer_window = window - self._peer_window, window
            for stream in self._streams.values():
                stream.outgoing.limit += delta
                if stream.outgoing.limit - stream.outgoing.sent > MAX_WINDOW:
                    raise Violation(ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS let a stream's window overflow")
                self._sender.schedule(stream)
                self._events.append(RoomGained(stream))
        if SettingCodes.MAX_FRAME_SIZE in changed:
            self._sender.max_frame = min(
                changed[SettingCodes.MAX_FRAME_SIZE].new_value, self.limits.max_frame
            )
        self._h2.bound_encoder()

    def _stream_error(self, stream: Stream, code: ErrorCode) -> None:
        # Each costs us the opening of a stream, and the peer nothing: they count as resets of its own.
        self._count_reset()
        stream.reset(code, EndCause.PROTOCOL)
        self._events.append(StreamReset(stream))

    def _end_stream(self, stream: Stream, cause: EndCause, code: int) -> None:
        stream.reset_code = code
        stream.close(cause)
        self._events.append(StreamReset(stream))


def _headers(pairs: object) -> Headers:
    return [(bytes(name), bytes(value)) for name, value in pairs]  # type: ignore[attr-defined]
