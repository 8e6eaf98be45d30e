"""Streams and their session, apart from what is on the wire."""

from __future__ import annotations

from contextlib import suppress

import pytest

from tests.tunnel_wire.handmade import Handmade, data, reset, split_frames
from tests.tunnel_wire.memory import Face, Pair, consume
from tunnel_wire import frames
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.connection import ConnectionFailed
from tunnel_wire.flow import Budget
from tunnel_wire.frames import ErrorCode
from tunnel_wire.hello import DrainReason
from tunnel_wire.limits import WireLimits
from tunnel_wire.session import Session
from tunnel_wire.stream_state import EndCause, State

KIB = 1024
FLOOR = 128 * KIB


def test_memory_is_reserved_before_a_stream_is() -> None:
    session = Session(budget=Budget(2 * FLOOR))
    one, _ = session.new_stream("a", 1), session.new_stream("b", 2)
    with pytest.raises(OpenFailed, match="memory") as failure:
        session.new_stream("c", 3)
    assert failure.value.cause is Cause.NO_ROOM
    one.close(EndCause.LOCAL_RESET)
    session.new_stream("c", 3)
    assert session.budget.used == 2 * FLOOR


def test_streams_are_bounded() -> None:
    session = Session(budget=Budget(1 << 30), limits=WireLimits(max_streams=1))
    session.new_stream("a", 1)
    with pytest.raises(OpenFailed, match="1 streams are open"):
        session.new_stream("b", 2)


def test_keys_are_never_used_twice() -> None:
    session = Session(budget=Budget(1 << 30), first_key=7)
    keys = []
    for _ in range(3):
        stream = session.new_stream("a", 1)
        keys.append(stream.key)
        stream.close(EndCause.LOCAL_RESET)
    assert keys == [7, 8, 9]


def test_half_close_lets_the_other_direction_go_on() -> None:
    pair = Pair()
    pair.settle()
    near, far = pair.stream()
    near.write(b"question")
    near.write_end()
    near.write_end()
    assert near.room() == 0
    pair.settle()
    assert (far.incoming.end, consume(far, 100, pair.now)) == (8, b"question")
    far.write(b"answer")
    pair.settle()
    assert consume(near, 100, pair.now) == b"answer"
    far.write_end()
    pair.settle()
    pair.pass_time(0.07)
    pair.settle()
    assert near.end_cause is far.end_cause is EndCause.FINISHED
    assert pair.near.session.budget.used == pair.far.session.budget.used == 0


def test_reading_what_is_left_of_a_stream_takes_no_memory_back(answerer: Handmade) -> None:
    # Its window would have grown now; but what the stream had reserved was given back.
    stream = answerer.accepted()
    budget = answerer.session.budget
    answerer.connection.probe(answerer.now)
    (ping,) = answerer.take()
    answerer.now += 0.5
    answerer.receive(frames.ping(ping.payload, ack=True))
    Face(stream)
    answerer.receive(data(1, bytes(10 * KIB)))
    stream.consume(10 * KIB, answerer.now)
    answerer.receive(data(1, bytes(60 * KIB)), reset(1))
    assert budget.used == 0
    stream.consume(60 * KIB, answerer.now)
    assert budget.used == 0
    assert stream.incoming.queued == 0


def test_closing_with_unread_data_is_a_reset(answerer: Handmade) -> None:
    stream = answerer.accepted()
    answerer.receive(data(1, b"unread"))
    stream.abandon(answerer.now)
    assert [frame.code for frame in answerer.take()] == [ErrorCode.CANCEL]
    assert stream.end_cause is EndCause.LOCAL_RESET
    stream.abandon(answerer.now)


def test_closing_ends_our_direction_and_takes_no_more(answerer: Handmade) -> None:
    stream = answerer.accepted()
    stream.write(b"last words")
    stream.abandon(answerer.now)
    first, end = answerer.take()
    assert first.payload == b"last words"
    assert end.flags & frames.FLAG_END_STREAM
    # Data that comes now has no reader.
    assert answerer.receive(data(1, b"more")) == []
    assert [frame.code for frame in answerer.take()] == [ErrorCode.CANCEL]


def test_who_has_closed_is_told_nothing_more(answerer: Handmade) -> None:
    stream = answerer.accepted()
    face = stream.face
    assert isinstance(face, Face)
    stream.abandon(answerer.now)
    assert stream.face is None


@pytest.mark.parametrize("received", ["nothing", "the data", "the end"])
def test_a_caller_hears_no_clean_end_before_the_target_has_everything(received: str) -> None:
    pair = Pair()
    pair.settle()
    near, far = pair.stream()
    far.write(b"an answer")
    far.write_end()
    pair.settle()
    near.write(b"the last of an upload")
    if received == "the data":
        pair.settle()
        pair.now += 1
        pair.settle()
        assert near.outgoing.acknowledged == near.outgoing.written
    near.write_end()
    if received == "the end":
        pair.settle()
        pair.now += 1
        pair.settle()
    pair.flush(pair.near)
    lost = pair.near.session.lose_link(pair.opener, pair.now)
    assert lost == ([] if received == "the end" else [near])
    consume(near, 9, pair.now)
    assert near.end_cause is (EndCause.FINISHED if received == "the end" else EndCause.LINK_LOST)


