"""HTTP/2 of one link, without I/O: h2 for control, our own path for DATA and credit.

h2 speaks preface, settings, HPACK, PING, RST_STREAM and END_STREAM. DATA payloads and WINDOW_UPDATE never
reach
it (it would cost most of the throughput), so the rules that it would have enforced for them are kept here:
RFC 9113,
5.1 (states), 5.2 and 6.9 (credit), 6.1 (padding), 4.2 (sizes). What is on the wire stays plain HTTP/2.

`opener.py` and `answerer.py` say what the requests mean.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from h2.settings import SettingCodes
from h2.stream import StreamClosedBy

from tunnel_wire import frames
from tunnel_wire.events import DataReceived, EndReceived, RoomGained, StreamReset
from tunnel_wire.flow import CreditExceeded
from tunnel_wire.frames import HEADER_SIZE, MAX_WINDOW, ErrorCode
from tunnel_wire.rates import Allowance
from tunnel_wire.session import EndCause, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel_wire.events import Event
    from tunnel_wire.flow import Buffer
    from tunnel_wire.hello import Headers
    from tunnel_wire.limits import WireLimits
    from tunnel_wire.session import Session, Stream

_URGENT = 4096
"""Streams with at most so many bytes queued take their turn before the bulky ones."""


class ConnectionFailed(Exception):
    """The peer broke the protocol, or the link fell silent: send what is due (a GOAWAY), then close the
    link.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({frames.error_name(code)})")
        self.code = code
        self.reason = reason


class _ControlPlane(h2.connection.H2Connection):
    """h2 with a bounded memory of closed streams, and no walk over all streams at each open."""

    MAX_CLOSED_STREAMS = 1024

    def _open_streams(self, remainder: int) -> int:
        # Every stream is the client's, and `reap` takes out the closed ones as they close.
        return len(self.streams)

    def _stream_closed_by(self, stream_id: int) -> StreamClosedBy | None:
        known = super()._stream_closed_by(stream_id)
        if known is None and self._stream_id_is_outbound(stream_id):
            # Forgotten long ago. A late 200 for an aborted dial must not end the link.
            return StreamClosedBy.SEND_RST_STREAM
        return known

    def reap(self, stream_id: int) -> bool:
        """Move a closed stream out of the table of open ones; true if it is closed."""
        stream = self.streams.get(stream_id)
        if stream is None:
            return True
        # h2 would hold a body that it never sees against the content-length that announced it.
        stream._expected_content_length = None  # noqa: SLF001
        if stream.closed:
            del self.streams[stream_id]
            self._closed_streams[stream_id] = stream.closed_by
            return True
        return False


