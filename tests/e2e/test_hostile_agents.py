"""An agent with a real certificate that floods its link: closed within a second, and nobody else feels it."""

import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest

from tests.e2e.hostile import Besieged, HostileAgent, node_context
from tests.e2e.network import dial, read_to_end
from tests.e2e.system import EDGE_2, System
from tests.tunnel_wire import key_updates
from tests.tunnel_wire.handmade import data, goaway, initial_window, raw, reset, window_update
from tunnel_wire import frames
from tunnel_wire.frames import MAX_WINDOW, ErrorCode
from tunnel_wire.limits import DEFAULT_LIMITS

# A node may break the protocol 30 times before it gets no more links: there are fewer attacks.
CLOSED = 1.0
"""Seconds from when an attack crosses a limit, mostly at its start, to the end of its link."""
FLOOD = DEFAULT_LIMITS.control_burst + 1500
"""Frames that are a flood though they take a second to come."""
RESETS = DEFAULT_LIMITS.reset_burst + 1500

Flood = Callable[[], object]
Attack = Callable[[HostileAgent, int], Flood]
CALM = ErrorCode.ENHANCE_YOUR_CALM
OK, EARLY = (b":status", b"200"), (b":status", b"103")


def _sends(make: Callable[[HostileAgent, int], bytes]) -> Attack:
    """An attack of bytes that are made beforehand."""

    def attack(agent: HostileAgent, stream: int) -> Flood:
        return partial(agent.sock.sendall, make(agent, stream))

    return attack


def _settings_of_no_meaning(_: HostileAgent, __: int) -> bytes:
    settings = b"".join(struct.pack(">HI", key, 1) for key in range(0x100, 0x10000))
    pieces = [settings[at : at + 16_200] for at in range(0, len(settings), 16_200)]
    return b"".join(raw(frames.SETTINGS, 0, 0, piece) for piece in pieces)


def _made_you_reset(agent: HostileAgent, stream: int) -> bytes:
    # The first makes the server reset the stream, and each of the others would make it do so again.
    return agent.headers(stream, [OK]) + window_update(stream, 0) + agent.headers(stream, [OK]) * RESETS


def _dribble(agent: HostileAgent, stream: int) -> bytes:
    # A caller has sent all that the server takes, which may go byte by byte.
    return initial_window(0).serialize() + agent.headers(stream, [OK]) + window_update(stream, 1) * FLOOD


def _continued(stream: int, size: int, count: int) -> bytes:
    return raw(frames.HEADERS, 0, stream) + raw(frames.CONTINUATION, 0, stream, bytes(size)) * count


def _key_updates(agent: HostileAgent, _: int) -> Flood:
    if not key_updates.available:
        pytest.skip("needs an ordinary build of CPython")

    def flood() -> None:
        # One at a time, on a busy machine hardly faster than is allowed: until it is too much.
        burst, rate, began = DEFAULT_LIMITS.control_burst, DEFAULT_LIMITS.control_rate, time.monotonic()
        for sent in range(10 * FLOOD):
            key_updates.ask_for_new_keys(agent.sock)
            now = time.monotonic()
            if not agent.crossed and sent > burst + rate * (now - began):
                assert agent.watch is not None
                agent.crossed = agent.watch.seconds()

    return flood