def test_closing_when_the_peer_has_ended_is_clean(answerer: Handmade) -> None:
    stream = answerer.accepted()
    answerer.receive(data(1, end=True))
    stream.abandon(answerer.now)
    answerer.take()
    (ping,) = answerer.take_or_ask()
    answerer.receive(frames.ping(ping.payload, ack=True))
    assert stream.end_cause is EndCause.FINISHED


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_a_reset_after_both_ends_says_nothing(answerer: Handmade, first: str) -> None:
    # HTTP/2's stream is closed: a frame on it would cost the link.
    stream = answerer.accepted()
    if first == "theirs":
        answerer.receive(data(1, end=True))
    stream.write_end()
    answerer.take()
    if first == "ours":
        answerer.receive(data(1, end=True))
    assert stream.state is State.OPEN
    assert not answerer.connection._streams
    stream.reset(ErrorCode.CANCEL)
    assert answerer.take() == []


def test_a_reset_takes_effect_once(answerer: Handmade) -> None:
    stream = answerer.accepted()
    stream.reset(ErrorCode.CONNECT_ERROR)
    stream.reset(ErrorCode.CANCEL)
    stream.reset_behind_data(ErrorCode.CANCEL, answerer.now)
    assert [frame.code for frame in answerer.take()] == [ErrorCode.CONNECT_ERROR]
    assert stream.reset_code == ErrorCode.CONNECT_ERROR


def test_a_reset_behind_nothing_is_at_once(answerer: Handmade) -> None:
    stream = answerer.accepted()
    stream.reset_behind_data(ErrorCode.CONNECT_ERROR, answerer.now)
    assert stream.state is State.CLOSED


def test_no_end_follows_a_reset_that_waits(answerer: Handmade) -> None:
    stream = answerer.accepted()
    stream.write(b"data")
    stream.reset_behind_data(ErrorCode.CONNECT_ERROR, answerer.now)
    stream.write_end()
    kinds = [(frame.kind, frame.flags) for frame in answerer.take()]
    assert kinds == [(frames.DATA, 0), (frames.RST_STREAM, 0)]


def test_a_lost_link_takes_its_streams_and_no_others() -> None:
    pair, survivor = Pair(), Pair()
    pair.settle()
    survivor.settle()
    near, _ = pair.stream()
    kept = survivor.opener.open_stream(pair.near.session, "elsewhere", 80)
    near.write(b"sent")
    pair.flush(pair.near)
    near.write(b"queued")
    assert pair.near.session.lose_link(pair.opener, pair.now) == [near]
    assert (near.state, near.end_cause) == (State.CLOSED, EndCause.LINK_LOST)
    assert kept.state is State.OPENING
    assert pair.near.session.budget.used == FLOOR
    # Its users may not have noticed yet.
    near.write_end()
    near.consume(0, pair.now)
    near.flush()
    near.abandon(pair.now)
    near.reset(ErrorCode.CANCEL)
    pair.opener.drain(DrainReason.SHUTDOWN)
    pair.flush(pair.near)


def _boundaries(wire: bytes) -> tuple[set[int], int]:
    """Where frames end, and where END_STREAM does."""
    ends, at, ended = {0}, 0, 0
    for frame in split_frames(wire):
        at += frames.HEADER_SIZE + len(frame.payload)
        ends.add(at)
        if frame.kind == frames.DATA and frame.flags & frames.FLAG_END_STREAM:
            ended = at
    return ends, ended


@pytest.mark.parametrize("wrong", [b"", frames.frame_header(0, frames.DATA, 0, 0)])
def test_a_cut_at_any_byte_is_never_an_end(wrong: bytes) -> None:
    said = [b"first ", b"second ", b"third"]
    cut = 0
    while True:
        pair = Pair()
        pair.settle()
        near, far = pair.stream()
        face = far.face
        assert isinstance(face, Face)
        for piece in said:
            near.write(piece)
            pair.flush(pair.near)
        near.write_end()
        pair.flush(pair.near)
        if cut > len(pair.near.wire):
            break
        boundaries, ended = _boundaries(bytes(pair.near.wire))
        whole, boundary = cut >= ended, cut in boundaries
        pair.near.wire[cut:] = wrong if boundary else b""
        with suppress(ConnectionFailed):
            pair.deliver(pair.near)
        if wrong and boundary:
            with pytest.raises(ConnectionFailed):
                pair.answerer.tick(pair.now)
        for stream in pair.far.session.lose_link(pair.answerer, pair.now):
            assert stream.face is not None
            stream.face.on_reset()
        assert ("end" in face.told) == whole
        assert face.told[-1] == "reset"
        assert b"".join(said).startswith(face.arrived)
        assert not whole or face.arrived == b"".join(said)
        cut += 1


def test_flush_tells_the_link(answerer: Handmade) -> None:
    stream = answerer.accepted()
    calls: list[str] = []
    answerer.connection.output_ready = lambda: calls.append("pump")
    stream.flush()
    assert calls == ["pump"]
    stream.reset(ErrorCode.CANCEL)
    stream.flush()
    assert calls == ["pump", "pump"]
