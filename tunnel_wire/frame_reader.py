"""From bytes to frames: DATA piece by piece as it arrives, every other frame whole.

Lengths are checked at a frame's 9-byte header, before its payload comes (RFC 9113, 4.2): what is collected
here is never larger than a control frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tunnel_wire import frames
from tunnel_wire.frames import HEADER_SIZE, ErrorCode, Violation

if TYPE_CHECKING:
    from tunnel_wire.limits import WireLimits


class FrameSink(Protocol):
    """What is told of frames as they come. Raising from these ends the reading for good.

    Inherit from it: compiled, who does is called directly.
    """

    __slots__ = ()

    def begin_data(self, length: int, flags: int, stream_id: int) -> None:
        """The header of a DATA frame, whose payload and padding will come."""

    def padding(self, size: int) -> None:
        """So many bytes of this DATA frame are not payload: its padding, and their length."""

    def payload(self, piece: memoryview) -> None:
        """Part of this DATA frame's payload."""

    def end_data(self) -> None:
        """The DATA frame is complete."""

    def control(self, frame: memoryview, kind: int, flags: int, stream_id: int) -> None:
        """A whole frame other than DATA, header included."""


class FrameReader:
    """Cuts what `feed` gets into frames for `sink`."""

    __slots__ = (
        "_block_id",
        "_block_size",
        "_limits",
        "_pad_length_due",
        "_padding_left",
        "_partial",
        "_payload_left",
        "_preface_left",
        "_sink",
        "_wanted",
    )

    def __init__(self, sink: FrameSink, limits: WireLimits, *, preface: bool) -> None:
        self._sink = sink
        self._limits = limits
        self._preface_left = frames.PREFACE if preface else b""
        self._partial = bytearray()
        """A header or a control frame that came in pieces, of which `_wanted` bytes are needed next."""
        self._wanted = HEADER_SIZE
        self._payload_left = 0
        self._padding_left = 0
        self._pad_length_due = False
        self._block_id = 0
        """The stream whose header block goes on in a CONTINUATION."""
        self._block_size = 0

    def feed(self, data: memoryview) -> None:
        """Take bytes from the peer. Raises `Violation`, and what the sink raises."""
        position, size = 0, len(data)
        while position < size:
            if self._payload_left or self._padding_left:
                position = self._read_data(data, position)
            elif self._partial or size - position < HEADER_SIZE or self._preface_left:
                position = self._collect(data, position)
            else:
                length, kind, flags, stream_id = frames.parse_header(data, position)
                end = position + HEADER_SIZE + length
                if kind == frames.DATA:
                    position += HEADER_SIZE
                    self._begin_data(length, flags, stream_id)
                    continue
                self._check_control(length, kind, flags, stream_id)
                if end > size:
                    self._wanted = HEADER_SIZE + length
                    position = self._collect(data, position)
                else:
                    self._sink.control(data[position:end], kind, flags, stream_id)
                    position = end

    def _collect(self, data: memoryview, position: int) -> int:
        """Take from `data` what a preface, header or control frame in pieces lacks."""
        if self._preface_left:
            return self._read_preface(data, position)
        partial = self._partial
        taken = data[position : position + self._wanted - len(partial)]
        position += len(taken)
        partial += taken
        if len(partial) < self._wanted:
            return position
        length, kind, flags, stream_id = frames.parse_header(partial)
        if len(partial) == HEADER_SIZE:
            if kind == frames.DATA:
                partial.clear()
                self._begin_data(length, flags, stream_id)
                return position
            self._check_control(length, kind, flags, stream_id)
            if length:
                self._wanted = HEADER_SIZE + length
                return position
        frame = memoryview(bytes(partial))
        partial.clear()
        self._wanted = HEADER_SIZE
        self._sink.control(frame, kind, flags, stream_id)
        return position

    def _read_preface(self, data: memoryview, position: int) -> int:
        left = self._preface_left
        taken = data[position : position + len(left)]
        if taken != left[: len(taken)]:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "what came is not HTTP/2")
        self._preface_left = left[len(taken) :]
        return position + len(taken)

    def _begin_data(self, length: int, flags: int, stream_id: int) -> None:
        if self._block_id:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "DATA inside a header block")
        if length > self._limits.max_frame:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, f"a DATA frame of {length} bytes")
        if flags & frames.FLAG_PADDED:
            if not length:
                raise Violation(ErrorCode.FRAME_SIZE_ERROR, "a padded DATA frame without a pad length")
            self._pad_length_due = True
        self._payload_left = length
        self._sink.begin_data(length, flags, stream_id)
        if not length:
            self._sink.end_data()

    def _read_data(self, data: memoryview, position: int) -> int:
        """Bytes inside a DATA frame: the pad length, payload, padding (RFC 9113, 6.1)."""
        if self._pad_length_due:
            self._pad_length_due = False
            self._padding_left = data[position]
            self._payload_left -= 1 + self._padding_left
            if self._payload_left < 0:
                raise Violation(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
            self._sink.padding(1 + self._padding_left)
            position += 1
        elif self._payload_left:
            piece = data[position : position + self._payload_left]
            position += len(piece)
            self._payload_left -= len(piece)
            self._sink.payload(piece)
        else:
            size = min(len(data) - position, self._padding_left)
            position += size
            self._padding_left -= size
        if not self._payload_left and not self._padding_left:
            self._sink.end_data()
        return position

    def _check_control(self, length: int, kind: int, flags: int, stream_id: int) -> None:
        """A frame other than DATA, at its header."""
        if length > self._limits.max_control_frame:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, f"a control frame of {length} bytes")
        if self._block_id and (kind != frames.CONTINUATION or stream_id != self._block_id):
            raise Violation(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")
        if kind in (frames.HEADERS, frames.CONTINUATION):
            if kind == frames.CONTINUATION and not self._block_id:
                raise Violation(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without a header block")
            self._block_size = length if kind == frames.HEADERS else self._block_size + length
            if self._block_size > self._limits.max_header_block:
                raise Violation(ErrorCode.ENHANCE_YOUR_CALM, "a header block over the limit")
            self._block_id = 0 if flags & frames.FLAG_END_HEADERS else stream_id
