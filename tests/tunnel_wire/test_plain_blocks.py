"""What is taken without h2's checks, against h2's checks."""

from __future__ import annotations

import h2.config
import h2.connection
import pytest
from h2.exceptions import ProtocolError
from h2.stream import StreamInputs
from hpack import Encoder
from hyperframe.frame import HeadersFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tunnel_wire.handmade import CONNECT, Handmade, data, fails
from tunnel_wire import frames
from tunnel_wire.control_plane import ControlPlane
from tunnel_wire.frames import ErrorCode
from tunnel_wire.limits import DEFAULT_LIMITS, WireLimits
from tunnel_wire.plain_blocks import is_plain_answer, is_plain_connect
from tunnel_wire.stream_state import State

_OURS = [
    (b"tunnel-epoch", b"1"),
    (b"tunnel-state", b"opening"),
    (b"tunnel-received", b"0"),
    (b"tunnel-limit", b"65536"),
    (b"tunnel-key", b"0" * 16),
]
_WRONG = [b"Tunnel-key", b"tunnel key", b"", b"te", b"connection", b"host", b"content-length", b"cookie"]
_names = st.sampled_from(
    [b":method", b":authority", b":status", b":path", b":protocol", b"tunnel-key", b"tunnel-epoch", *_WRONG]
)
_values = st.sampled_from(
    [b"CONNECT", b"GET", b"target:80", b"[::1]:80", b" target:80", b"200", b"1", b"", b"1 ", b"1\n", b"a\0b"]
)
_blocks = st.builds(
    lambda first, rest: first + rest,
    st.sampled_from([[], [(b":method", b"CONNECT")], CONNECT, [*CONNECT, *_OURS], [(b":status", b"200")]]),
    st.lists(st.tuples(_names, _values), max_size=2),
)


@given(_blocks)
@settings(max_examples=300)
def test_h2_takes_what_is_plain(fields: list[tuple[bytes, bytes]]) -> None:
    for client, plain in ((False, is_plain_connect(fields)), (True, is_plain_answer(fields))):
        if plain:
            peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=client))
            peer.initiate_connection()
            if client:
                peer.send_headers(1, [(b":method", b"CONNECT"), (b":authority", b"target:80")])
            else:
                peer.receive_data(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            block = peer.encoder.encode(fields)
            (event,) = peer.receive_data(HeadersFrame(1, block, flags=["END_HEADERS"]).serialize())
            assert event.headers == fields


def test_ours_are_plain() -> None:
    assert is_plain_connect([*CONNECT, *_OURS])
    assert is_plain_answer([(b":status", b"200"), *_OURS[2:4]])
    assert not is_plain_answer([(b":status", b"502"), (b"tunnel-cause", b"refused")])


@pytest.mark.parametrize("fields", [CONNECT, [*CONNECT, *_OURS], [*CONNECT, (b"x", b"y")]])
def test_a_request_is_counted_and_checked_however_it_is_read(fields: list[tuple[bytes, bytes]]) -> None:
    """`x` is for h2."""
    answerer = Handmade.answerer(WireLimits(max_streams=3))
    without_key = [field for field in fields if field[0] != b"tunnel-key"]
    for stream_id in (1, 3, 5, 7):  # the last is refused, and open until its peer has ended it as well
        answerer.receive(answerer.headers(stream_id, without_key))
    assert len(answerer.session.streams) == 3
    assert fails(answerer, answerer.headers(9, CONNECT)) is ErrorCode.PROTOCOL_ERROR

    answerer = Handmade.answerer()
    assert fails(answerer, answerer.headers(2, fields)) is ErrorCode.PROTOCOL_ERROR

    answerer = Handmade.answerer()
    answerer.receive(answerer.headers(3, fields))
    assert fails(answerer, answerer.headers(1, fields)) is ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("more", [[], [(b"x", b"y")]])
def test_an_answer_is_one_however_it_is_read(more: list[tuple[bytes, bytes]]) -> None:
    """The second block of a stream, and one behind its end, are what they are."""
    opener = Handmade.opener()
    answer = [(b":status", b"200"), *more]
    stream = opener.connection.open_stream(opener.session, "target", 80)
    opener.receive(opener.headers(stream.stream_id, answer))
    assert stream.state is State.OPEN
    assert fails(opener, opener.headers(stream.stream_id, answer)) is ErrorCode.PROTOCOL_ERROR

    opener = Handmade.opener()
    stream = opener.connection.open_stream(opener.session, "target", 80)
    opener.receive(opener.headers(stream.stream_id, answer), data(stream.stream_id, end=True))
    assert stream.incoming.end == 0
    assert fails(opener, opener.headers(stream.stream_id, answer)) is ErrorCode.STREAM_CLOSED


def test_an_answer_behind_the_end_of_its_stream_is_refused_however_plain() -> None:
    plane = ControlPlane(client=True, limits=DEFAULT_LIMITS)
    plane.initiate_connection()
    plane.send_headers(1, [(b":method", b"CONNECT"), (b":authority", b"target:80")])
    plane.streams[1].state_machine.process_input(StreamInputs.RECV_END_STREAM)
    block = Encoder().encode([(b":status", b"200")])
    frame = frames.frame_header(len(block), frames.HEADERS, frames.FLAG_END_HEADERS, 1) + block
    with pytest.raises(ProtocolError):
        plane.receive_headers(memoryview(frame), frames.FLAG_END_HEADERS, 1)
