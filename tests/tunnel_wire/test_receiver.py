"""Frames against HTTP/2's rules (RFC 9113), from a peer that breaks them."""

from __future__ import annotations

import struct

import pytest
from hyperframe.frame import (
    ExtensionFrame,
    Frame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    SettingsFrame,
)

from tests.tunnel_wire.handmade import (
    CONNECT,
    KIB,
    Handmade,
    Sent,
    data,
    fails,
    goaway,
    initial_window,
    raw,
    reset,
    resets,
    window_update,
)
from tests.tunnel_wire.memory import Face
from tunnel_wire import frames
from tunnel_wire.connection import ConnectionFailed
from tunnel_wire.events import (
    DataReceived,
    RoomGained,
    StreamRequested,
    StreamReset,
)
from tunnel_wire.frames import MAX_WINDOW, ErrorCode
from tunnel_wire.limits import WireLimits
from tunnel_wire.stream_state import EndCause, State

SMALL = WireLimits(connection_window=65_535, max_frame=16_384)


@pytest.mark.parametrize("stream_id", [0, 1, 2, 7])
def test_data_on_no_stream(answerer: Handmade, stream_id: int) -> None:
    assert fails(answerer, data(stream_id, b"x")) is ErrorCode.PROTOCOL_ERROR


def test_data_after_end(answerer: Handmade) -> None:
    stream = answerer.accepted()
    answerer.receive(data(1, b"abc", end=True))
    assert answerer.receive(data(1, b"more")) == [StreamReset(stream)]
    assert resets(answerer, 1) is ErrorCode.STREAM_CLOSED
    assert stream.end_cause is EndCause.PROTOCOL


def test_data_after_both_ends(answerer: Handmade) -> None:
    stream = answerer.accepted()
    answerer.receive(data(1, end=True))
    stream.write_end()
    answerer.take()
    assert fails(answerer, data(1, b"more")) is ErrorCode.STREAM_CLOSED


def test_data_after_the_peers_own_reset(answerer: Handmade) -> None:
    answerer.accepted()
    answerer.receive(reset(1))
    assert fails(answerer, data(1, b"more")) is ErrorCode.STREAM_CLOSED


def test_data_before_the_answer(answerer: Handmade, opener: Handmade) -> None:
    (requested,) = answerer.receive(answerer.headers(1, CONNECT))
    assert isinstance(requested, StreamRequested)
    assert answerer.receive(data(1, b"early")) == [StreamReset(requested.stream)]
    assert resets(answerer, 1) is ErrorCode.PROTOCOL_ERROR

    stream = opener.connection.open_stream(opener.session, "target", 80)
    assert opener.receive(data(stream.stream_id, b"early")) == [StreamReset(stream)]
    assert resets(opener, stream.stream_id) is ErrorCode.PROTOCOL_ERROR


def test_data_beyond_the_streams_window(answerer: Handmade) -> None:
    stream = answerer.accepted()
    answerer.receive(data(1, bytes(64 * KIB)))
    answerer.events.clear()
    assert answerer.receive(data(1, b"x")) == [StreamReset(stream)]
    assert resets(answerer, 1) is ErrorCode.FLOW_CONTROL_ERROR


def test_data_beyond_the_connections_window() -> None:
    # Nothing is given back before an eighth is spent.
    peer = Handmade.answerer(WireLimits(connection_window=800_000))
    for stream_id in (1, 3):
        peer.accepted(stream_id)
    peer.receive(data(1, bytes(50_000)), data(3, bytes(49_000)))
    assert not [frame for frame in peer.take() if frame.kind == frames.WINDOW_UPDATE]
    assert fails(peer, frames.frame_header(701_001, frames.DATA, 0, 3)) is ErrorCode.FLOW_CONTROL_ERROR


def test_a_flood_of_empty_data(answerer: Handmade) -> None:
    answerer.accepted()
    assert fails(answerer, data(1) * 3000) is ErrorCode.ENHANCE_YOUR_CALM


def test_data_for_a_stream_that_we_reset_is_swallowed_and_credited() -> None:
    # 160 MiB through a window of 64 KiB: it would be stuck at once.
    peer = Handmade.answerer(SMALL)
    stream = peer.accepted()
    stream.reset(ErrorCode.CONNECT_ERROR)
    assert resets(peer, 1) is ErrorCode.CONNECT_ERROR
    credited = 0
    for _ in range(10_000):
        assert peer.receive(data(1, bytes(16_384))) == []
        for frame in peer.take():
            assert (frame.kind, frame.stream_id) == (frames.WINDOW_UPDATE, 0)
            credited += frame.increment
    assert 0 <= 10_000 * 16_384 - credited < 8192
    assert peer.receive(data(1, end=True)) == []
    assert not peer.take()


