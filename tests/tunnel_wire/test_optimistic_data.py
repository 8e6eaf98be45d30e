"""What an opener says before the answer to its CONNECT (spec.md, 5.2), and what becomes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hpack import Decoder

from tests.tunnel_wire.handmade import (
    CONNECT,
    KIB,
    Handmade,
    Sent,
    data,
    fails,
    raw,
    reset,
    resets,
    window_update,
)
from tests.tunnel_wire.memory import Face, Pair, consume, tell
from tests.tunnel_wire.test_resumption_machine import Resumption
from tunnel_wire import frames
from tunnel_wire.answerer import AnswererConnection
from tunnel_wire.causes import Cause
from tunnel_wire.events import Answered, DataReceived, EndReceived, StreamRequested, StreamReset
from tunnel_wire.frames import ErrorCode
from tunnel_wire.hello import OPTIMISTIC, RESUME, DrainReason
from tunnel_wire.limits import DEFAULT_LIMITS, WireLimits
from tunnel_wire.opener import OpenerConnection
from tunnel_wire.stream_state import EndCause, State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.tunnel_wire.wires import Wire
    from tunnel_wire.session import Stream

BOTH = f"{RESUME} {OPTIMISTIC}"
WINDOW = frames.DEFAULT_WINDOW
"""Bytes, of a peer that says nothing of it: of each stream, and of the link."""


def opening(said: str = BOTH, heard: str = BOTH) -> tuple[Handmade, Stream]:
    """A stream that its opener has asked for on its first link."""
    peer = Handmade.opener(said=said, heard=heard)
    assert isinstance(peer.connection, OpenerConnection)
    stream = peer.connection.open_stream(peer.session, "target", 80)
    Face(stream)
    return peer, stream


def asked(
    heard: str = BOTH, *, epoch: bytes = b"1", limits: WireLimits = DEFAULT_LIMITS
) -> tuple[Handmade, Stream]:
    """The same as its answerer sees it, on stream 3."""
    peer = Handmade.answerer(limits, heard=heard)
    fields = [(b"tunnel-key", b"%016x" % 1), (b"tunnel-epoch", epoch), (b"tunnel-state", b"opening")]
    (requested,) = peer.receive(peer.headers(3, [*CONNECT, *fields]))
    assert isinstance(requested, StreamRequested)
    Face(requested.stream)
    return peer, requested.stream


def hear(peer: Handmade, *what: bytes) -> None:
    """Feed frames, and tell the streams' users."""
    for event in peer.receive(*what):
        assert isinstance(event, DataReceived | EndReceived)
        tell(event)


def answer(peer: Handmade, stream: Stream, received: bytes = b"0", limit: int = WINDOW) -> list[object]:
    fields = [(b":status", b"200"), (b"tunnel-received", received), (b"tunnel-limit", b"%d" % limit)]
    return list(peer.receive(peer.headers(stream.stream_id, fields)))


def accept(peer: Handmade, stream: Stream) -> dict[bytes, bytes]:
    """What the 200 says."""
    assert isinstance(peer.connection, AnswererConnection)
    peer.connection.accept(stream)
    (said,) = [frame for frame in peer.take() if frame.kind == frames.HEADERS]
    return {bytes(n): bytes(v) for n, v in Decoder().decode(said.payload, raw=True)}


def said_on(sent: Iterable[Sent], stream_id: int) -> bytes:
    return b"".join(one.payload for one in sent if (one.kind, one.stream_id) == (frames.DATA, stream_id))


# --- the opener's end -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "heard", "room"),
    [
        (BOTH, BOTH, WINDOW),
        (BOTH, RESUME, 0),
        (RESUME, BOTH, 0),
        ("", "", 0),
        (OPTIMISTIC, OPTIMISTIC, WINDOW),
    ],
)
def test_only_both_ends_together_agree(said: str, heard: str, room: int) -> None:
    _, stream = opening(said, heard)
    assert stream.room() == room


