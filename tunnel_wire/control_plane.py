"""h2 as this project uses it: for settings, HPACK, stream states and resets, never for DATA or credit.

h2 was not made to be bypassed for DATA, nor to forget, and it takes a third of a short connection's time when
it is used as it comes. What that takes is here, and leans on its private parts. Its states are always asked,
and its checks of what a peer says wherever there may be something to find (`plain_blocks.py`).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, cast

import h2.config
import h2.connection
from h2.connection import AllowedStreamIDs, ConnectionInputs, _decode_headers
from h2.events import RequestReceived, ResponseReceived
from h2.exceptions import TooManyStreamsError
from h2.settings import SettingCodes, Settings
from h2.stream import H2Stream, StreamClosedBy, StreamInputs, StreamState

from tunnel_wire import frames
from tunnel_wire.header_codec import HeaderDecoder, HeaderEncoder
from tunnel_wire.plain_blocks import is_plain_answer, is_plain_connect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from h2.events import Event
    from hpack.struct import Header

    from tunnel_wire.hello import Headers
    from tunnel_wire.limits import WireLimits

MAX_ENCODER_TABLE: Final = 4096
"""Bytes of header compression state that we keep for a peer, however much it offers to keep for us."""


_KNOWN_SETTINGS: Final = frozenset(SettingCodes)

WHOLE: Final = frames.FLAG_END_HEADERS | frames.FLAG_END_STREAM
"""Flags of a HEADERS frame that is a header block and nothing else; the second may be missing."""
_ANSWERABLE: Final = frozenset({StreamState.OPEN, StreamState.HALF_CLOSED_LOCAL})
"""A stream of ours on which the peer may begin."""


class _Values(list[int]):
    """A setting's values, the one in force first: what h2 needs of a deque, of which each takes 760 bytes."""

    __slots__ = ()

    def popleft(self) -> int:
        return self.pop(0)