def test_a_stream_reset_in_the_middle_of_a_frame(answerer: Handmade) -> None:
    stream = answerer.accepted()
    frame = data(1, b"0123456789", end=True)
    answerer.receive(frame[:12])
    stream.reset(ErrorCode.CANCEL)
    assert answerer.receive(frame[12:]) == []
    assert resets(answerer, 1) is ErrorCode.CANCEL


def test_window_update_of_nothing(answerer: Handmade) -> None:
    stream = answerer.accepted()
    assert answerer.receive(window_update(1, 0)) == [StreamReset(stream)]
    assert resets(answerer, 1) is ErrorCode.PROTOCOL_ERROR
    assert fails(answerer, window_update(0, 0)) is ErrorCode.PROTOCOL_ERROR


def test_window_update_of_a_wrong_length(answerer: Handmade) -> None:
    answerer.accepted()
    assert fails(answerer, raw(frames.WINDOW_UPDATE, 0, 1, b"\0\0\1")) is ErrorCode.FRAME_SIZE_ERROR


def test_window_update_beyond_what_can_be_counted(answerer: Handmade) -> None:
    stream = answerer.accepted()
    answerer.receive(window_update(1, MAX_WINDOW - 65_535))
    assert stream.state is State.OPEN
    assert StreamReset(stream) in answerer.receive(window_update(1, 1))
    assert resets(answerer, 1) is ErrorCode.FLOW_CONTROL_ERROR
    assert fails(answerer, window_update(0, MAX_WINDOW)) is ErrorCode.FLOW_CONTROL_ERROR


def test_window_update_on_an_idle_stream(answerer: Handmade) -> None:
    assert fails(answerer, window_update(5, 1)) is ErrorCode.PROTOCOL_ERROR


def test_window_update_on_an_exchange_that_is_no_stream(answerer: Handmade) -> None:
    answerer.receive(
        answerer.headers(
            1, [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"x"), (b":path", b"/")]
        )
    )
    answerer.take()
    answerer.receive(window_update(1, MAX_WINDOW))
    assert resets(answerer, 1) is ErrorCode.FLOW_CONTROL_ERROR


def test_window_update_on_a_closed_stream_is_ignored(answerer: Handmade) -> None:
    stream = answerer.accepted()
    answerer.receive(data(1, end=True))
    stream.write_end()
    answerer.take()
    assert answerer.receive(window_update(1, 5)) == []


def test_a_smaller_initial_window_applies_to_open_streams(answerer: Handmade) -> None:
    stream = answerer.accepted()
    stream.write(bytes(50_000))
    answerer.take()
    answerer.receive(initial_window(10_000))
    assert stream.room() == 0
    assert [frame.kind for frame in answerer.take()] == [frames.SETTINGS]
    assert answerer.receive(window_update(1, 40_000)) == [RoomGained(stream)]
    assert stream.room() == 0
    assert answerer.receive(initial_window(10_010)) == [RoomGained(stream)]
    assert stream.room() == 10
    stream.write(bytes(10))
    assert [frame.kind for frame in answerer.take()] == [frames.SETTINGS, frames.DATA]


def test_an_initial_window_that_overflows(answerer: Handmade) -> None:
    answerer.accepted()
    answerer.receive(window_update(1, 100_000))
    assert fails(answerer, initial_window(MAX_WINDOW)) is ErrorCode.FLOW_CONTROL_ERROR
    assert fails(Handmade.answerer(), initial_window(MAX_WINDOW + 1)) is ErrorCode.FLOW_CONTROL_ERROR


@pytest.mark.parametrize(
    "what", ["PING", "SETTINGS", "PRIORITY", "unknown", "PING answers", "GOAWAY", "WINDOW_UPDATE"]
)
def test_floods(answerer: Handmade, what: str) -> None:
    one: Frame | bytes = {
        "PING": PingFrame(0, b"flooding"),
        "PING answers": PingFrame(0, b"flooding", flags=["ACK"]),
        "SETTINGS": SettingsFrame(0, settings={SettingsFrame.MAX_FRAME_SIZE: 20_000}),
        "PRIORITY": PriorityFrame(1),
        "unknown": raw(0x77, 0, 0),
        "GOAWAY": goaway(1),
        "WINDOW_UPDATE": window_update(0, 1),
    }[what]
    piece = one if isinstance(one, bytes) else one.serialize()
    answerer.receive(piece * 1900)
    assert fails(answerer, piece * 1000) is ErrorCode.ENHANCE_YOUR_CALM