ATTACKS: dict[str, tuple[Attack, ErrorCode]] = {
    "rapid reset": (_sends(lambda *_: reset(1).serialize() * RESETS), CALM),
    "MadeYouReset": (_sends(_made_you_reset), CALM),
    "CONTINUATION flood": (_sends(lambda _, stream: _continued(stream, 16_000, 6)), CALM),
    "empty CONTINUATION": (_sends(lambda _, stream: _continued(stream, 0, 100)), ErrorCode.PROTOCOL_ERROR),
    "PING flood": (_sends(lambda *_: raw(frames.PING, 0, 0, b"flooding") * FLOOD), CALM),
    "PING answers": (_sends(lambda *_: raw(frames.PING, frames.FLAG_ACK, 0, b"flooding") * FLOOD), CALM),
    "SETTINGS flood": (_sends(lambda *_: raw(frames.SETTINGS, 0, 0) * FLOOD), CALM),
    "SETTINGS of no meaning": (_sends(_settings_of_no_meaning), CALM),
    "empty DATA": (_sends(lambda agent, stream: agent.headers(stream, [OK]) + data(stream) * FLOOD), CALM),
    "GOAWAY flood": (_sends(lambda *_: goaway(1 << 30).serialize() * FLOOD), CALM),
    "unknown frames": (_sends(lambda *_: raw(0x77, 0, 0, bytes(16)) * FLOOD), CALM),
    "early answers": (_sends(lambda agent, stream: agent.headers(stream, [EARLY]) * FLOOD), CALM),
    "window overflow": (_sends(lambda *_: window_update(0, MAX_WINDOW)), ErrorCode.FLOW_CONTROL_ERROR),
    "credit by the byte": (_sends(lambda *_: window_update(0, 1) * FLOOD), CALM),
    "data dribble": (_sends(_dribble), CALM),
    "header bomb": (
        _sends(lambda agent, stream: agent.headers(stream, [OK, *[(b"name", b"v" * 4000)] * 30])),
        CALM,
    ),
    "a frame too large": (
        _sends(lambda *_: frames.frame_header(1 << 20, 0x77, 0, 0)),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "key updates": (_key_updates, CALM),
}  # fmt: skip


@pytest.fixture(scope="module")
def captured(besieged: Besieged) -> System:
    """edge-2 has been connected: calls to its address are captured."""
    own = besieged.system
    _linked(own).sock.close()
    own.until(lambda: own.nodes()["edge-2"]["captured"], "server")
    return own


def _linked(own: System) -> HostileAgent:
    edge = own.topology.edge(2)
    agent = HostileAgent.link(edge, node_context(own, edge), edge.name)
    own.until(lambda: own.nodes().get("edge-2", {}).get("connected"), "server")
    return agent


@pytest.mark.parametrize("name", ATTACKS)
def test_its_link_is_closed_and_nobody_else_feels_it(name: str, besieged: Besieged, captured: System) -> None:
    attack, code = ATTACKS[name]
    with (
        besieged.nobody_else_feels_it(),
        _linked(captured) as agent,
        dial(captured.topology.cloud, (EDGE_2, 9081)) as caller,
    ):
        caller.sendall(bytes(32 * 1024))
        flood = attack(agent, agent.asked())
        told, agent.watch = len(captured.log("server")), captured.stopwatch("server")
        with suppress(OSError):
            flood()
        said, took = agent.goaway(), agent.watch.seconds() - agent.crossed
        with suppress(ConnectionResetError):
            assert caller.recv(1) == b"", "a call through the link that was closed is over"
    assert took < CLOSED
    # Flooding, it may have missed it.
    assert said in {code, None}
    assert f"({code.name})" in captured.log("server")[told:]


def test_data_that_no_window_allows_costs_its_own_stream(besieged: Besieged, captured: System) -> None:
    with (
        besieged.nobody_else_feels_it(),
        _linked(captured) as agent,
        dial(captured.topology.cloud, (EDGE_2, 9081)) as caller,
    ):
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stream = agent.asked()
        agent.sock.sendall(agent.headers(stream, [(b":status", b"200")]))
        with suppress(ConnectionResetError, BrokenPipeError):
            agent.sock.sendall(b"".join(data(stream, bytes(16_384)) for _ in range(1024)))
        while (frame := agent.frame()) is not None and frame.kind != frames.RST_STREAM:
            pass
        assert frame is not None
        assert (frame.stream_id, frame.code) == (stream, ErrorCode.FLOW_CONTROL_ERROR)
        with pytest.raises(ConnectionResetError):
            read_to_end(caller)
        assert captured.connected() == {"edge-1", "edge-2"}, "the link goes on"
