"""Control frames first, then a frame a stream in turn, as credit allows."""

from __future__ import annotations

import pytest
from hyperframe.frame import (
    PingFrame,
    SettingsFrame,
)

from tests.tunnel_wire.handmade import (
    Handmade,
    window_update,
)
from tests.tunnel_wire.memory import MIB, Pair
from tunnel_wire import frames
from tunnel_wire.connection import ConnectionFailed
from tunnel_wire.frames import ErrorCode
from tunnel_wire.limits import WireLimits


def test_credit_of_the_connection_is_kept_to(answerer: Handmade) -> None:
    streams = [answerer.accepted(stream_id) for stream_id in (1, 3)]
    for stream in streams:
        stream.write(bytes(stream.room()))
    sent = [frame for frame in answerer.take() if frame.kind == frames.DATA]
    assert sum(len(frame.payload) for frame in sent) == 65_535
    assert not answerer.take()
    answerer.receive(window_update(0, 100))
    assert [len(frame.payload) for frame in answerer.take()] == [100]


def test_small_writes_have_credit_that_bulk_leaves() -> None:
    pair = Pair(
        limits=WireLimits(
            initial_window=2 * MIB, kept_floor=4 * MIB, max_queued=2 * MIB, connection_window=MIB
        )
    )
    pair.settle()
    bulky, small = (pair.stream()[0] for _ in range(2))
    bulky.write(bytes(2 * MIB))
    sent = 0
    while out := pair.opener.take(MIB):
        sent += sum(len(piece) for piece in out if len(piece) > 9)
    assert sent == MIB - 65_536
    small.write(b"keystroke")
    assert b"keystroke" in [bytes(piece) for piece in pair.opener.take(MIB)]


def test_a_larger_frame_follows_the_acknowledgement_that_allows_it(answerer: Handmade) -> None:
    stream = answerer.accepted()
    stream.write(bytes(40_000))
    assert [len(frame.payload) for frame in answerer.take()] == [16_384, 16_384, 7232]
    answerer.receive(SettingsFrame(0, settings={SettingsFrame.MAX_FRAME_SIZE: 1 << 20}))
    stream.write(bytes(20_000))
    sent = answerer.take()
    assert (sent[0].kind, sent[0].flags) == (frames.SETTINGS, frames.FLAG_ACK)
    assert [len(frame.payload) for frame in sent[1:]] == [20_000]


def test_streams_take_turns_and_small_ones_come_first() -> None:
    pair = Pair()
    pair.settle()
    bulky, other, small = (pair.stream()[0] for _ in range(3))
    for stream in (bulky, other):
        stream.write(bytes(50_000))
    small.write(b"x")
    order = []
    while out := pair.opener.take(10_000):
        order += [frames.parse_header(piece)[3] for piece in out if len(piece) == 9]
    first = [small.stream_id, bulky.stream_id, other.stream_id, bulky.stream_id, other.stream_id]
    assert order[:5] == first


def test_control_frames_overtake_queued_data(answerer: Handmade) -> None:
    stream = answerer.accepted()
    stream.write(bytes(60_000))
    answerer.receive(PingFrame(0, b"12345678"))
    assert [frame.kind for frame in answerer.take()][:2] == [frames.PING, frames.DATA]


def test_the_end_comes_right_behind_the_data(answerer: Handmade) -> None:
    one, other = answerer.accepted(1), answerer.accepted(3)
    one.write(b"one")
    one.write_end()
    other.write(b"other")
    other.reset_behind_data(ErrorCode.CONNECT_ERROR, answerer.now)
    assert [(frame.kind, frame.stream_id, frame.flags) for frame in answerer.take()] == [
        (frames.DATA, 1, 0),
        (frames.DATA, 1, frames.FLAG_END_STREAM),
        (frames.DATA, 3, 0),
        (frames.RST_STREAM, 3, 0),
    ]


def credits_borne(peer: Handmade) -> int:
    """How many WINDOW_UPDATE frames the connection takes at once before it calls them a flood."""
    sender = peer.connection._sender
    before = sender.credit
    with pytest.raises(ConnectionFailed):
        peer.receive(window_update(0, 1) * 100_000)
    return sender.credit - before


@pytest.mark.parametrize(("size", "reasons"), [(1, 2), (4095, 2), (4096, 3), (16_384, 6)])
def test_a_frame_is_a_reason_for_credit(answerer: Handmade, size: int, reasons: int) -> None:
    """spec.md, 8: each is one for two, and each 4 KiB for one more."""
    without = Handmade.answerer()
    without.accepted()
    answerer.accepted().write(bytes(size))
    assert [len(frame.payload) for frame in answerer.take()] == [size]
    assert credits_borne(answerer) == credits_borne(without) + reasons


def test_a_stream_is_a_reason_for_ten(answerer: Handmade) -> None:
    answerer.accepted()
    assert credits_borne(answerer) == credits_borne(Handmade.answerer()) + 10


def test_reasons_for_credit_are_not_saved_up(answerer: Handmade) -> None:
    stream = answerer.accepted()
    for _ in range(33_000):
        stream.write(b"k")
        answerer.take()
    assert credits_borne(answerer) == credits_borne(Handmade.answerer()) + 65_536