def test_large_settings_count_as_many(answerer: Handmade) -> None:
    # 16 KiB, none of them known: reading them takes us as long as thousands of PINGs.
    settings = b"".join(struct.pack(">HI", key, 1) for key in range(256, 2976))
    answerer.receive(raw(frames.SETTINGS, 0, 0, settings[:6000]))
    assert fails(answerer, raw(frames.SETTINGS, 0, 0, settings)) is ErrorCode.ENHANCE_YOUR_CALM


def test_goaway_counts_for_the_streams_that_are_looked_at(opener: Handmade) -> None:
    for _ in range(640):
        opener.opened()
    assert fails(opener, goaway(1 << 30).serialize() * 190) is ErrorCode.ENHANCE_YOUR_CALM


def test_floods_of_answers(opener: Handmade) -> None:
    opening = opener.connection.open_stream(opener.session, "target", 80)
    early = opener.headers(opening.stream_id, [(b":status", b"103")]).serialize()
    opener.receive(early * 1900)
    assert fails(opener, early * 1000) is ErrorCode.ENHANCE_YOUR_CALM
    peer = Handmade.opener()
    aborted = peer.connection.open_stream(peer.session, "target", 80)
    aborted.reset(ErrorCode.CANCEL)
    late = peer.headers(aborted.stream_id, [(b":status", b"200")]).serialize()
    peer.receive(late * 9000)
    assert fails(peer, late * 2000) is ErrorCode.ENHANCE_YOUR_CALM


def test_credit_in_small_pieces_is_a_flood_where_it_has_frames_cut_small(answerer: Handmade) -> None:
    """Data dribble: much is queued, and the peer grants a byte at a time."""
    answerer.receive(initial_window(0))
    stream = answerer.accepted()
    stream.write(bytes(64 * KIB))
    stream.flush()
    with pytest.raises(ConnectionFailed) as failure:  # noqa: PT012
        for _ in range(3000):
            answerer.receive(window_update(1, 1))
            answerer.take()
    assert failure.value.code == ErrorCode.ENHANCE_YOUR_CALM


def test_credit_for_what_was_sent_is_none(answerer: Handmade) -> None:
    stream = answerer.accepted()
    for _ in range(5000):  # as a stock peer returns credit for keystrokes, on the stream and the connection
        stream.write(b"k")
        stream.flush()
        answerer.take()
        answerer.receive(window_update(1, 1), window_update(0, 1))
    for _ in range(500):  # and in pieces of 4 KiB for bulk
        stream.write(bytes(32 * KIB))
        stream.flush()
        answerer.take()
        stream.outgoing.acknowledge(stream.outgoing.sent)
        answerer.receive(window_update(1, 4 * KIB) * 8, window_update(0, 32 * KIB))


def test_what_comes_in_time_is_no_flood(answerer: Handmade) -> None:
    for _ in range(100):
        answerer.now += 1
        answerer.receive(PingFrame(0, b"flooding").serialize() * 1000)
        answerer.take()


def test_reset_ends_the_stream_behind_its_data(answerer: Handmade) -> None:
    stream = answerer.accepted()
    events = answerer.receive(data(1, b"last"), reset(1, ErrorCode.CONNECT_ERROR))
    assert [type(event) for event in events] == [DataReceived, StreamReset]
    assert stream.end_cause is EndCause.PEER_RESET
    assert stream.reset_code == ErrorCode.CONNECT_ERROR
    assert not answerer.connection._h2.streams


def test_reset_of_an_idle_stream(answerer: Handmade) -> None:
    assert fails(answerer, reset(1)) is ErrorCode.PROTOCOL_ERROR
    assert fails(Handmade.answerer(), raw(frames.RST_STREAM, 0, 0, bytes(4))) is ErrorCode.PROTOCOL_ERROR


def test_reset_of_a_wrong_length_though_closed(answerer: Handmade) -> None:
    answerer.accepted()
    answerer.receive(reset(1))
    assert fails(answerer, raw(frames.RST_STREAM, 0, 1, bytes(5))) is ErrorCode.FRAME_SIZE_ERROR


