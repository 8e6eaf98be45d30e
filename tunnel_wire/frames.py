"""HTTP/2 frames as bytes: types, flags, and the 9-byte header (RFC 9113, 4.1 and 6)."""

import struct
from enum import IntEnum
from typing import Final

HEADER_SIZE: Final = 9
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DEFAULT_WINDOW: Final = 65_535
"""Flow-control window of a connection, and of a stream before SETTINGS (RFC 9113, 6.9.2)."""
DEFAULT_MAX_FRAME: Final = 16_384
MAX_WINDOW: Final = 2**31 - 1
MAX_STREAM_ID: Final = 2**31 - 1

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

FLAG_ACK: Final = 0x1
FLAG_END_STREAM: Final = 0x1
FLAG_END_HEADERS: Final = 0x4
FLAG_PADDED: Final = 0x8

# The length and the type are one number here: 24 and 8 bits of it.
_HEADER: Final = struct.Struct(">LBL")
_WINDOW_UPDATE: Final = struct.Struct(">LBLL")
_PING: Final = struct.Struct(">LBL8s")


class ErrorCode(IntEnum):
    """RFC 9113, 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB


class Violation(Exception):
    """The peer broke a rule of HTTP/2, or a bound of ours, that costs it the connection."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def frame_header(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """The header of a frame whose payload has `length` bytes."""
    return _HEADER.pack(length << 8 | kind, flags, stream_id)


def window_update(stream_id: int, increment: int) -> bytes:
    """A whole WINDOW_UPDATE frame."""
    return _WINDOW_UPDATE.pack(4 << 8 | WINDOW_UPDATE, 0, stream_id, increment)


def ping(payload: bytes, *, ack: bool = False) -> bytes:
    """A whole PING frame; `payload` has 8 bytes."""
    return _PING.pack(8 << 8 | PING, FLAG_ACK if ack else 0, 0, payload)


def parse_header(data: bytes | bytearray | memoryview, at: int = 0) -> tuple[int, int, int, int]:
    """Length, type, flags and stream id of the frame header that starts at `at`."""
    first: int
    flags: int
    stream_id: int
    first, flags, stream_id = _HEADER.unpack_from(data, at)
    return first >> 8, first & 0xFF, flags, stream_id & 0x7FFFFFFF


def error_name(code: int) -> str:
    """The code's name, or the number of one that this version does not know."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return str(code)
