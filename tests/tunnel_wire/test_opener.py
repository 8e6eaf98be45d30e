"""The server's end of a link: hello, CONNECT, refusals, drain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hpack import Decoder
from hyperframe.frame import ContinuationFrame, HeadersFrame, SettingsFrame

from tests.tunnel_wire.handmade import Handmade, data, fails, reset, resets, split_frames
from tests.tunnel_wire.memory import Face, Pair
from tunnel_wire import frames
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.events import Answered, DataReceived, DrainReceived, EndReceived, HelloReceived, StreamReset
from tunnel_wire.frames import ErrorCode
from tunnel_wire.hello import DrainReason, Hello, new_id
from tunnel_wire.limits import WireLimits
from tunnel_wire.opener import OpenerConnection
from tunnel_wire.stream_state import EndCause, State

if TYPE_CHECKING:
    from tunnel_wire.session import Stream


def connect(peer: Handmade) -> Stream:
    assert isinstance(peer.connection, OpenerConnection)
    return peer.connection.open_stream(peer.session, "target", 80)


# --- hello ----------------------------------------------------------------------------------------


def test_hello_introduces_both_ends() -> None:
    pair = Pair()
    pair.settle()
    (said,) = pair.near.noted
    assert isinstance(said, HelloReceived)
    assert said.hello == Hello("1", session=pair.far.session.identifier, node="edge-1")
    (heard,) = pair.far.noted
    assert isinstance(heard, HelloReceived)
    assert heard.hello is not None
    assert len(heard.hello.instance) == 32
    assert not pair.opener._h2.streams
    assert not pair.answerer._h2.streams


def test_a_stock_peer_that_knows_no_hello_is_usable() -> None:
    peer = Handmade.opener(hello=False)
    body = b"404 not found"
    said = [(b":status", b"404"), (b"content-length", b"13"), (b"server", b"nghttpd")]
    events = peer.receive(peer.headers(1, said), data(1, body[:4]), data(1, body[4:], end=True))
    assert events == [HelloReceived(None)]
    # We want no body; h2 holds none of it against the content-length that it never sees.
    assert resets(peer, 1) is ErrorCode.CANCEL
    assert peer.opened().state is State.OPEN


@pytest.mark.parametrize("field", [(b"tunnel-session", b"short"), (b"tunnel-link", b"x")])
def test_a_malformed_hello_ends_the_link(field: tuple[bytes, bytes]) -> None:
    peer = Handmade.opener(hello=False)
    said = [(b":status", b"200"), field]
    assert fails(peer, peer.headers(1, said, end=True)) is ErrorCode.PROTOCOL_ERROR


def test_a_hello_of_a_later_version() -> None:
    peer = Handmade.opener(hello=False)
    hello = Hello("9.9", session=new_id(), node="edge-1", capabilities=frozenset({"teleport"}))
    said = [(b":status", b"200"), *hello.to_headers(), (b"tunnel-colour", b"\xff"), (b"x-other", b"1")]
    assert peer.receive(peer.headers(1, said, end=True)) == [HelloReceived(hello)]


# --- CONNECT --------------------------------------------------------------------------------------


def test_connect_says_what_the_specification_says() -> None:
    pair = Pair()
    pair.flush(pair.near)
    stream = pair.opener.open_stream(pair.near.session, "fd00::1", 443)
    pair.flush(pair.near)
    sent = split_frames(bytes(pair.near.wire).removeprefix(frames.PREFACE))
    hpack = Decoder()
    said = [hpack.decode(each.payload, raw=True) for each in sent if each.kind == frames.HEADERS]
    assert said[-1] == [
        (b":method", b"CONNECT"),
        (b":authority", b"[fd00::1]:443"),
        (b"tunnel-epoch", b"1"),
        (b"tunnel-state", b"opening"),
        (b"tunnel-received", b"0"),
        (b"tunnel-limit", b"65536"),
        (b"tunnel-key", b"%016x" % stream.key),
    ]


@pytest.mark.parametrize("status", [b"200", b"204"])
def test_success(opener: Handmade, status: bytes) -> None:
    stream = connect(opener)
    assert stream.room() == 0
    assert opener.receive(opener.headers(stream.stream_id, [(b":status", status)])) == [Answered(stream)]
    assert stream.state is State.OPEN
    assert stream.room() > 0


def test_informational_answers_are_passed_over(opener: Handmade) -> None:
    stream = connect(opener)
    for status in (b"100", b"103"):
        assert opener.receive(opener.headers(stream.stream_id, [(b":status", status)])) == []
    assert stream.state is State.OPENING
    assert opener.receive(opener.headers(stream.stream_id, [(b":status", b"200")])) == [Answered(stream)]


def test_success_and_end_at_once(opener: Handmade) -> None:
    stream = connect(opener)
    said = opener.headers(stream.stream_id, [(b":status", b"200")], end=True)
    assert opener.receive(said) == [Answered(stream), EndReceived(stream)]
    assert stream.incoming.end == 0
    assert stream.room() > 0


@pytest.mark.parametrize(
    ("fields", "cause", "detail"),
    [
        ([(b":status", b"504"), (b"tunnel-cause", b"timed-out")], Cause.TIMED_OUT, ""),
        (
            [(b":status", b"502"), (b"tunnel-cause", b"refused"), (b"tunnel-detail", b"caf\xc3\xa9")],
            Cause.REFUSED,
            "caf??",
        ),
        ([(b":status", b"403"), (b"tunnel-cause", b"new-in-2")], Cause.NOT_ALLOWED, ""),
        ([(b":status", b"405")], Cause.FAILED, ""),
        ([(b":status", b"302"), (b"location", b"/")], Cause.FAILED, ""),
    ],
)
def test_refusals(opener: Handmade, fields: list[tuple[bytes, bytes]], cause: Cause, detail: str) -> None:
    stream = connect(opener)
    opener.take()
    assert opener.receive(opener.headers(stream.stream_id, fields, end=True)) == [Answered(stream)]
    assert stream.refusal is not None
    assert (stream.refusal.cause, stream.refusal.detail) == (cause, detail)
    assert (stream.state, stream.end_cause) == (State.CLOSED, EndCause.REFUSED)
    # Our direction ends properly too: no reset, which would count against a limit of the peer's.
    assert [(frame.kind, frame.flags) for frame in opener.take()] == [(frames.DATA, frames.FLAG_END_STREAM)]
    assert not opener.connection._h2.streams
    assert opener.session.budget.used == 0


def test_a_refusal_with_a_body(opener: Handmade) -> None:
    stream = connect(opener)
    fields = [(b":status", b"405"), (b"content-length", b"4000")]
    events = opener.receive(
        opener.headers(stream.stream_id, fields), data(stream.stream_id, bytes(4000), end=True)
    )
    assert events == [Answered(stream)]
    assert resets(opener, stream.stream_id) is ErrorCode.CANCEL
    assert not opener.connection._h2.streams


@pytest.mark.parametrize("status", [b"abc", b"2_0", b"", b"20", b"2000", b"\xb2\xb2\xb2"])
def test_a_status_that_is_none(opener: Handmade, status: bytes) -> None:
    stream = connect(opener)
    assert opener.receive(opener.headers(stream.stream_id, [(b":status", status)])) == [StreamReset(stream)]
    assert resets(opener, stream.stream_id) is ErrorCode.PROTOCOL_ERROR


def test_answering_twice_ends_the_link(opener: Handmade) -> None:
    stream = opener.opened()
    again = opener.headers(stream.stream_id, [(b":status", b"200")])
    assert fails(opener, again) is ErrorCode.PROTOCOL_ERROR


def test_an_answer_to_nothing_ends_the_link(opener: Handmade) -> None:
    assert fails(opener, opener.headers(99, [(b":status", b"200")])) is ErrorCode.PROTOCOL_ERROR


def test_a_request_from_the_agent_ends_the_link(opener: Handmade) -> None:
    request = [(b":method", b"CONNECT"), (b":authority", b"inside:22")]
    assert fails(opener, opener.headers(2, request)) is ErrorCode.PROTOCOL_ERROR


def test_an_answer_in_pieces(opener: Handmade) -> None:
    stream = connect(opener)
    block = opener.encoder.encode([(b":status", b"200"), (b"x", b"y" * 100)])
    begun = HeadersFrame(stream.stream_id, data=block[:20])
    rest = ContinuationFrame(stream.stream_id, data=block[20:], flags=["END_HEADERS"])
    assert opener.receive(begun) == []
    assert opener.receive(rest, data(stream.stream_id, b"hi"))[0] == Answered(stream)


def test_data_follows_the_answer_at_once(opener: Handmade) -> None:
    stream = connect(opener)
    Face(stream)
    events = opener.receive(
        opener.headers(stream.stream_id, [(b":status", b"200")]), data(stream.stream_id, b"SSH-2.0")
    )
    assert [type(event) for event in events] == [Answered, DataReceived]


def test_giving_up_is_a_reset(opener: Handmade) -> None:
    stream = connect(opener)
    stream.reset(ErrorCode.CANCEL)
    assert [(frame.kind, frame.stream_id) for frame in opener.take()] == [
        (frames.HEADERS, stream.stream_id),
        (frames.RST_STREAM, stream.stream_id),
    ]


def test_the_agent_resets_an_opening_stream(opener: Handmade) -> None:
    stream = connect(opener)
    assert opener.receive(reset(stream.stream_id, ErrorCode.REFUSED_STREAM)) == [StreamReset(stream)]
    assert stream.refusal is None


@pytest.mark.parametrize("host", ["two words", "b\u00fccher.example", "a\r\nb", ""])
def test_what_cannot_be_named_never_reaches_the_agent(opener: Handmade, host: str) -> None:
    # A stock peer ends the connection for it, with every stream.
    with pytest.raises(OpenFailed) as failure:
        opener.connection.open_stream(opener.session, host, 80)  # type: ignore[attr-defined]
    assert failure.value.cause is Cause.UNRESOLVABLE
    assert not opener.take()
    assert not opener.session.streams


# --- limits ---------------------------------------------------------------------------------------


def test_the_peers_limit_of_streams_is_kept_with_a_place_for_drain(opener: Handmade) -> None:
    opener.receive(SettingsFrame(0, settings={SettingsFrame.MAX_CONCURRENT_STREAMS: 3}))
    streams = [opener.opened(), opener.opened()]
    with pytest.raises(OpenFailed) as failure:
        connect(opener)
    assert failure.value.cause is Cause.NO_ROOM
    assert opener.session.streams.keys() == {stream.key for stream in streams}
    streams[0].reset(ErrorCode.CANCEL)
    opener.opened()
    opener.take()
    assert isinstance(opener.connection, OpenerConnection)
    opener.connection.drain(DrainReason.SHUTDOWN)
    assert [frame.kind for frame in opener.take()] == [frames.HEADERS]
    opener.connection.drain(DrainReason.SHUTDOWN)
    assert opener.take() == []


@pytest.mark.parametrize("who", ["the caller", "the target"])
def test_resets_by_callers_or_targets_never_cost_the_link(who: str) -> None:
    """Only calls beyond what both ends bear: whoever resets is not the agent, nor is the server."""
    limits = WireLimits(max_streams=100, reset_burst=200, reset_rate=10)
    pair = Pair(limits)
    idle = [pair.stream() for _ in range(50)]
    refused: list[OpenFailed] = []
    for _ in range(300):
        try:
            near = pair.open()
        except OpenFailed as exc:
            refused.append(exc)
            continue
        pair.settle()
        far = pair.requests.pop()
        pair.answerer.accept(far)
        pair.settle()
        (near if who == "the caller" else far).reset(ErrorCode.CONNECT_ERROR)
        pair.settle()
    assert 100 <= len(refused) <= 200
    assert {exc.cause for exc in refused} == {Cause.NO_ROOM}
    assert "reset faster than it bears" in refused[0].detail
    for near, far in idle:
        assert near.state is far.state is State.OPEN
        near.reset(ErrorCode.CANCEL)
    pair.settle()
    pair.pass_time(11)
    pair.settle()
    pair.stream()


def test_our_own_limit_of_streams() -> None:
    peer = Handmade.opener(WireLimits(max_streams=2))
    peer.opened()
    peer.opened()
    with pytest.raises(OpenFailed) as failure:
        connect(peer)
    assert failure.value.cause is Cause.NO_ROOM


# --- drain ----------------------------------------------------------------------------------------


def test_drain_is_told_to_the_agent() -> None:
    pair = Pair()
    pair.settle()
    stream, _ = pair.stream()
    pair.opener.drain(DrainReason.DUPLICATE, "as \u00fcbung\r\n")
    pair.settle()
    assert pair.far.noted[-1] == DrainReceived("duplicate", "as ?bung??")
    assert pair.answerer.draining
    assert stream.state is State.OPEN
    assert pair.opener._h2.streams.keys() == {stream.stream_id}
    with pytest.raises(OpenFailed):
        pair.open()


def test_drain_answered_with_a_body(opener: Handmade) -> None:
    assert isinstance(opener.connection, OpenerConnection)
    opener.connection.drain(DrainReason.SHUTDOWN)
    opener.take()
    opener.receive(opener.headers(3, [(b":status", b"404")]), data(3, b"what?"))
    assert resets(opener, 3) is ErrorCode.CANCEL
    assert not opener.connection._h2.streams