def test_reset_of_a_closed_stream_is_ignored(answerer: Handmade) -> None:
    answerer.accepted()
    assert answerer.receive(reset(1), reset(1)) != []
    assert answerer.take() == []


def rapidly_reset(peer: Handmade, times: int, how: bytes | None = None) -> None:
    for stream_id in range(1, 2 * times, 2):
        peer.receive(peer.headers(stream_id, CONNECT))
        peer.receive(reset(stream_id) if how is None else raw(how[0], 0, stream_id, how[1:]))
        peer.take()


def test_rapid_reset(answerer: Handmade) -> None:
    with pytest.raises(ConnectionFailed) as failure:
        rapidly_reset(answerer, 11_000)
    assert failure.value.code == ErrorCode.ENHANCE_YOUR_CALM


def test_made_you_reset(answerer: Handmade) -> None:
    # A violation that costs a stream counts as if the peer had reset it.
    with pytest.raises(ConnectionFailed) as failure:
        rapidly_reset(answerer, 11_000, bytes([frames.WINDOW_UPDATE, 0, 0, 0, 0]))
    assert failure.value.code == ErrorCode.ENHANCE_YOUR_CALM


def test_headers_after_the_end_cost_the_stream(answerer: Handmade) -> None:
    stream = answerer.accepted()
    answerer.receive(data(1, end=True))
    assert answerer.receive(answerer.headers(1, [(b"x", b"y")], end=True)) == [StreamReset(stream)]
    assert resets(answerer, 1) is ErrorCode.STREAM_CLOSED
    assert stream.end_cause is EndCause.PROTOCOL
    assert not answerer.connection._h2.streams


def test_a_push_is_refused(opener: Handmade, answerer: Handmade) -> None:
    for peer in (opener, answerer):
        frame = PushPromiseFrame(1, 2, b"\x82", flags=["END_HEADERS"])
        assert fails(peer, frame) is ErrorCode.PROTOCOL_ERROR


def test_priority_and_the_unknown_are_ignored(answerer: Handmade) -> None:
    stream = answerer.accepted()
    unknown = ExtensionFrame(0x77, 1, body=b"whatever")
    assert answerer.receive(PriorityFrame(1, depends_on=0), PriorityFrame(99), unknown) == []
    assert answerer.take() == []
    assert stream.state is State.OPEN
    assert fails(answerer, raw(frames.PRIORITY, 0, 1, b"1234")) is ErrorCode.FRAME_SIZE_ERROR


def test_ping_is_answered(answerer: Handmade) -> None:
    answerer.receive(PingFrame(0, b"12345678"))
    assert answerer.take() == [Sent(frames.PING, frames.FLAG_ACK, 0, b"12345678")]


def test_goaway_lets_accepted_streams_go_on(opener: Handmade) -> None:
    old, new = opener.opened(), opener.opened()
    Face(new)
    assert opener.receive(goaway(old.stream_id)) == [StreamReset(new)]
    assert new.end_cause is EndCause.PEER_RESET
    assert opener.connection.draining
    opener.receive(data(old.stream_id, b"goes on"), data(old.stream_id, end=True))
    old.write(b"so do we")
    old.write_end()
    assert b"so do we" in [frame.payload for frame in opener.take()]
    assert old.incoming.end == 7


def test_goaway_with_an_error_ends_the_link(opener: Handmade) -> None:
    opener.opened()
    with pytest.raises(ConnectionFailed, match="gave the link up: too much"):
        opener.receive(goaway(1, ErrorCode.ENHANCE_YOUR_CALM, b"too much\xff"))
    assert frames.GOAWAY not in [frame.kind for frame in opener.take()]


@pytest.mark.parametrize("ended", [False, True])
def test_trailers_are_a_stream_error(answerer: Handmade, ended: bool) -> None:
    stream = answerer.accepted()
    if ended:
        stream.write_end()
        answerer.take()
    events = answerer.receive(answerer.headers(1, [(b"checksum", b"1")], end=True))
    assert events == [StreamReset(stream)]
    assert stream.end_cause is EndCause.PROTOCOL
    sent = [frame.code for frame in answerer.take() if frame.kind == frames.RST_STREAM]
    # Both directions had ended, as far as HTTP/2 is concerned: there is nothing left to reset.
    assert sent == ([] if ended else [ErrorCode.PROTOCOL_ERROR])
    answerer.receive(PingFrame(0, b"12345678"))
    assert not answerer.connection._h2.streams
