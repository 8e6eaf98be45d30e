"""What is wrong with bytes that are no HTTP/1.1, in words for whoever sent them."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import h11

NO_HTTP_2 = "HTTP/2 is not spoken here: use HTTP/1.1"

_SHOWN = 80
"""Bytes of an offending line that are shown."""

# What h11 0.16 says, by its beginning. `{}` stands for the offending line.
_WORDS = (
    ("illegal request line: ", "{} is no request line: METHOD TARGET HTTP/1.1, what is not ASCII as %XX"),
    ("illegal request line", "it does not begin with a request line: METHOD TARGET HTTP/1.1"),
    ("no request line received", "it does not begin with a request line: METHOD TARGET HTTP/1.1"),
    ("illegal status line: ", "{} is no status line"),
    ("illegal header line: ", "{} is no header: NAME: VALUE, with no space before the colon"),
    ("continuation line at start", "its first header begins with a space"),
    ("Missing mandatory Host", "it has no Host"),
    ("Found multiple Host", "it has more than one Host"),
    ("Illegal target characters", "its target has characters that are written %XX"),
    ("bad Content-Length", "its Content-Length is no number of bytes"),
    ("conflicting Content-Length", "it has several Content-Length headers that differ"),
    ("multiple Transfer-Encoding", "it has more than one Transfer-Encoding"),
    ("Only Transfer-Encoding: chunked", "its Transfer-Encoding is another than chunked"),
    ("illegal chunk header: ", "a chunk of its body begins with {}, not with its length in hexadecimal"),
    ("malformed chunk footer", "a chunk of its body does not end where its length says"),
    ("Receive buffer too long", "its head is too long"),
    ("peer unexpectedly closed", "the connection ended in its midst"),
    ("peer closed connection", "the connection ended in its midst"),
)


def what_is_malformed(error: h11.RemoteProtocolError) -> str:
    """Say what h11 found, without its internals. Offending bytes are shown quoted and shortened."""
    text = str(error)
    for beginning, words in _WORDS:
        if text.startswith(beginning):
            return words.format(_quoted(text.removeprefix(beginning)))
    return "it is no HTTP/1.1"


def _quoted(representation: str) -> str:
    """Of `bytearray(b'...')`, the line."""
    try:
        line = ast.literal_eval(representation.removeprefix("bytearray(").removesuffix(")"))
    except (ValueError, SyntaxError):
        return "what came"
    shown = repr(bytes(line[:_SHOWN]))[1:]
    return shown if len(line) <= _SHOWN else f"{shown[:-1]}...{shown[-1]}"