def test_what_is_said_goes_right_behind_the_connect() -> None:
    peer, stream = opening()
    stream.write(b"early")
    connect, early = peer.take()
    assert (connect.kind, connect.stream_id) == (frames.HEADERS, stream.stream_id)
    assert early == Sent(frames.DATA, 0, stream.stream_id, b"early")


def test_before_the_answer_there_is_room_for_a_window_and_no_end() -> None:
    peer, stream = opening()
    stream.write(bytes(stream.room()))
    stream.write_end()
    assert stream.room() == 0
    sent = peer.take()
    assert len(said_on(sent, stream.stream_id)) == WINDOW
    assert not any(frame.flags & frames.FLAG_END_STREAM for frame in sent)
    assert answer(peer, stream) == [Answered(stream)]
    stream.write_end()
    assert peer.take() == [Sent(frames.DATA, frames.FLAG_END_STREAM, stream.stream_id, b"")]


@pytest.mark.parametrize("received", [b"0", b"2", b"5"])
def test_the_answer_to_the_first_connect_has_nothing_said_again(received: bytes) -> None:
    peer, stream = opening()
    stream.write(b"early")
    peer.take()
    assert answer(peer, stream, received) == [Answered(stream)]
    assert peer.take() == []
    assert stream.room() == WINDOW - 5
    stream.write(b"late")
    assert said_on(peer.take(), stream.stream_id) == b"late"


def test_what_was_queued_when_the_answer_came_is_sent_once() -> None:
    peer, stream = opening()
    stream.write(b"early")
    assert answer(peer, stream) == [Answered(stream)]
    assert said_on(peer.take(), stream.stream_id) == b"early"
    assert peer.take() == []


def test_an_answer_that_has_more_than_was_sent_is_an_error() -> None:
    peer, stream = opening()
    stream.write(b"early")
    peer.take()
    stream.write(b"queued")
    assert answer(peer, stream, b"6") == [StreamReset(stream)]
    assert resets(peer, stream.stream_id) is ErrorCode.PROTOCOL_ERROR
    assert peer.session.budget.used == 0


def test_an_answer_may_grant_less_than_the_first_window() -> None:
    peer, stream = opening()
    stream.write(b"early")
    peer.take()
    answer(peer, stream, limit=100)
    assert stream.room() == 95


def test_data_to_the_opener_waits_for_the_answer_in_any_case() -> None:
    peer, stream = opening()
    peer.take()
    assert peer.receive(data(stream.stream_id, b"SSH-2.0")) == [StreamReset(stream)]
    assert resets(peer, stream.stream_id) is ErrorCode.PROTOCOL_ERROR


def test_a_refusal_drops_what_is_queued() -> None:
    peer, stream = opening()
    stream.write(b"early")
    refused = [(b":status", b"502"), (b"tunnel-cause", b"refused")]
    peer.receive(peer.headers(stream.stream_id, refused, end=True))
    assert (stream.end_cause, stream.room()) == (EndCause.REFUSED, 0)
    assert [(frame.kind, frame.flags) for frame in peer.take()] == [
        (frames.HEADERS, frames.FLAG_END_HEADERS),
        (frames.DATA, frames.FLAG_END_STREAM),
    ]
    assert peer.session.budget.used == 0


@pytest.mark.parametrize("queued", [True, False])
@pytest.mark.parametrize("behind", [True, False])
def test_the_opener_gives_up_with_early_data(queued: bool, behind: bool) -> None:
    peer, stream = opening()
    stream.write(b"early")
    if not queued:
        peer.take()
    if behind:
        stream.reset_behind_data(ErrorCode.CANCEL, peer.now)
    else:
        stream.reset(ErrorCode.CANCEL)
    assert [frame.kind for frame in peer.take()] == [frames.HEADERS] * queued + [frames.RST_STREAM]
    assert (stream.state, stream.room()) == (State.CLOSED, 0)
    assert peer.session.budget.used == 0


