"""How a connection fails and closes, and what it answers in all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.tunnel_wire.handmade import (
    Handmade,
    data,
    fails,
    goaway,
    raw,
)
from tests.tunnel_wire.memory import Face
from tunnel_wire import frames
from tunnel_wire.causes import OpenFailed
from tunnel_wire.connection import ConnectionFailed
from tunnel_wire.events import (
    DataReceived,
    EndReceived,
)
from tunnel_wire.frames import ErrorCode
from tunnel_wire.hello import DrainReason
from tunnel_wire.limits import WireLimits
from tunnel_wire.opener import OpenerConnection
from tunnel_wire.stream_state import EndCause, State

if TYPE_CHECKING:
    from tunnel_wire.session import Stream


def test_a_flood_of_padding_that_nobody_reads_about(answerer: Handmade) -> None:
    answerer.accepted()
    one = raw(frames.DATA, frames.FLAG_PADDED, 1, b"\0")
    with pytest.raises(ConnectionFailed) as failure:  # noqa: PT012
        for _ in range(100):
            answerer.receive(one * 1000)
    assert failure.value.code == ErrorCode.ENHANCE_YOUR_CALM


def test_answers_that_are_not_read_are_bounded() -> None:
    answerer = Handmade.answerer(WireLimits(max_queued_control=20_000))
    missing = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"x"), (b":path", b"/none")]
    with pytest.raises(ConnectionFailed) as failure:  # noqa: PT012
        for stream_id in range(1, 200_001, 2):
            answerer.receive(answerer.headers(stream_id, missing, end=True))
    assert failure.value.code == ErrorCode.ENHANCE_YOUR_CALM
    assert sum(len(frame.payload) + 9 for frame in answerer.take()) < 20_100


def test_a_failure_comes_after_the_events_before_it(answerer: Handmade) -> None:
    # Swallowed, an end whose data is lost with it would look like a complete one.
    stream = answerer.accepted()
    events = answerer.receive(data(1, b"all"), data(1, end=True), data(0, b"wrong"))
    assert [type(event) for event in events] == [DataReceived, EndReceived]
    assert answerer.connection.deadline() <= answerer.now
    assert answerer.take()[-1].kind == frames.GOAWAY
    with pytest.raises(ConnectionFailed, match="idle stream 0"):
        answerer.connection.tick(answerer.now)
    with pytest.raises(ConnectionFailed, match="idle stream 0"):
        answerer.receive(data(1, b"more"))
    assert stream.incoming.received == 3


def test_a_header_block_that_cannot_be_decoded(answerer: Handmade) -> None:
    beyond_both_tables = raw(frames.HEADERS, frames.FLAG_END_HEADERS, 1, b"\xff\x80\x01")
    assert fails(answerer, beyond_both_tables) == ErrorCode.COMPRESSION_ERROR


def test_a_frame_on_a_closed_stream_is_told_in_words(opener: Handmade) -> None:
    # Only h2 minds it: an answer, on a stream that was answered with an end.
    opener.opened()
    late = opener.headers(1, [(b":status", b"200")], end=True)
    with pytest.raises(ConnectionFailed, match="a frame on stream 1, which is not open"):
        opener.receive(late)


@pytest.mark.parametrize("how", ["failed", "closed"])
def test_users_may_do_anything_after_the_end(opener: Handmade, how: str) -> None:
    one, other = opener.opened(), opener.opened()
    one.write(b"unsent")
    if how == "failed":
        fails(opener, data(0))
    else:
        opener.connection.close()
        assert [frame.kind for frame in opener.take()] == [frames.GOAWAY]
    with pytest.raises(OpenFailed, match="link"):
        opener.connection.open_stream(opener.session, "target", 80)
    one.write(b"more")
    one.write_end()
    one.abandon(opener.now)
    other.reset(ErrorCode.CANCEL)
    opener.connection.drain(DrainReason.SHUTDOWN)
    opener.connection.close()
    opener.connection.send_response(one.stream_id, [(b":status", b"200")], ended=True)
    assert opener.take() == []
    assert opener.session.lose_link(opener.connection, opener.now) == [one]
    assert opener.session.budget.used == 0


def resumable() -> tuple[Handmade, Stream]:
    opener = Handmade.opener()
    opener.connection.resumes = True
    opener.session.suspended.grace = 90
    assert isinstance(opener.connection, OpenerConnection)
    stream = opener.connection.open_stream(opener.session, "target", 80)
    Face(stream)
    return opener, stream


def test_streams_of_a_link_that_ended_by_an_error_end_with_it() -> None:
    opener, stream = resumable()
    fails(opener, raw(frames.PING, 0, 1, bytes(8)))
    assert opener.session.lose_link(opener.connection, opener.now) == [stream]
    assert stream.end_cause is EndCause.LINK_LOST


def test_what_a_closing_agent_has_not_seen_waits_for_its_next_link() -> None:
    opener, stream = resumable()
    opener.receive(goaway(0))
    assert stream.state is State.OPENING
    assert opener.session.lose_link(opener.connection, opener.now) == []
    assert list(opener.session.suspended) == [stream]


def test_a_link_that_ends_for_good_suspends_nothing() -> None:
    opener, stream = resumable()
    assert opener.session.lose_link(opener.connection, opener.now, for_good=True) == [stream]


def test_an_idle_connection_has_no_dictionary_of_its_own(opener: Handmade, answerer: Handmade) -> None:
    """A server holds one for each of 10,000 agents: instances share the keys of 30 attributes at most.
    Compiled, they have no keys.
    """
    for connection in (opener.connection, answerer.connection):
        assert len(getattr(connection, "__dict__", ())) <= 30