class Connection:
    """One link's HTTP/2 state. Feed it with `receive`, send what `take` gives, call `tick` when `deadline`
    comes.
    """

    def __init__(self, *, client: bool, limits: WireLimits, now: float) -> None:
        self.limits = limits
        self.session: Session | None = None
        self.output_ready: Callable[[], None] = lambda: None
        """Set by the link: sends what is due."""
        self.round_trip: float | None = None
        """Seconds, from the last answered PING."""
        self.last_received = now
        self.draining = False
        """No new streams: this end or the other retires the link."""
        self._events: list[Event] = []
        self._h2 = _ControlPlane(
            h2.config.H2Configuration(
                client_side=client,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._h2.local_settings = h2.settings.Settings(
            client=client,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: limits.initial_window,
                SettingCodes.MAX_FRAME_SIZE: limits.max_frame,
                SettingCodes.MAX_CONCURRENT_STREAMS: limits.max_streams,
                SettingCodes.MAX_HEADER_LIST_SIZE: limits.max_header_block,
            },
        )
        self._h2.initiate_connection()
        self._streams: dict[int, Stream] = {}
        """Streams attached to this link, by HTTP/2 id."""
        self._highest = 0
        """Highest stream id that was ever opened here."""
        self._next_id = 1
        # Sending.
        self._control = bytearray(self._h2.data_to_send())
        self._caused = 0
        """Bytes in `_control` that answer the peer's frames."""
        self._ready: deque[Stream] = deque()
        self._urgent: deque[Stream] = deque()
        self._credit = 65_535
        self._peer_window = 65_535
        self._peer_max_frame = 16_384
        # Receiving: a partial header or control frame, or the DATA frame whose payload is coming.
        self._partial = bytearray()
        self._wanted = HEADER_SIZE
        self._preface_left = 0 if client else len(frames.PREFACE)
        self._payload_left = 0
        self._padding_left = 0
        self._data_stream: Stream | None = None
        self._data_id = 0
        self._data_ends = False
        self._pad_length_due = False
        self._block_id = 0
        self._block_size = 0
        self._window = limits.connection_window
        self._unreturned = 0
        self._control += frames.window_update(0, limits.connection_window - 65_535)
        # Receipt and life.
        self._dirty: set[Stream] = set()
        self._asked: list[tuple[Stream, int, bool]] = []
        self._ping_sent: float | None = None
        self._ping_count = 0
        self._last_ping = now - limits.heartbeat_after
        self._deadlines: dict[Stream, float] = {}
        self._floods = Allowance(limits.control_rate, limits.control_burst, now)
        self._resets = Allowance(limits.reset_rate, limits.reset_burst, now)
        self._now = now

    # --- what opener and answerer override --------------------------------------------------------

    def on_request(self, stream_id: int, headers: Headers, *, ended: bool) -> None:
        """A request's header block came."""
        raise NotImplementedError

    def on_response(self, stream_id: int, headers: Headers, *, ended: bool) -> None:
        """A response's header block came."""
        raise NotImplementedError

    # --- receiving --------------------------------------------------------------------------------

    def receive(self, data: memoryview, now: float) -> list[Event]:
        """Take bytes from the peer. Raises `ConnectionFailed`; what is due then includes the GOAWAY.

        The events' data are views of `data`. Reset streams are reported after the data that came before.
        """
        self._now = self.last_received = now
        events = self._events = []
        position, size = 0, len(data)
        try:
            while position < size:
                if self._payload_left or self._padding_left:
                    position += self._receive_data(data[position:])
                elif self._partial or size - position < HEADER_SIZE or self._preface_left:
                    position += self._receive_partial(data[position:])
                else:
                    length, kind, flags, stream_id = frames.parse_header(data, position)
                    end = position + HEADER_SIZE + length
                    if kind == frames.DATA:
                        position += HEADER_SIZE
                        self._begin_data(length, flags, stream_id)
                    else:
                        self._check_control(length, kind, flags, stream_id)
                        if end > size:
                            self._wanted = HEADER_SIZE + length
                            position += self._receive_partial(data[position:])
                        else:
                            self._receive_control(data[position:end], kind, flags, stream_id)
                            position = end
        except h2.exceptions.ProtocolError as exc:
            self._control += self._h2.data_to_send()
            raise ConnectionFailed(exc.error_code, str(exc) or type(exc).__name__) from exc
        if self._caused > self.limits.max_queued_control:
            raise self._failure(
                ErrorCode.ENHANCE_YOUR_CALM, "the peer causes more control frames than it reads"
            )
        return events

    def _receive_partial(self, data: memoryview) -> int:
        """Collect a preface, header or control frame that came in pieces."""
        if self._preface_left:
            taken = data[: self._preface_left]
            self._preface_left -= len(taken)
            self._h2.receive_data(bytes(taken))
            return len(taken)
        partial = self._partial
        taken = data[: self._wanted - len(partial)]
        partial += taken
        if len(partial) < self._wanted:
            return len(taken)
        length, kind, flags, stream_id = frames.parse_header(partial)
        if len(partial) == HEADER_SIZE:
            if kind == frames.DATA:
                partial.clear()
                self._begin_data(length, flags, stream_id)
                return len(taken)
            self._check_control(length, kind, flags, stream_id)
            if length:
                self._wanted = HEADER_SIZE + length
                return len(taken)
        frame = memoryview(bytes(partial))
        partial.clear()
        self._wanted = HEADER_SIZE
        self._receive_control(frame, kind, flags, stream_id)
        return len(taken)

    def _failure(self, code: ErrorCode, reason: str) -> ConnectionFailed:
        self._h2.close_connection(code)
        self._control += self._h2.data_to_send()
        return ConnectionFailed(code, reason)

    def _is_idle(self, stream_id: int) -> bool:
        return stream_id > self._highest or stream_id % 2 == 0

    def _begin_data(self, length: int, flags: int, stream_id: int) -> None:
        """The header of a DATA frame: every check that h2 would make, before the payload comes."""
        if self._block_id:
            raise self._failure(ErrorCode.PROTOCOL_ERROR, "DATA inside a header block")
        if length > self.limits.max_frame:
            raise self._failure(ErrorCode.FRAME_SIZE_ERROR, f"a DATA frame of {length} bytes")
        if stream_id == 0 or self._is_idle(stream_id):
            raise self._failure(ErrorCode.PROTOCOL_ERROR, f"DATA on idle stream {stream_id}")
        if length > self._window:
            raise self._failure(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        self._window -= length
        ends = bool(flags & frames.FLAG_END_STREAM)
        stream = self._streams.get(stream_id)
        if length == 0 and not ends:
            self._count_flood("empty DATA frames")
        if stream is None:
            self._check_unattached_data(stream_id)
        elif stream.incoming.end is not None:
            self._stream_error(stream, ErrorCode.STREAM_CLOSED)
            stream = None
        elif stream.state is not State.OPEN:
            self._stream_error(stream, ErrorCode.PROTOCOL_ERROR)
            stream = None
        else:
            try:
                stream.incoming.admit(length)
            except CreditExceeded:
                self._stream_error(stream, ErrorCode.FLOW_CONTROL_ERROR)
                stream = None
            else:
                if stream.abandoned and length:
                    stream.reset(ErrorCode.CANCEL)
                    stream = None
        self._data_stream, self._data_id, self._data_ends = stream, stream_id, ends
        self._payload_left, self._pad_length_due = length, False
        if flags & frames.FLAG_PADDED:
            if length == 0:
                raise self._failure(ErrorCode.FRAME_SIZE_ERROR, "a padded DATA frame without a pad length")
            self._pad_length_due = True
        elif length == 0:
            self._finish_data()

    def _check_unattached_data(self, stream_id: int) -> None:
        """DATA for a stream that has gone: swallowed if it was reset, an error if the peer had ended it."""
        exchange = self._h2.streams.get(stream_id)
        if exchange is None and self._h2._stream_is_closed_by_end(stream_id):  # noqa: SLF001
            raise self._failure(ErrorCode.STREAM_CLOSED, f"DATA on ended stream {stream_id}")

    def _receive_data(self, data: memoryview) -> int:
        """Bytes inside a DATA frame: the pad length, payload, padding."""
        if self._pad_length_due:
            self._pad_length_due = False
            self._padding_left = data[0]
            self._payload_left -= 1 + data[0]
            if self._payload_left < 0:
                raise self._failure(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
            if self._data_stream is not None:
                # Padding took stream credit that no consumer will return.
                self._control += frames.window_update(self._data_id, data[0] + 1)
            size = 1
        elif self._payload_left:
            piece = data[: self._payload_left]
            size = len(piece)
            self._payload_left -= size
            stream = self._data_stream
            if stream is not None and stream.state is State.OPEN:
                stream.incoming.received += size
                self._events.append(DataReceived(stream, piece))
        else:
            size = min(len(data), self._padding_left)
            self._padding_left -= size
        self._return_credit(size)
        if not self._payload_left and not self._padding_left:
            self._finish_data()
        return size

    def _return_credit(self, size: int) -> None:
        """The connection's window is a balance: credit goes back on receipt, whoever the bytes were for."""
        self._unreturned += size
        if self._unreturned * 8 >= self.limits.connection_window:
            self._control += frames.window_update(0, self._unreturned)
            self._window += self._unreturned
            self._unreturned = 0

    def _finish_data(self) -> None:
        self._data_stream = None
        if self._data_ends and self._data_id in self._h2.streams:
            self._feed(frames.frame_header(0, frames.DATA, frames.FLAG_END_STREAM, self._data_id))

    def _check_control(self, length: int, kind: int, flags: int, stream_id: int) -> None:
        """A frame other than DATA, at its header."""
        if length > self.limits.max_control_frame:
            raise self._failure(ErrorCode.FRAME_SIZE_ERROR, f"a control frame of {length} bytes")
        if self._block_id and (kind != frames.CONTINUATION or stream_id != self._block_id):
            raise self._failure(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")
        if kind in (frames.HEADERS, frames.CONTINUATION):
            if kind == frames.CONTINUATION and not self._block_id:
                raise self._failure(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without a header block")
            self._block_size = length if kind == frames.HEADERS else self._block_size + length
            if self._block_size > self.limits.max_header_block:
                raise self._failure(ErrorCode.ENHANCE_YOUR_CALM, "a header block over the limit")
            self._block_id = 0 if flags & frames.FLAG_END_HEADERS else stream_id

    def _receive_control(self, frame: memoryview, kind: int, flags: int, stream_id: int) -> None:
        """A whole frame other than DATA."""
        if kind == frames.WINDOW_UPDATE:
            self._receive_window_update(frame, stream_id)
        elif kind == frames.RST_STREAM:
            self._receive_reset(frame, stream_id)
        elif kind == frames.GOAWAY:
            # h2 would refuse every further DATA: take it as a drain, and let open streams end.
            if stream_id or len(frame) < HEADER_SIZE + 8:
                raise self._failure(ErrorCode.PROTOCOL_ERROR, "a malformed GOAWAY")
            self.draining = True
        elif kind == frames.PRIORITY or kind > frames.CONTINUATION:
            self._count_flood("PRIORITY or unknown frames")
        else:
            if kind in (frames.PING, frames.SETTINGS) and not flags & frames.FLAG_ACK:
                self._count_flood("PING or SETTINGS frames")
            if kind == frames.HEADERS and stream_id > self._highest:
                self._highest = stream_id
            self._feed(bytes(frame))

    def _count_flood(self, what: str) -> None:
        if not self._floods.spend(self._now):
            raise self._failure(ErrorCode.ENHANCE_YOUR_CALM, f"a flood of {what}")

    def _receive_window_update(self, frame: memoryview, stream_id: int) -> None:
        if len(frame) != HEADER_SIZE + 4:
            raise self._failure(ErrorCode.FRAME_SIZE_ERROR, "a malformed WINDOW_UPDATE")
        increment = int.from_bytes(frame[HEADER_SIZE:], "big") & 0x7FFFFFFF
        if stream_id == 0:
            if increment == 0:
                raise self._failure(ErrorCode.PROTOCOL_ERROR, "a WINDOW_UPDATE of 0")
            self._credit += increment
            if self._credit > MAX_WINDOW:
                raise self._failure(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window overflowed")
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            if self._is_idle(stream_id):
                raise self._failure(ErrorCode.PROTOCOL_ERROR, f"WINDOW_UPDATE on idle stream {stream_id}")
        elif increment == 0:
            self._stream_error(stream, ErrorCode.PROTOCOL_ERROR)
        else:
            outgoing = stream.outgoing
            outgoing.limit += increment
            if outgoing.limit - outgoing.sent > MAX_WINDOW:
                self._stream_error(stream, ErrorCode.FLOW_CONTROL_ERROR)
            else:
                self.schedule(stream)
                self._events.append(RoomGained(stream))

    def _receive_reset(self, frame: memoryview, stream_id: int) -> None:
        if not self._resets.spend(self._now):
            raise self._failure(ErrorCode.ENHANCE_YOUR_CALM, "a flood of resets")
        if self._is_idle(stream_id):
            raise self._failure(ErrorCode.PROTOCOL_ERROR, f"RST_STREAM on idle stream {stream_id}")
        if stream_id in self._h2.streams:
            self._feed(bytes(frame))

    def _feed(self, frame: bytes) -> None:
        """Give one frame to h2 and take what it makes of it."""
        for event in self._h2.receive_data(frame):
            self._handle(event)
        answer = self._h2.data_to_send()
        self._caused += len(answer)
        self._control += answer

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
                self._h2.reap(event.stream_id)
            case h2.events.TrailersReceived():
                stream = self._streams.get(event.stream_id)
                if stream is not None:
                    self._stream_error(stream, ErrorCode.PROTOCOL_ERROR)
            case h2.events.StreamEnded():
                self._receive_end(event.stream_id)
            case h2.events.StreamReset() if event.stream_id in self._streams:
                stream = self._streams[event.stream_id]
                self._h2.reap(event.stream_id)
                stream.reset_code = int(event.error_code)
                stream.close(EndCause.PEER_RESET)
                self._events.append(StreamReset(stream))
            case h2.events.StreamReset():
                self._h2.reap(event.stream_id)
            case h2.events.PingAckReceived():
                self._receive_pong(event.ping_data)
            case h2.events.RemoteSettingsChanged():
                self._apply_settings(event)
            case _:
                pass

    def _receive_end(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None and stream.incoming.end is None and stream.state is State.OPEN:
            stream.incoming.end = stream.incoming.received
            self._events.append(EndReceived(stream))
            stream.finish_if_done()
        if self._h2.reap(stream_id) and stream is not None and self._streams.get(stream_id) is stream:
            # Both directions ended: the id is free. The stream lives on until its bytes are acknowledged.
            del self._streams[stream_id]

    def _apply_settings(self, event: h2.events.RemoteSettingsChanged) -> None:
        changed = event.changed_settings
        if SettingCodes.INITIAL_WINDOW_SIZE in changed:
            window = changed[SettingCodes.INITIAL_WINDOW_SIZE].new_value
            # RFC 9113, 6.9.2: the difference applies to every open stream, and may make its window negative.
            delta, self._peer_window = window - self._peer_window, window
            for stream in self._streams.values():
                stream.outgoing.limit += delta
                self.schedule(stream)
                self._events.append(RoomGained(stream))
        if SettingCodes.MAX_FRAME_SIZE in changed:
            self._peer_max_frame = changed[SettingCodes.MAX_FRAME_SIZE].new_value

    # --- streams ----------------------------------------------------------------------------------

    @property
    def max_frame(self) -> int:
        """Largest DATA payload that both ends take."""
        return min(self._peer_max_frame, self.limits.max_frame)

    def send_request(self, headers: Headers, *, ended: bool) -> int:
        """Queue a request's header block; returns its stream id."""
        stream_id = self._next_id
        self._next_id += 2
        self._highest = stream_id
        self._h2.send_headers(stream_id, headers, end_stream=ended)
        self._control += self._h2.data_to_send()
        return stream_id

    def send_response(self, stream_id: int, headers: Headers, *, ended: bool) -> None:
        """Queue a response's header block, unless the request is gone."""
        if stream_id not in self._h2.streams:
            return
        self._h2.send_headers(stream_id, headers, end_stream=ended)
        self._control += self._h2.data_to_send()
        self._h2.reap(stream_id)

    def can_open(self) -> bool:
        """Whether one more stream stays below the peer's limit (one beyond it would end the link)."""
        return (
            not self.draining
            and self._next_id < MAX_WINDOW
            and self._h2.open_outbound_streams
            < min(self._h2.remote_settings.max_concurrent_streams, self.limits.max_streams)
        )

    def attach(self, stream: Stream, stream_id: int) -> None:
        """Carry `stream` under this HTTP/2 id from now on."""
        stream.connection, stream.stream_id = self, stream_id
        stream.outgoing.limit = stream.outgoing.sent + self._peer_window
        self._streams[stream_id] = stream

    def detach(self, stream: Stream) -> None:
        """Forget a stream that is closed."""
        self._streams.pop(stream.stream_id, None)
        self._deadlines.pop(stream, None)
        self._dirty.discard(stream)

    def grant(self, stream: Stream, increment: int) -> None:
        """Queue credit for the peer."""
        if stream.stream_id in self._streams:
            self._control += frames.window_update(stream.stream_id, increment)

    def reset_exchange(self, stream_id: int, code: int) -> None:
        """Queue a RST_STREAM, if the id is not closed already."""
        if stream_id in self._h2.streams:
            self._h2.reset_stream(stream_id, code)
            self._control += self._h2.data_to_send()
            self._h2.reap(stream_id)

    def reset_stream(self, stream: Stream, code: int) -> None:
        """Queue a RST_STREAM for an attached stream."""
        if self._streams.get(stream.stream_id) is stream:
            self.reset_exchange(stream.stream_id, code)

    def _stream_error(self, stream: Stream, code: ErrorCode) -> None:
        stream.reset(code, EndCause.PROTOCOL)
        self._events.append(StreamReset(stream))

    # --- sending ----------------------------------------------------------------------------------

    def schedule(self, stream: Stream) -> None:
        """Give the stream a turn if it has something to send."""
        if stream.scheduled or stream.state is not State.OPEN:
            return
        outgoing = stream.outgoing
        if outgoing.sendable() > 0 or (
            outgoing.end is not None and not outgoing.end_sent and not outgoing.queued
        ):
            stream.scheduled = True
            (self._urgent if outgoing.queued <= _URGENT else self._ready).append(stream)

    def take(self, size: int) -> list[Buffer]:
        """What to send next: control frames, then one DATA frame a stream in turn, until about `size` bytes.

        An empty list means that nothing is due. The buffers must be encrypted before anything else happens
        here.
        """
        out: list[Buffer] = []
        total = 0
        if self._control:
            out.append(bytes(self._control))
            total = len(self._control)
            self._control.clear()
            self._caused = 0
        limit = min(size, self.max_frame)
        while total < size and (self._urgent or self._ready):
            queue = self._urgent or self._ready
            stream = queue[0]
            outgoing = stream.outgoing
            allowed = min(limit, self._credit, outgoing.sendable())
            if allowed <= 0 and outgoing.queued and stream.state is State.OPEN:
                if outgoing.sendable() > 0:
                    break  # The connection's window is used up: turns are kept until credit comes.
                queue.popleft()
                stream.scheduled = False
                continue
            queue.popleft()
            stream.scheduled = False
            if stream.state is not State.OPEN:
                continue
            if allowed > 0:
                pieces = outgoing.take(allowed)
                self._credit -= allowed
                total += allowed + HEADER_SIZE
                out.append(frames.frame_header(allowed, frames.DATA, 0, stream.stream_id))
                out += pieces
                self._dirty.add(stream)
            self._finish_turn(stream)
            if self._control:
                # END_STREAM or a reset goes right behind the stream's last DATA.
                out.append(bytes(self._control))
                total += len(self._control)
                self._control.clear()
        return out

    def _finish_turn(self, stream: Stream) -> None:
        outgoing = stream.outgoing
        if outgoing.queued:
            self.schedule(stream)
            return
        if stream.pending_reset is not None:
            stream.reset(stream.pending_reset)
        elif outgoing.end is not None and not outgoing.end_sent:
            outgoing.end_sent = True
            self._dirty.add(stream)
            self._h2.end_stream(stream.stream_id)
            self._control += self._h2.data_to_send()
            if self._h2.reap(stream.stream_id):
                del self._streams[stream.stream_id]

    # --- receipt, life, time ----------------------------------------------------------------------

    def ask_for_receipt(self, now: float) -> bool:
        """Queue a PING behind what was sent, if there is something to ask for and the last was answered."""
        if (
            not self._dirty
            or self._ping_sent is not None
            or now - self._last_ping < self.limits.receipt_interval
        ):
            return False
        self._asked = [(stream, stream.outgoing.sent, stream.outgoing.end_sent) for stream in self._dirty]
        self._dirty.clear()
        self._ping(now)
        return True

    def _ping(self, now: float) -> None:
        self._ping_count += 1
        self._ping_sent = self._last_ping = now
        self._h2.ping(self._ping_count.to_bytes(8, "big"))
        self._control += self._h2.data_to_send()

    def _receive_pong(self, payload: bytes) -> None:
        if self._ping_sent is None or payload != self._ping_count.to_bytes(8, "big"):
            return
        self.round_trip = self._now - self._ping_sent
        self._ping_sent = None
        asked, self._asked = self._asked, []
        for stream, sent, end_sent in asked:
            if stream.state is State.CLOSED:
                continue
            stream.outgoing.acknowledge(sent)
            if end_sent:
                stream.outgoing.end_acknowledged = True
                stream.finish_if_done()
            else:
                self._events.append(RoomGained(stream))

    def probe(self, now: float) -> None:
        """Ask the peer for a sign of life, if no question is open already."""
        if self._ping_sent is None:
            self._ping(now)

    def set_deadline(self, stream: Stream, when: float) -> None:
        """Reset the stream at `when` unless it has ended by then."""
        self._deadlines[stream] = when

    def deadline(self) -> float:
        """When `tick` is due."""
        limits = self.limits
        due = self.last_received + limits.silence_limit
        if self._ping_sent is None:
            due = min(due, self.last_received + limits.heartbeat_after)
            if self._dirty:
                due = min(due, self._last_ping + limits.receipt_interval)
        if self._deadlines:
            due = min(due, *self._deadlines.values())
        return due

    def tick(self, now: float) -> None:
        """Do what is due at `now`. Raises `ConnectionFailed` when the peer has been silent for too long."""
        self._now = now
        silence = now - self.last_received
        if silence >= self.limits.silence_limit:
            raise self._failure(ErrorCode.NO_ERROR, f"nothing received for {silence:.0f} s")
        for stream in [stream for stream, when in self._deadlines.items() if when <= now]:
            del self._deadlines[stream]
            stream.reset(stream.pending_reset if stream.pending_reset is not None else ErrorCode.CANCEL)
        if (
            not self.ask_for_receipt(now)
            and silence >= self.limits.heartbeat_after
            and self._ping_sent is None
        ):
            self._ping(now)

    def close(self, code: int = ErrorCode.NO_ERROR) -> None:
        """Queue the GOAWAY that ends the link. Nothing may be sent after it."""
        self._h2.close_connection(code)
        self._control += self._h2.data_to_send()


def _headers(pairs: object) -> Headers:
    return [(bytes(name), bytes(value)) for name, value in pairs]  # type: ignore[attr-defined]
