"""h2, bypassed, forgetful, and bounded."""

from __future__ import annotations

import struct
from collections import deque

from hyperframe.frame import (
    HeadersFrame,
    SettingsFrame,
)

from tests.tunnel_wire.handmade import (
    CONNECT,
    Handmade,
    data,
    fails,
    raw,
    reset,
    window_update,
)
from tunnel_wire import frames
from tunnel_wire.frames import ErrorCode
from tunnel_wire.hello import DrainReason
from tunnel_wire.limits import WireLimits
from tunnel_wire.stream_state import State


def test_compression_state_is_bounded_whatever_the_peer_offers(opener: Handmade) -> None:
    opener.receive(SettingsFrame(0, settings={SettingsFrame.HEADER_TABLE_SIZE: 1 << 30}))
    for _ in range(500):
        opener.opened().reset(ErrorCode.CANCEL)
    assert opener.connection._h2.encoder.header_table_size == 4096
    assert opener.connection._h2.encoder.header_table._current_size <= 4096


def test_a_header_block_that_grows_when_it_is_decoded(answerer: Handmade) -> None:
    headers = [*CONNECT, *[(b"name", b"v" * 4000)] * 30]
    block = answerer.encoder.encode(headers)
    assert len(block) < 8000
    bomb = HeadersFrame(1, data=block, flags=["END_HEADERS"])
    assert fails(answerer, bomb) is ErrorCode.ENHANCE_YOUR_CALM


def test_late_answers_to_aborted_dials_cost_nothing(opener: Handmade) -> None:
    aborted = []
    for _ in range(5000):
        stream = opener.connection.open_stream(opener.session, "target", 80)
        stream.reset(ErrorCode.CANCEL)
        aborted.append(stream.stream_id)
    opener.take()
    for stream_id in aborted:
        assert opener.receive(opener.headers(stream_id, [(b":status", b"200")]), data(stream_id, b"hi")) == []
    # Not one more reset each: that would trip the flood limits of a stock peer.
    assert opener.take() == []
    assert len(opener.connection._h2._closed_streams) <= 1024
    assert opener.opened().state is State.OPEN


def test_late_answers_still_count_for_compression(opener: Handmade) -> None:
    fields = [(b":status", b"200"), (b"tunnel-detail", b"as in the late one")]
    aborted = opener.connection.open_stream(opener.session, "target", 80)
    aborted.reset(ErrorCode.CANCEL)
    assert opener.receive(opener.headers(aborted.stream_id, fields)) == []
    stream = opener.connection.open_stream(opener.session, "target", 80)
    answer = opener.headers(stream.stream_id, fields)
    assert len(answer.data) == 2, "both from the tables"
    opener.receive(answer)
    assert stream.state is State.OPEN
    broken = raw(frames.HEADERS, frames.FLAG_END_HEADERS, aborted.stream_id, b"\xff\xff\xff")
    assert fails(opener, broken) is ErrorCode.COMPRESSION_ERROR


def test_late_frames_on_streams_long_forgotten(answerer: Handmade) -> None:
    for stream_id in range(1, 3001, 2):
        answerer.accepted(stream_id).reset(ErrorCode.CONNECT_ERROR)
        answerer.take()
    late = [data(1, b"late"), data(1, end=True), window_update(1, 10), reset(1)]
    assert answerer.receive(*late) == []
    assert answerer.take() == []
    assert not answerer.connection._h2.streams


def test_late_answers_with_all_places_taken() -> None:
    # h2 would count our own streams against what we let the peer open.
    peer = Handmade.opener(WireLimits(max_streams=3))
    stream = peer.connection.open_stream(peer.session, "target", 80)
    stream.reset(ErrorCode.CANCEL)
    for _ in range(3):
        peer.opened()
    peer.connection.drain(DrainReason.SHUTDOWN)
    assert peer.receive(peer.headers(stream.stream_id, [(b":status", b"200")])) == []


def test_unknown_settings_are_not_kept(opener: Handmade) -> None:
    h2 = opener.connection._h2
    for number in range(8):
        keys = range(0x4A00 + 10 * number, 0x4A0A + 10 * number)
        opener.receive(raw(frames.SETTINGS, 0, 0, b"".join(struct.pack(">HI", key, 1) for key in keys)))
    assert len(h2.remote_settings._settings) < 16


def test_settings_are_kept_small_and_still_change(opener: Handmade) -> None:
    h2 = opener.connection._h2
    before = h2.remote_settings.max_concurrent_streams
    for streams in (7, 9):
        opener.receive(
            SettingsFrame(0, settings={SettingsFrame.MAX_CONCURRENT_STREAMS: streams, 0x4A4A: streams})
        )
        assert h2.remote_settings.max_concurrent_streams == streams != before
        for settings in (h2.local_settings, h2.remote_settings):
            assert not [key for key, values in settings._settings.items() if isinstance(values, deque)]
