"""A stream that goes from one link to another, in memory: what is rare in the state machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.tunnel_wire.memory import Face, consume
from tests.tunnel_wire.pipes import LIMITS
from tests.tunnel_wire.test_resumption_machine import Resumption
from tunnel_wire.hello import DrainReason
from tunnel_wire.limits import DEFAULT_LIMITS
from tunnel_wire.stream_state import EndCause, State

if TYPE_CHECKING:
    from tests.tunnel_wire.wires import Wire
    from tunnel_wire.opener import OpenerConnection
    from tunnel_wire.session import Stream


def linked() -> tuple[Resumption, Stream, Stream]:
    """Both ends of one open stream, and the network between them."""
    net = Resumption()
    (model,) = net.tunnelled
    return net, model.sides["near"].stream, model.sides["far"].stream


def whole() -> tuple[Resumption, Stream, Stream]:
    """The same, and both ends have written all that they will."""
    net, near, far = linked()
    net._settle()
    for stream in (near, far):
        stream.write(b"all")
        stream.write_end()
    return net, near, far


def test_what_had_finished_for_the_agent_is_a_success() -> None:
    net, near, far = linked()
    net._settle()
    net.now += 0.01
    for stream in (near, far):
        stream.write(b"all")
        stream.write_end()
    # The agent learns that all it sent was received; what it says of the server's gets lost.
    (wire,) = net.links
    for end in ("far", "near"):
        net._flush(wire, end)
        net._deliver(wire, end, 1 << 20)
    assert consume(near, 100, net.now) == consume(far, 100, net.now) == b"all"
    assert (far.state, near.state) == (State.CLOSED, State.OPEN)
    net.blackhole(0, "both")
    net.dial()
    net._settle()
    assert near.end_cause is far.end_cause is EndCause.FINISHED
    face = near.face
    assert isinstance(face, Face)
    assert face.told == ["answer", "end"]


def test_a_stream_that_had_its_turn_to_come_gets_it_on_the_new_link() -> None:
    net, near, far = linked()
    net.dial()
    net._settle()
    _, new = net.links
    near.write(b"queued")
    assert near.scheduled
    assert near.connection is not new.near
    new.near.resume([near], net.now)
    assert not near.scheduled
    net._settle()
    assert near.connection is new.near
    assert consume(far, 100, net.now) == b"queued"


def test_an_answered_ping_is_no_receipt_for_what_was_dropped() -> None:
    net, near, far = linked()
    net.dial()
    net._settle()
    former, latter = net.links
    net.now += 1
    far.write(b"data")
    net._flush(former, "far")
    latter.near.resume([near], net.now)
    # The server drops what comes there now, and the PING behind it stays unanswered ...
    assert far.connection is former.far
    net._deliver(former, "far", 1 << 20)
    net._flush(former, "near")
    net._deliver(former, "near", 1 << 20)
    assert far.outgoing.acknowledged == 0
    # ... until the agent has let go, too; for that the answer says nothing about the stream any more.
    net._flush(latter, "near")
    net._deliver(latter, "near", 1 << 20)
    latter.from_far += b"".join(latter.far.take(0))
    net._deliver(latter, "far", 1 << 20)
    assert near.state is State.OPEN
    assert former.far._life.outstanding is not None
    net._flush(former, "near")
    net._deliver(former, "near", 1 << 20)
    assert former.far._life.outstanding is None
    assert far.outgoing.acknowledged == 0
    net._settle()
    assert consume(near, 100, net.now) == b"data"


def test_two_links_that_ask_at_once_name_every_stream() -> None:
    net, *_ = linked()
    net.connect(4)
    net._settle()
    net.blackhole(0, "both")
    for _ in range(2):
        net.dial()
    # Each has more to ask for than may be asked at once, and takes from the other what that has asked for.
    for wire in net.links:
        for end in ("near", "far"):
            net._flush(wire, end)
            net._deliver(wire, end, 1 << 20)
    for wire in net.links:
        net._flush(wire, "near")
        net._deliver(wire, "near", 1 << 20)
    net._settle()
    streams = [side.stream for model in net.tunnelled for side in model.sides.values()]
    assert [stream.state for stream in streams] == [State.OPEN] * 10


# --- waiting for an answer ------------------------------------------------------------------------


def asked(after: float = 0.0) -> tuple[Resumption, Stream, Stream]:
    """A stream whose link was lost, and which a new one asks for so many seconds later; the agent has yet to
    hear of it.
    """
    net, near, far = linked()
    net._settle()
    far.write(b"sent in vain")
    net._flush(net.links[0], "far")
    net.blackhole(0, "both")
    net.now += after
    ask(net)
    assert near.state is State.ASKED
    return net, near, far


def ask(net: Resumption) -> OpenerConnection:
    """A new link, until the server has asked there for what is suspended."""
    net.dial()
    move(net)
    return net.links[-1].near


def move(net: Resumption) -> None:
    """There and back on the newest link alone."""
    for end in ("near", "far"):
        net._flush(net.links[-1], end)
        net._deliver(net.links[-1], end, 1 << 20)


def told(stream: Stream) -> list[str]:
    face = stream.face
    assert isinstance(face, Face)
    return face.told


def test_an_answer_that_does_not_come_does_not_stop_the_grace() -> None:
    net, near, far = asked(80)
    session = near.session
    assert list(session.suspended) == [near]
    session.expire(net.now + 9)
    assert near.state is State.ASKED
    net.now += 10
    session.expire(net.now)
    assert near.end_cause is EndCause.EXPIRED
    assert told(near) == ["answer", "reset"]
    # Whoever was asked is told: nobody waits for the target any more.
    net._settle()
    assert far.end_cause is EndCause.PEER_RESET


def test_a_link_that_passes_nothing_does_not_start_the_grace_anew() -> None:
    net, near, _ = asked(80)
    due = near.session.suspended.next_due()
    net.cut(0, "near")
    assert near.state is State.SUSPENDED
    assert near.session.suspended.next_due() == due == net.now + 10


def test_an_agent_that_answers_pings_alone_does_not_keep_its_callers() -> None:
    net, near, far = asked()
    wire = net.links[-1]
    for _ in range(3):
        net.now += DEFAULT_LIMITS.answer_timeout / 3
        wire.near._life.last_received = net.now
        assert near.state is State.ASKED
        wire.near.tick(net.now)
    assert near.end_cause is EndCause.UNANSWERED
    assert told(near) == ["answer", "reset"]
    net._flush(wire, "near")
    net._deliver(wire, "near", 1 << 20)
    assert far.end_cause is EndCause.PEER_RESET


@pytest.mark.parametrize("given_up", [False, True])
def test_the_answer_ends_the_waiting(given_up: bool) -> None:
    net, near, far = asked()
    if given_up:
        # What has no link is; this may still go on.
        near.session.end_suspended(EndCause.SERVER_ANEW)
    net._settle()
    assert near.state is State.OPEN
    assert not near.session.suspended
    assert consume(near, 100, net.now) == b"sent in vain"
    near.write(b"on")
    for _ in range(5):
        net._settle()
        net._pass_time(4)
    assert consume(far, 100, net.now) == b"on"
    assert near.outgoing.acknowledged == 2
    assert (near.state, far.state) == (State.OPEN, State.OPEN)


def test_memory_may_be_needed_before_the_answer() -> None:
    net, near, far = asked()
    budget = near.session.budget
    budget.total = budget.used
    assert budget.reserve_at_cost(1)
    assert near.end_cause is EndCause.RECLAIMED
    net._settle()
    assert far.end_cause is EndCause.PEER_RESET


def test_a_stale_request_for_what_has_finished_takes_nothing_from_its_user() -> None:
    net, near, far = whole()
    (wire,) = net.links
    # The server has read everything, and knows that the agent has; that does not.
    net._flush(wire, "near")
    net._deliver(wire, "near", 1 << 20)
    net._flush(wire, "far")
    net._deliver(wire, "far", 1 << 20)
    assert consume(near, 100, net.now) == b"all"
    net.blackhole(0, "both")
    near.reset(8)
    net.dial()
    net._settle()
    assert far.state is State.ENDED
    (wire,) = net.links
    late = [
        (b":method", b"CONNECT"),
        (b":authority", b"target:80"),
        (b"tunnel-epoch", b"9"),
        (b"tunnel-state", b"open"),
        (b"tunnel-received", b"0"),
        (b"tunnel-limit", b"2000"),
        (b"tunnel-key", b"%016x" % far.key),
    ]
    wire.near.send_request(late, ended=False)
    net._settle()
    assert far.state is State.ENDED
    assert told(far) == ["end"]
    assert consume(far, 100, net.now) == b"all"
    assert far.end_cause is EndCause.FINISHED


def test_a_drain_in_the_middle_of_resuming_loses_nothing() -> None:
    net, *_ = linked()
    for _ in range(4):
        net.connect()
    net._settle()
    net.blackhole(0, "both")
    retired = ask(net)
    retired.drain(DrainReason.EXPIRED)
    for _ in range(2):
        net._settle()
        net._pass_time(4)
    near, far = net.sessions["near"], net.sessions["far"]
    assert len(near.suspended) == len(far.suspended) == 2
    net.dial()
    net._settle()
    streams = [side.stream for model in net.tunnelled for side in model.sides.values()]
    assert [stream.state for stream in streams] == [State.OPEN] * 10
    assert sum(stream.connection is retired for stream in streams) == LIMITS.resumed_at_once


def test_a_target_that_is_dialled_for_long_stops_no_receipts_on_the_link_that_it_leaves() -> None:
    net, near, far = linked()
    net.open()
    net._settle()
    dialled = net.tunnelled[1].sides["near"].stream
    net.blackhole(0, "both")
    for _ in range(2):
        net.dial()
        net._settle()
    former, latter = net.links
    assert (near.connection, dialled.connection) == (former.near, latter.near)
    assert dialled.state is State.OPENING
    far.write(b"data")
    for _ in range(3):
        net._settle()
        net._pass_time(0.1)
    assert far.outgoing.acknowledged == 4
    net.answer(0, True)
    net._settle()
    assert dialled.state is State.OPEN
    assert not former.near._left


def test_a_request_that_comes_too_late_ends_the_waiting_on_its_link() -> None:
    net, *_ = linked()
    net.open()
    net._settle()
    dialled = net.tunnelled[1].sides["near"].stream
    net.blackhole(0, "both")
    former = ask(net)
    latter = ask(net)
    move(net)
    assert dialled.connection is latter
    assert dialled in former._left.values()
    net._settle()
    assert dialled.state is State.OPENING
    assert not former._left


# --- links that only the agent believes in --------------------------------------------------------


@pytest.mark.parametrize("late", [False, True])
def test_nobody_waits_for_a_target_that_is_dialled_on_a_link_that_was_given_up(late: bool) -> None:
    net, *_ = linked()
    net._settle()
    net.open()
    called_off = net.tunnelled[1].sides["near"].stream
    (wire,) = net.links
    net._flush(wire, "near")
    request = bytes(wire.from_near)
    wire.from_near.clear()
    net.cut(0, "near")
    called_off.reset(8)
    if not late:
        wire.from_near += request
        net._deliver(wire, "near", 1 << 20)
        assert net.tunnelled[1].sides["far"].stream.state is State.OPENING
    net.dial()
    net._settle()
    if late:
        wire.from_near += request
        net._deliver(wire, "near", 1 << 20)
        assert "far" not in net.tunnelled[1].sides
    else:
        stream = net.tunnelled[1].sides["far"].stream
        assert (stream.end_cause, told(stream)) == (EndCause.PEER_RESET, ["reset"])
    assert [stream.state for stream in net.sessions["far"].streams.values()] == [State.OPEN]


def test_what_had_finished_on_a_link_that_was_given_up_is_delivered() -> None:
    net, near, far = whole()
    (wire,) = net.links
    for end in ("near", "far"):
        net._flush(wire, end)
        net._deliver(wire, end, 1 << 20)
    assert consume(near, 100, net.now) == b"all"
    net.cut(0, "near")
    near.reset(8)
    net.dial()
    net._settle()
    assert (far.state, far.connection) == (State.ENDED, None)
    assert consume(far, 100, net.now) == b"all"
    assert far.end_cause is EndCause.FINISHED


def test_links_to_another_server_or_not_known_to_it_yet_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, _, far = linked()
    net._settle()
    (known,) = net.links
    net.dial()
    unknown = net.links[-1]
    net._flush(unknown, "near")
    net._deliver(unknown, "near", 1 << 20)
    net.dial()
    for _ in range(3):
        move(net)
    net._settle()
    assert unknown.greeted
    assert not unknown.far.is_given_up
    # A server knows its own links alone.
    monkeypatch.setattr(net, "_living", lambda _session: [net.links[-1].index])
    net.blackhole(2, "both")
    net.processes["near"] = 2
    net.dial()
    net._settle()
    assert not known.far.is_given_up
    assert far.connection is known.far
    net.blackhole(2, "both")
    net.processes["near"] = 1
    net.dial()
    net._settle()
    assert known.far.is_given_up
    assert far.end_cause is EndCause.PEER_RESET


# --- requests that come after the session was ended -----------------------------------------------


def moving() -> tuple[Resumption, Wire, Stream, Stream]:
    """A stream that its server has moved to another link, where it is asked for and nothing has come yet."""
    net, near, far = linked()
    net.dial()
    net._settle()
    former, latter = net.links
    latter.near.resume([near], net.now, [former.index, latter.index])
    net._flush(latter, "near")
    assert (near.state, far.connection) == (State.ASKED, former.far)
    return net, latter, near, far


@pytest.mark.parametrize("succeeded", [True, False])
def test_a_stream_is_moved_though_nothing_waits_for_a_link_any_more(succeeded: bool) -> None:
    net, latter, near, far = moving()
    net.now += 0.01
    far.write(b"before")
    if succeeded:
        # The agent hears of the successor first.
        net.replace(5)
        net.dial()
        for _ in range(2):
            move(net)
        assert net.links[-1].greeted
    else:
        # A defect in what watches over those that wait.
        far.session.end_suspended(EndCause.LINK_LOST)
    net._settle()
    assert (near.state, far.state, far.connection) == (State.OPEN, State.OPEN, latter.far)
    near.write(b"after")
    net._settle()
    assert consume(near, 100, net.now) == b"before"
    assert consume(far, 100, net.now) == b"after"
    assert latter.lives == {"near": True, "far": True}


def test_what_a_server_opens_once_its_successor_was_heard_waits_for_nobody() -> None:
    net, *_ = linked()
    net._settle()
    (former,) = net.links
    session = net.sessions["near"]
    # The successor's hello comes first; what the former server said before it, on its own link, later.
    stream = former.near.open_stream(session, "target", 80)
    net._flush(former, "near")
    net.replace(5)
    net.dial()
    for _ in range(2):
        net._flush(net.links[-1], "near")
        net._deliver(net.links[-1], "near", 1 << 20)
        net._flush(net.links[-1], "far")
        net._deliver(net.links[-1], "far", 1 << 20)
    assert net.links[-1].greeted
    net._deliver(former, "near", 1 << 20)
    far = net.sessions["far"].streams[stream.key]
    net.cut(0, "far")
    assert (far.end_cause, list(net.sessions["far"].suspended)) == (EndCause.LINK_LOST, [])


@pytest.mark.parametrize("of_another", [True, False])
def test_a_stream_that_is_not_to_be_had_costs_its_request_alone(of_another: bool) -> None:
    net, latter, near, far = moving()
    former = far.connection
    if of_another:
        latter.far.instance = "f" * 32
    else:
        # It has failed, and takes its streams with it.
        assert former is not None
        former.resumes = False
    other = latter.near.open_stream(net.sessions["near"], "target", 80)
    net._flush(latter, "near")
    net._deliver(latter, "near", 1 << 20)
    assert far.connection is former
    net._flush(latter, "far")
    net._deliver(latter, "far", 1 << 20)
    assert (near.end_cause, told(near)) == (EndCause.LINK_LOST, ["answer", "reset"])
    assert net.sessions["far"].streams[other.key].connection is latter.far


@pytest.mark.parametrize("streams", range(3, 10))
def test_no_two_links_carry_a_stream_when_several_come_at_once(streams: int) -> None:
    """A link that loses a stream to another goes on asking; not for that very stream, before it is there."""
    net, *_ = linked()
    net.connect(streams - len(net.tunnelled))
    for others in (0, 2):
        for _ in range(others):
            net.dial()
        net.blackhole(0, "near")
        net.dial()
        for _ in range(3):
            net._move_all()
    carried = [stream for wire in net.links for stream in wire.near._streams.values()]
    assert len(carried) == len({*carried}) <= streams
    net._settle()
    assert {model.sides["near"].stream.state for model in net.tunnelled} == {State.OPEN}
    assert not any(wire.near._resuming for wire in net.links)
