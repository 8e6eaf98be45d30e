"""A stream that goes from one link to another, in memory: what is rare in the state machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.tunnel_wire.memory import Face, consume
from tests.tunnel_wire.test_resumption_machine import Resumption
from tunnel_wire.session import EndCause, State

if TYPE_CHECKING:
    from tunnel_wire.session import Stream


def linked() -> tuple[Resumption, Stream, Stream]:
    """Both ends of one open stream, and the network between them."""
    net = Resumption()
    (model,) = net.tunnelled
    return net, model.sides["near"].stream, model.sides["far"].stream


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
    new.near.resume([near])
    assert not near.scheduled
    net._settle()
    assert near.connection is new.near
    assert consume(far, 100, net.now) == b"queued"