def test_a_stream_that_is_opening_keeps_its_turn_while_the_link_has_no_credit() -> None:
    peer, first = opening()
    assert isinstance(peer.connection, OpenerConnection)
    second = peer.connection.open_stream(peer.session, "target", 80)
    for stream in (first, second):
        stream.write(bytes(40_000))
    peer.take()
    assert first.outgoing.sent + second.outgoing.sent == 65_535
    peer.receive(window_update(0, 40_000))
    peer.take()
    assert first.outgoing.sent == second.outgoing.sent == 40_000


def test_receipt_may_come_before_the_answer() -> None:
    pair = Pair(capabilities=frozenset({OPTIMISTIC}))
    pair.settle()
    stream = pair.open()
    stream.write(b"early")
    for _ in range(3):
        pair.settle()
        pair.pass_time(0.4)
    assert (stream.state, stream.outgoing.acknowledged) == (State.OPENING, 5)
    (far,) = pair.requests
    pair.answerer.accept(far)
    pair.settle()
    assert consume(far, 100, pair.now) == b"early"
    stream.write(b"late")
    pair.settle()
    assert consume(far, 100, pair.now) == b"late"


# --- the answerer's end ---------------------------------------------------------------------------


def test_what_comes_early_waits_for_the_target() -> None:
    peer, stream = asked()
    hear(peer, data(3, b"ear"), data(3), data(3, b"ly"))
    assert (stream.state, b"".join(stream.incoming.queue)) == (State.OPENING, b"early")
    assert peer.take() == []
    # The header block is the same for all.
    said = accept(peer, stream)
    assert said == {b":status": b"200", b"tunnel-received": b"0", b"tunnel-limit": b"65536"}
    hear(peer, data(3, b" and late", end=True))
    assert consume(stream, 100, peer.now) == b"early and late"
    assert stream.incoming.end == 14


def test_a_frame_that_was_begun_before_the_answer_is_whole() -> None:
    peer, stream = asked()
    frame = data(3, b"early")
    hear(peer, frame[:11])
    accept(peer, stream)
    hear(peer, frame[11:])
    assert consume(stream, 100, peer.now) == b"early"


@pytest.mark.parametrize("heard", ["", RESUME, OPTIMISTIC.upper()])
def test_without_agreement_it_is_an_error(heard: str) -> None:
    peer, stream = asked(heard)
    assert peer.receive(data(3, b"early")) == [StreamReset(stream)]
    assert resets(peer, 3) is ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("epoch", [b"2", b"7"])
def test_on_a_later_link_it_is_an_error(epoch: bytes) -> None:
    peer, stream = asked(epoch=epoch)
    assert peer.receive(data(3, b"early")) == [StreamReset(stream)]
    assert resets(peer, 3) is ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("early", [b"", b"early"])
def test_an_early_end_is_an_error(early: bytes) -> None:
    peer, stream = asked()
    assert peer.receive(data(3, early, end=True)) == [StreamReset(stream)]
    assert resets(peer, 3) is ErrorCode.PROTOCOL_ERROR
    assert stream.incoming.received == 0
    assert peer.session.budget.used == 0


def test_early_data_keeps_to_the_window() -> None:
    peer, stream = asked()
    hear(peer, *[data(3, bytes(16 * KIB))] * 4)
    assert stream.incoming.queued == 64 * KIB
    assert peer.receive(data(3, b"x")) == [StreamReset(stream)]
    assert resets(peer, 3) is ErrorCode.FLOW_CONTROL_ERROR


def test_empty_frames_are_no_way_around_the_limit_of_what_costs_us() -> None:
    peer, _ = asked(limits=WireLimits(control_burst=20))
    assert fails(peer, *[data(3)] * 100) is ErrorCode.ENHANCE_YOUR_CALM


