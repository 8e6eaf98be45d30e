"""PING and time: silence, receipt, round trips, deadlines."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hyperframe.frame import PingFrame

from tests.tunnel_wire.handmade import Handmade
from tests.tunnel_wire.memory import Pair, consume
from tunnel_wire import frames
from tunnel_wire.connection import ConnectionFailed
from tunnel_wire.events import RoomGained
from tunnel_wire.flow import Budget
from tunnel_wire.frames import ErrorCode
from tunnel_wire.life import Life
from tunnel_wire.limits import DEFAULT_LIMITS
from tunnel_wire.session import Session, Stream
from tunnel_wire.stream_state import EndCause, State


def streams(number: int) -> list[Stream]:
    session = Session(budget=Budget(1 << 30))
    return [session.new_stream("target", 80) for _ in range(number)]


def test_silence_ends_the_link(answerer: Handmade) -> None:
    connection = answerer.connection
    assert connection.deadline() == 1004
    connection.tick(1004)
    assert [frame.kind for frame in answerer.take()] == [frames.PING]
    assert connection.deadline() == 1012
    connection.tick(1011.9)
    with pytest.raises(ConnectionFailed, match="nothing received for 12 s"):
        connection.tick(1012)


def test_any_byte_is_a_sign_of_life(answerer: Handmade) -> None:
    answerer.connection.tick(1004)
    (ping,) = answerer.take()
    # A byte of a frame that is slow to come.
    answerer.now = 1011
    answerer.receive(PingFrame(0, ping.payload, flags=["ACK"]).serialize()[:1])
    answerer.connection.tick(1020)
    assert answerer.connection.deadline() == 1023


def test_probe_asks_once(answerer: Handmade) -> None:
    answerer.connection.probe(answerer.now)
    answerer.connection.probe(answerer.now)
    (ping,) = answerer.take()
    answerer.now += 0.25
    answerer.receive(PingFrame(0, ping.payload, flags=["ACK"]))
    assert answerer.connection.round_trip == 0.25
    answerer.receive(PingFrame(0, ping.payload, flags=["ACK"]), PingFrame(0, b"not ours", flags=["ACK"]))
    assert answerer.connection.round_trip == 0.25


def test_a_receiver_learns_its_round_trip() -> None:
    # It has nothing to ask receipt for; but without a round trip its window would never grow.
    pair = Pair()
    pair.settle()
    near, far = pair.stream()
    for _ in range(40):
        far.write(bytes(far.room()))
        pair.flush(pair.far)
        pair.now += 0.05
        pair.deliver(pair.far)
        consume(near, 1 << 20, pair.now)
        pair.flush(pair.near)
        pair.now += 0.05
        pair.deliver(pair.near)
    assert pair.opener.round_trip == pytest.approx(0.1)
    # At most 1 MiB is queued at once: four round trips' worth of what can come.
    assert near.incoming.window == 4 << 20


def test_receipt_lets_go_of_what_was_sent_before_the_ping(answerer: Handmade) -> None:
    stream, connection = answerer.accepted(), answerer.connection
    assert not answerer.take_or_ask()
    stream.write(b"before")
    answerer.take()
    (ping,) = answerer.take_or_ask()
    behind = b"behind" * 6000
    stream.write(behind)
    answerer.take()
    # One question at a time.
    assert not connection.take_or_ask(1 << 20, lambda: answerer.now + 1)
    # Who waits for room is told.
    assert answerer.receive(PingFrame(0, ping.payload, flags=["ACK"])) == [RoomGained(stream)]
    assert stream.outgoing.acknowledged == 6
    # At most one each 5 ms.
    assert not answerer.take_or_ask()
    answerer.now += 0.005
    (ping,) = answerer.take_or_ask()
    answerer.receive(PingFrame(0, ping.payload, flags=["ACK"]))
    assert stream.outgoing.acknowledged == 6 + len(behind)


def test_a_sign_of_life_does_not_make_a_writer_wait_longer() -> None:
    life, floor, now = Life(DEFAULT_LIMITS, 0.0, lambda frame: None), DEFAULT_LIMITS.kept_floor, 1.0
    stream = Session(budget=Budget(1 << 30)).new_stream("a", 1)
    stream.write(bytes(floor))
    life.note_sent(stream, floor)
    assert life.ask_for_receipt(now)
    life.answered((1).to_bytes(8, "big"), now)
    assert life.hurried
    life.probe(now)
    life.answered((2).to_bytes(8, "big"), now)
    assert life.hurried


def test_receipt_for_a_few_bytes_can_wait(answerer: Handmade) -> None:
    """Each question wakes both ends: a call of a few bytes now and then would pay for it each time."""
    stream, connection = answerer.accepted(), answerer.connection
    for _ in range(3):
        stream.write(b"a little")
        answerer.take()
        for ping in answerer.take_or_ask():
            answerer.receive(PingFrame(0, ping.payload, flags=["ACK"]))
    # Nothing follows that asks by the way.
    assert connection.deadline() == pytest.approx(answerer.now + 0.05 + 0.01)
    answerer.now += 0.06
    connection.tick(answerer.now)
    (ping,) = answerer.take()
    answerer.receive(PingFrame(0, ping.payload, flags=["ACK"]))
    assert stream.outgoing.acknowledged == 24


def test_receipt_for_much_is_asked_sooner_however_it_came_together(answerer: Handmade) -> None:
    stream, connection = answerer.accepted(), answerer.connection
    connection.probe(answerer.now)
    (ping,) = answerer.take()
    answerer.receive(PingFrame(0, ping.payload, flags=["ACK"]))
    stream.write(b"a little")
    answerer.take()
    assert connection.deadline() == pytest.approx(answerer.now + 0.05 + 0.01)
    stream.write(bytes(32 * 1024))
    answerer.take()
    assert connection.deadline() == pytest.approx(answerer.now + 0.005 + 0.01)


def test_receipt_is_due_again_after_all_that_had_sent_are_gone() -> None:
    life = Life(DEFAULT_LIMITS, 0, lambda frame: None)
    one, other = streams(2)
    life.note_sent(one, 10)
    life.forget(one)
    life.keep(1)
    assert (life.receipt_due, life.due) == (math.inf, 4)
    life.note_sent(other, 10)
    assert life.due < 1


def test_a_writer_that_waits_for_receipt_has_it_asked_in_time() -> None:
    """Nothing follows that would ask by the way: it is the writer that waits."""
    floor = DEFAULT_LIMITS.kept_floor
    answerer = Handmade.answerer(replace(DEFAULT_LIMITS, max_kept=floor))
    stream, connection = answerer.accepted(), answerer.connection
    answerer.receive(frames.window_update(0, 10 * floor), frames.window_update(1, 10 * floor))
    for _ in range(2):
        stream.write(bytes(stream.room()))
        assert stream.room() == 0
        answerer.take()
        connection.tick(answerer.now)
        (ping,) = answerer.take()
        answerer.receive(PingFrame(0, ping.payload, flags=["ACK"]))
        stream.write(bytes(stream.room()))
        answerer.take()
        assert connection.deadline() == answerer.now + 0.005
        answerer.now += 1
        connection.tick(answerer.now)
        (ping,) = answerer.take()
        answerer.now += 1
        answerer.receive(PingFrame(0, ping.payload, flags=["ACK"]))


def test_credit_is_no_receipt(answerer: Handmade) -> None:
    stream = answerer.accepted()
    stream.write(b"sent")
    answerer.take()
    answerer.receive(frames.window_update(1, 4))
    assert stream.outgoing.acknowledged == 0


def test_an_end_is_over_with_its_receipt(answerer: Handmade) -> None:
    stream = answerer.accepted()
    answerer.receive(frames.frame_header(0, frames.DATA, frames.FLAG_END_STREAM, 1))
    stream.write_end()
    answerer.take()
    assert stream.state is State.OPEN
    assert not answerer.connection._streams
    (ping,) = answerer.take_or_ask()
    answerer.receive(PingFrame(0, ping.payload, flags=["ACK"]))
    assert stream.end_cause is EndCause.FINISHED
    assert answerer.session.budget.used == 0


def test_deadlines() -> None:
    life = Life(DEFAULT_LIMITS, 0, lambda frame: None)
    one, other, third = streams(3)
    life.set_deadline(one, 3)
    life.set_deadline(other, 1)
    life.set_deadline(third, 2)
    assert life.due == 1
    assert life.expired(0.9) == []
    life.forget(third)
    assert life.expired(1) == [other]
    life.keep(1)
    assert life.due == 3
    assert life.expired(3) == [one]
    life.keep(3)
    assert life.due == 4


def test_a_reset_waits_for_the_data_before_it_but_not_for_ever(answerer: Handmade) -> None:
    stream = answerer.accepted()
    stream.write(bytes(65_535))
    answerer.take()
    answerer.receive(frames.window_update(1, 100))
    stream.write(bytes(100))
    # The connection's window is used up: this waits for credit.
    assert not answerer.take()
    stream.reset_behind_data(ErrorCode.CONNECT_ERROR, answerer.now)
    assert (stream.state, stream.room()) == (State.OPEN, 0)
    # Closing it meanwhile changes nothing.
    stream.abandon(answerer.now)
    answerer.connection.tick(1000.9)
    assert [frame.kind for frame in answerer.take()] == [frames.PING]
    assert answerer.connection.deadline() == 1001
    answerer.connection.tick(1001)
    (reset,) = answerer.take()
    assert (reset.kind, reset.code) == (frames.RST_STREAM, ErrorCode.CONNECT_ERROR)


def test_who_has_closed_waits_a_minute_for_the_peers_end(answerer: Handmade) -> None:
    stream = answerer.accepted()
    stream.abandon(answerer.now)
    answerer.take()
    for second in range(1, 60):
        answerer.now = 1000 + second
        answerer.receive(PingFrame(0, b"alive..."))
        answerer.connection.tick(answerer.now)
    assert stream.state is State.OPEN
    answerer.connection.tick(1060)
    assert stream.end_cause is EndCause.LOCAL_RESET
    assert [frame.code for frame in answerer.take() if frame.kind == frames.RST_STREAM] == [ErrorCode.CANCEL]
