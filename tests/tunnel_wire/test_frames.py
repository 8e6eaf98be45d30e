"""Frames as bytes, compared with another implementation."""

from hyperframe.frame import Frame, PingFrame, WindowUpdateFrame
from hypothesis import given
from hypothesis import strategies as st

from tunnel_wire import frames
from tunnel_wire.frames import ErrorCode, error_name

STREAM_IDS = st.integers(0, 2**31 - 1)


@given(st.integers(0, 2**24 - 1), st.integers(0, 255), st.integers(0, 255), STREAM_IDS, st.booleans())
def test_a_header_reads_as_it_was_written(
    length: int, kind: int, flags: int, stream_id: int, reserved: bool
) -> None:
    data = bytearray(frames.frame_header(length, kind, flags, stream_id))
    # The reserved bit is ignored (RFC 9113, 4.1).
    data[5] |= 0x80 * reserved
    assert frames.parse_header(b"..." + data, 3) == (length, kind, flags, stream_id)


@given(STREAM_IDS, st.integers(1, frames.MAX_WINDOW))
def test_window_update(stream_id: int, increment: int) -> None:
    assert frames.window_update(stream_id, increment) == WindowUpdateFrame(stream_id, increment).serialize()


def test_ping() -> None:
    assert frames.ping(b"12345678") == PingFrame(0, b"12345678").serialize()
    assert frames.ping(b"12345678", ack=True) == PingFrame(0, b"12345678", flags=["ACK"]).serialize()


def test_kinds_are_those_of_the_rfc() -> None:
    for name in ("DATA", "HEADERS", "RST_STREAM", "SETTINGS", "PING", "GOAWAY", "CONTINUATION"):
        header = frames.frame_header(
            0, getattr(frames, name), 0, int(name not in {"SETTINGS", "PING", "GOAWAY"})
        )
        parsed, _ = Frame.parse_frame_header(memoryview(header))
        assert type(parsed).__name__.upper() == name.replace("_", "") + "FRAME"


def test_error_names() -> None:
    assert error_name(ErrorCode.CANCEL) == "CANCEL"
    assert error_name(0xBEEF) == "48879"