class ControlPlane(h2.connection.H2Connection):
    """h2 with a bounded memory of closed streams, and no walk over all streams at each open."""

    MAX_CLOSED_STREAMS = 1024

    def __init__(self, *, client: bool, limits: WireLimits) -> None:
        super().__init__(
            h2.config.H2Configuration(
                client_side=client,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.local_settings = Settings(
            client=client,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: limits.initial_window,
                SettingCodes.MAX_FRAME_SIZE: limits.max_frame,
                # With the place that an opener leaves free: all of a session's streams may come to one link.
                SettingCodes.MAX_CONCURRENT_STREAMS: limits.max_streams + 1,
                SettingCodes.MAX_HEADER_LIST_SIZE: limits.max_header_block,
            },
        )
        self.compact_settings()
        self.encoder = HeaderEncoder()
        self.decoder = HeaderDecoder(self.decoder.max_header_list_size)
        if not client:
            # `FrameReader` has the client's preface checked and taken away.
            self.receive_data(frames.PREFACE)

    def dispose(self) -> None:
        """Receive nothing any more, and let go of its own methods, by the kind of frame."""
        self._frame_dispatch_table.clear()

    # --- what every stream needs, by the shortest way -----------------------------------------------

    def send_headers(  # type: ignore[override]
        self, stream_id: int, headers: Headers, end_stream: bool = False
    ) -> None:
        """As h2's, for lists of plain fields that need no checks, and no priorities: they are our own."""
        self.state_machine.process_input(ConnectionInputs.SEND_HEADERS)
        if stream_id in self.streams:
            machine = self.streams[stream_id].state_machine
            machine.process_input(StreamInputs.SEND_HEADERS)
        else:
            self.highest_outbound_stream_id = stream_id
            machine = self._new_stream(stream_id).state_machine
            machine.state, machine.client, machine.headers_sent = StreamState.OPEN, True, True
        flags = frames.FLAG_END_HEADERS
        if end_stream:
            machine.process_input(StreamInputs.SEND_END_STREAM)
            flags |= frames.FLAG_END_STREAM
        block = self.encoder.encode(headers)
        # Whatever a field is made of is bounded far below what every peer takes.
        assert len(block) <= frames.DEFAULT_MAX_FRAME
        self._data_to_send += frames.frame_header(len(block), frames.HEADERS, flags, stream_id) + block

    def _new_stream(self, stream_id: int) -> H2Stream:
        stream = self.streams[stream_id] = H2Stream(
            stream_id,
            self.config,
            inbound_window_size=self.local_settings.initial_window_size,
            outbound_window_size=self.remote_settings.initial_window_size,
        )
        return stream

    def end_stream(self, stream_id: int) -> None:
        """As h2's: queue END_STREAM in a DATA frame of its own."""
        self.streams[stream_id].state_machine.process_input(StreamInputs.SEND_END_STREAM)
        self._data_to_send += frames.frame_header(0, frames.DATA, frames.FLAG_END_STREAM, stream_id)

    def receive_end(self, stream_id: int) -> None:
        """END_STREAM came on an open stream, in a DATA frame that breaks no rule."""
        self.streams[stream_id].state_machine.process_input(StreamInputs.RECV_END_STREAM)

    def receive_headers(self, frame: memoryview, flags: int, stream_id: int) -> Sequence[Event]:
        """A HEADERS frame came. Raises h2's ProtocolError."""
        client = self.config.client_side
        expected = stream_id in self.streams if client else stream_id > self.highest_inbound_stream_id
        if not expected or flags | frames.FLAG_END_STREAM != WHOLE:
            # On a stream that may be closed, or padded, or to be continued.
            return self.receive_data(bytes(frame))
        # Past its frame buffer and its log, which has each frame's `repr` made for nobody.
        if not client and len(self.streams) >= self.local_settings.max_concurrent_streams:
            raise TooManyStreamsError(f"more than {len(self.streams)} streams at once")
        fields = cast("list[Header]", _decode_headers(self.decoder, bytes(frame[frames.HEADER_SIZE :])))
        self.state_machine.process_input(ConnectionInputs.RECV_HEADERS)
        if flags == frames.FLAG_END_HEADERS:
            # Past its checks, a tenth of what a short connection costs each end, where they would find
            # nothing.
            if client:
                machine = self.streams[stream_id].state_machine
                begun = machine.state in _ANSWERABLE and not machine.headers_received
                if begun and is_plain_answer(fields):
                    machine.headers_received = True
                    return [ResponseReceived(stream_id=stream_id, headers=fields)]
            elif stream_id % 2 and is_plain_connect(fields):
                self.highest_inbound_stream_id = stream_id
                machine = self._new_stream(stream_id).state_machine
                machine.state, machine.client, machine.headers_received = StreamState.OPEN, False, True
                return [RequestReceived(stream_id=stream_id, headers=fields)]
        stream = self._get_or_create_stream(stream_id, AllowedStreamIDs(not client))
        _, events = stream.receive_headers(fields, bool(flags & frames.FLAG_END_STREAM), None)
        return events

    def drop_headers(self, frame: memoryview) -> None:
        """A whole header block came on a stream that we had reset: only HPACK has to know.

        Raises h2's ProtocolError.
        """
        _decode_headers(self.decoder, bytes(frame[frames.HEADER_SIZE :]))

    # --- forgetting -------------------------------------------------------------------------------

    def _open_streams(self, remainder: int) -> int:
        # Every stream is the client's, so odd, and `reap` takes out the closed ones as they close.
        return len(self.streams) if remainder else 0

    def _stream_closed_by(self, stream_id: int) -> StreamClosedBy | None:
        known = super()._stream_closed_by(stream_id)
        if known is None and stream_id not in self.streams and self._stream_id_is_outbound(stream_id):
            # Forgotten long ago. A late 200 for an aborted dial must not end the link.
            return StreamClosedBy.SEND_RST_STREAM
        return known

    def closed_by_peer(self, stream_id: int) -> bool:
        """Whether nothing may come on this id any more: the peer ended or reset it, and this is still
        known.
        """
        return stream_id not in self.streams and self._stream_closed_by(stream_id) in (
            StreamClosedBy.RECV_END_STREAM,
            StreamClosedBy.SEND_END_STREAM,  # both had ended, and ours came last
            StreamClosedBy.RECV_RST_STREAM,
        )

    def reset_by_us(self, stream_id: int) -> bool:
        """Whether frames may still come on this id from before the peer saw our reset."""
        return (
            stream_id not in self.streams
            and self._stream_closed_by(stream_id) is StreamClosedBy.SEND_RST_STREAM
        )

    def compact_settings(self) -> None:
        """Settings take a third of an idle connection's memory; call it when some have come.

        h2 would also keep each of the 65,536 that there may be, and look at them whenever some come.
        """
        for settings in (self.local_settings, self.remote_settings):
            values = settings._settings  # noqa: SLF001
            for key in [key for key in values if key not in _KNOWN_SETTINGS]:
                del values[key]
            for key in values:
                if type(values[key]) is deque:
                    values[key] = _Values(values[key])  # type: ignore[assignment]

    def bound_encoder(self) -> None:
        """Keep no more compression state than `MAX_ENCODER_TABLE`, whatever the peer's SETTINGS allow."""
        if self.encoder.header_table_size > MAX_ENCODER_TABLE:  # noqa: PLR1730 - assigning it is an event
            self.encoder.header_table_size = MAX_ENCODER_TABLE

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
