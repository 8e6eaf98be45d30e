"""Bytes become frames however they are cut, and sizes are checked before they cost memory."""

from __future__ import annotations

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
)

from tests.tunnel_wire.handmade import (
    CONNECT,
    Handmade,
    Sent,
    data,
    fails,
    raw,
)
from tunnel_wire import frames
from tunnel_wire.answerer import AnswererConnection
from tunnel_wire.connection import ConnectionFailed
from tunnel_wire.events import (
    DataReceived,
    EndReceived,
    StreamRequested,
)
from tunnel_wire.flow import Budget
from tunnel_wire.frames import ErrorCode
from tunnel_wire.hello import Hello
from tunnel_wire.session import Session


def test_data_inside_a_header_block(answerer: Handmade) -> None:
    answerer.accepted()
    begun = HeadersFrame(3, data=answerer.encoder.encode(CONNECT))
    assert fails(answerer, begun, data(1, b"x")) is ErrorCode.PROTOCOL_ERROR


def test_padding(answerer: Handmade) -> None:
    stream = answerer.accepted()
    frame = DataFrame(1, b"payload", flags=["PADDED"], pad_length=200)
    whole = frame.serialize()
    for byte in whole:
        answerer.receive(bytes([byte]))
    got = b"".join(bytes(event.data) for event in answerer.events if isinstance(event, DataReceived))
    assert got == b"payload"
    assert stream.incoming.received == 7
    # Padding takes part in flow control, and no consumer gives its credit back.
    assert Sent(frames.WINDOW_UPDATE, 0, 1, (201).to_bytes(4, "big")) in answerer.take()


def test_padding_only(answerer: Handmade) -> None:
    stream = answerer.accepted()
    answerer.receive(raw(frames.DATA, frames.FLAG_PADDED | frames.FLAG_END_STREAM, 1, b"\0"))
    assert answerer.events[-1] == EndReceived(stream)
    assert stream.incoming.end == 0


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", ErrorCode.FRAME_SIZE_ERROR),
        (b"\1", ErrorCode.PROTOCOL_ERROR),
        (b"\5four", ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_padding_that_does_not_fit(answerer: Handmade, payload: bytes, code: ErrorCode) -> None:
    answerer.accepted()
    assert fails(answerer, raw(frames.DATA, frames.FLAG_PADDED, 1, payload)) is code


def test_a_frame_too_long_is_refused_at_its_header(answerer: Handmade) -> None:
    answerer.accepted()
    assert fails(answerer, frames.frame_header(2**24 - 1, frames.DATA, 0, 1)) is ErrorCode.FRAME_SIZE_ERROR


def test_a_control_frame_as_long_as_allowed(answerer: Handmade) -> None:
    whole = raw(0x77, 0, 0, bytes(16_384))
    for cut in (1, 9, 10, 16_392):
        assert answerer.receive(whole[:cut]) == []
        assert answerer.receive(whole[cut:], raw(frames.PING, 0, 0, b"go on...")) == []
        assert [frame.kind for frame in answerer.take()] == [frames.PING]


def test_a_header_block_in_pieces(answerer: Handmade) -> None:
    block = answerer.encoder.encode(CONNECT)
    pieces = [
        HeadersFrame(1, data=block[:3]),
        ContinuationFrame(1, data=block[3:5]),
        ContinuationFrame(1, data=block[5:], flags=["END_HEADERS"]),
    ]
    for byte in b"".join(piece.serialize() for piece in pieces):
        answerer.receive(bytes([byte]))
    assert [type(event) for event in answerer.events] == [StreamRequested]


@pytest.mark.parametrize(
    "intruder", [PingFrame(0, b"12345678"), HeadersFrame(3), ContinuationFrame(3), raw(0x77, 0, 1)]
)
def test_a_header_block_that_is_interrupted(answerer: Handmade, intruder: Frame | bytes) -> None:
    assert fails(answerer, HeadersFrame(1, data=b"\x82"), intruder) is ErrorCode.PROTOCOL_ERROR


def test_continuation_of_nothing(answerer: Handmade) -> None:
    assert fails(answerer, ContinuationFrame(1, data=b"")) is ErrorCode.PROTOCOL_ERROR


def test_floods_of_continuations(answerer: Handmade) -> None:
    empty = ContinuationFrame(1).serialize()
    assert fails(answerer, HeadersFrame(1, data=b""), empty * 100) is ErrorCode.PROTOCOL_ERROR
    peer = Handmade.answerer()
    piece = ContinuationFrame(1, data=bytes(16_000)).serialize()
    peer.receive(HeadersFrame(1, data=b""), piece * 4)
    # Refused at its header: that of the frame which passes 64 KiB.
    assert fails(peer, piece[:9]) is ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("kind", [frames.HEADERS, frames.SETTINGS, frames.GOAWAY, 0x77])
def test_a_control_frame_too_long_is_refused_at_its_header(answerer: Handmade, kind: int) -> None:
    header = frames.frame_header(16_385, kind, 0, 1 if kind == frames.HEADERS else 0)
    for byte in header[:-1]:
        answerer.receive(bytes([byte]))
    assert fails(answerer, header[-1:]) is ErrorCode.FRAME_SIZE_ERROR


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (raw(frames.PING, 0, 0, b"short"), ErrorCode.FRAME_SIZE_ERROR),
        (raw(frames.PING, 0, 1, b"12345678"), ErrorCode.PROTOCOL_ERROR),
        (raw(frames.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
        (raw(frames.SETTINGS, 0, 0, b"odd"), ErrorCode.FRAME_SIZE_ERROR),
        (raw(frames.GOAWAY, 0, 0, b"short"), ErrorCode.FRAME_SIZE_ERROR),
        (raw(frames.GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (raw(frames.HEADERS, frames.FLAG_END_HEADERS, 0, b"\x82"), ErrorCode.PROTOCOL_ERROR),
        (raw(frames.HEADERS, frames.FLAG_END_HEADERS, 1, b"\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
        (
            raw(frames.HEADERS, frames.FLAG_END_HEADERS | frames.FLAG_PADDED, 1, b"\x09"),
            ErrorCode.PROTOCOL_ERROR,
        ),
    ],
)
def test_malformed_frames(answerer: Handmade, frame: bytes, code: ErrorCode) -> None:
    assert fails(answerer, frame) is code


def test_what_is_not_http2_is_refused() -> None:
    connection = AnswererConnection(Session(budget=Budget(1)), Hello("1"), now=0)
    connection.receive(memoryview(b"PRI * HTTP/2"), 0)
    with pytest.raises(ConnectionFailed, match="not HTTP/2"):
        connection.receive(memoryview(b".1\r\n"), 0)