def test_what_is_on_its_way_to_a_stream_that_was_refused_costs_the_link_nothing() -> None:
    peer, stream = asked(limits=WireLimits(connection_window=65_535, max_frame=16_384))
    hear(peer, data(3, bytes(10_000)))
    assert isinstance(peer.connection, AnswererConnection)
    peer.connection.refuse(stream, Cause.REFUSED)
    sent = peer.take()
    assert [frame.kind for frame in sent if frame.stream_id == 3] == [frames.HEADERS]
    assert peer.session.budget.used == 0
    for _ in range(5):
        assert peer.receive(data(3, bytes(10_000))) == []
    sent += peer.take()
    credit = sum(frame.increment for frame in sent if frame.kind == frames.WINDOW_UPDATE)
    assert credit >= 60_000 - 65_535 // 8
    assert {frame.stream_id for frame in sent if frame.kind == frames.WINDOW_UPDATE} == {0}
    assert peer.receive(data(3, end=True)) == []
    assert not peer.connection._h2.streams
    peer.accepted(5)


def test_early_data_for_what_there_is_no_room_for_is_swallowed() -> None:
    peer, _ = asked()
    peer.session.budget.total = peer.session.budget.used
    assert peer.receive(peer.headers(5, CONNECT), data(5, b"early"), data(5, b"more")) == []
    assert [frame.kind for frame in peer.take()] == [frames.HEADERS]
    assert peer.receive(raw(frames.PING, 0, 0, b"go on...")) == []


def test_the_opener_resets_behind_early_data() -> None:
    peer, stream = asked()
    hear(peer, data(3, b"early"))
    assert peer.receive(reset(3)) == [StreamReset(stream)]
    assert isinstance(peer.connection, AnswererConnection)
    peer.connection.accept(stream)
    assert peer.take() == []
    assert peer.session.budget.used == 0


def test_the_answerer_resets_with_early_data_on_its_way() -> None:
    peer, stream = asked()
    hear(peer, data(3, b"early"))
    stream.reset(ErrorCode.CANCEL)
    assert peer.receive(data(3, b"more")) == []
    assert resets(peer, 3) is ErrorCode.CANCEL
    assert peer.session.budget.used == 0


# --- links that are lost, and others that come ----------------------------------------------------

EARLY = b"early, in two frames"


def network() -> tuple[Resumption, Stream, Wire]:
    """A stream that has sent early data, all of it on its way."""
    net = Resumption()
    net._settle()
    net.open()
    near = net.tunnelled[-1].sides["near"].stream
    (wire,) = net.links
    for piece in (EARLY[:9], EARLY[9:]):
        near.write(piece)
        net._flush(wire, "near")
    return net, near, wire


def deliver(net: Resumption, wire: Wire, part: str) -> None:
    """Some of what the server has sent comes to the agent."""
    size = {
        "nothing": 0,
        "half of the CONNECT": 20,
        "the CONNECT": wire.from_near.find(EARLY[:9]) - frames.HEADER_SIZE,
        "a frame and a half": wire.from_near.find(EARLY[9:]) + 3,
        "all": 1 << 20,
    }[part]
    net._deliver(wire, "near", size)


PARTS = ["nothing", "half of the CONNECT", "the CONNECT", "a frame and a half", "all"]


@pytest.mark.parametrize("dialled", ["before", "without a link", "after"])
@pytest.mark.parametrize("part", [*PARTS, "the receipt"])
def test_a_lost_link_loses_and_repeats_nothing(part: str, dialled: str) -> None:
    net, near, wire = network()
    if part == "the receipt":
        net._settle()
        net._pass_time(0.4)
        net._settle()
        assert near.outgoing.acknowledged == len(EARLY)
    else:
        deliver(net, wire, part)
    if dialled == "before":
        net.answer(0, True)  # and the 200 gets lost
    net.blackhole(0, "both")
    assert (near.state, near.room()) == (State.OPENING, 0)
    if dialled == "without a link":
        net.answer(0, True)
    net.dial()
    net._settle()
    net.answer(0, True)
    assert_whole(net, near)


