"""h2 as this project uses it: for settings, HPACK, stream states and resets, never for DATA or credit.

h2 was not made to be bypassed for DATA, nor to forget; what that takes is here, and leans on its private
parts.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import h2.config
import h2.connection
from h2.settings import SettingCodes, Settings
from h2.stream import StreamClosedBy

from tunnel_wire import frames

if TYPE_CHECKING:
    from tunnel_wire.limits import WireLimits

MAX_ENCODER_TABLE = 4096
"""Bytes of header compression state that we keep for a peer, however much it offers to keep for us."""


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
                SettingCodes.MAX_CONCURRENT_STREAMS: limits.max_streams,
                SettingCodes.MAX_HEADER_LIST_SIZE: limits.max_header_block,
            },
        )
        self.compact_settings()
        if not client:
            # `FrameReader` has the client's preface checked and taken away.
            self.receive_data(frames.PREFACE)

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
        """Settings take a third of an idle connection's memory; call it when some have come."""
        for settings in (self.local_settings, self.remote_settings):
            values = settings._settings  # noqa: SLF001
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