@pytest.mark.parametrize("dialled", ["before", "meanwhile", "after"])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("first", ["the old link", "the new link"])
def test_a_stream_that_moves_while_it_is_opening(part: str, dialled: str, first: str) -> None:
    net, near, old = network()
    net.dial()
    new = net.links[-1]
    for _ in range(3):
        for end in ("near", "far"):
            net._flush(new, end)
            net._deliver(new, end, 1 << 20)
    deliver(net, old, part)
    if dialled == "before":
        net.answer(0, True)
    assert (near.connection, near.state) == (old.near, State.OPENING)
    new.near.resume([near], net.now, net._living(net.sessions["near"]))
    assert (near.connection, near.room()) == (new.near, 0)
    for wire in (old, new) if first == "the old link" else (new, old):
        net._flush(wire, "near")
        net._deliver(wire, "near", 1 << 20)
        if dialled == "meanwhile":
            net.answer(0, True)
    net._settle()
    net.answer(0, True)
    assert_whole(net, near)
    assert old.lives == new.lives == {"near": True, "far": True}


def test_early_data_is_not_for_the_next_link() -> None:
    net, near, _ = network()
    near.write(b"; queued")
    net.blackhole(0, "both")
    net.dial()
    net._settle()
    assert (near.state, near.optimistic, near.room()) == (State.OPENING, False, 0)
    far = net.tunnelled[-1].sides["far"].stream
    assert far.incoming.received == 0
    net.answer(0, True)
    net._settle()
    assert consume(far, 100, net.now) == EARLY + b"; queued"


def assert_whole(net: Resumption, near: Stream) -> None:
    """Not a byte is missing, or there twice, and both ends go on."""
    net._settle()
    far = net.tunnelled[-1].sides["far"].stream
    assert (near.state, far.state) == (State.OPEN, State.OPEN)
    near.write(b", and late")
    far.write(b"answer")
    net._settle()
    assert consume(far, 100, net.now) == EARLY + b", and late"
    assert consume(near, 100, net.now) == b"answer"
    face = near.face
    assert isinstance(face, Face)
    assert face.told == ["answer"]
    for stream in (near, far):
        stream.write_end()
    for _ in range(3):
        net._settle()
        net._pass_time(0.4)
    assert near.end_cause is far.end_cause is EndCause.FINISHED


def test_who_answers_says_nothing_before_it_has() -> None:
    peer, stream = asked()
    assert stream.room() == 0
    peer.connection.accept(stream)
    assert stream.room() == WINDOW


@pytest.mark.parametrize(("others", "drained"), [(0, False), (0, True), (4200, False)])
def test_no_target_hears_it_twice(others: int, drained: bool) -> None:
    """The stream goes on on another link, and ends there; then what asked for it first arrives after all.

    Others have ended meanwhile, or a server that leaves has said that nothing is resumed any more.
    """
    net, near, stalled = network()
    net.dial()
    sound = net.links[-1]

    def exchange() -> None:
        for end in ("near", "far") * 4:
            net._flush(sound, end)
            net._deliver(sound, end, 1 << 20)

    exchange()
    sound.near.resume([near], net.now, net._living(net.sessions["near"]))
    exchange()
    far = net.sessions["far"].streams[near.key]
    sound.far.accept(far)
    exchange()
    assert consume(far, 100, net.now) == EARLY
    if drained:
        sound.near.drain(DrainReason.SHUTDOWN)
        exchange()
    for stream in (near, far):
        stream.write_end()
    exchange()
    net._pass_time(0.05)
    exchange()
    assert near.end_cause is far.end_cause is EndCause.FINISHED
    tombstones = net.sessions["far"].tombstones
    assert tombstones is not None
    for key in range(others):
        tombstones.add((1 << 40) + key, None, finished=True)
    net._deliver(stalled, "near", 1 << 20)
    assert near.key not in net.sessions["far"].streams
