"""Malformed requests: everything that h11 says has words of ours, and shows nothing of h11's own."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel_daemon.malformed import what_is_malformed

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"


def problem(data: bytes, *, end: bool = False) -> str | None:
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=100)
    parser.receive_data(data)
    if end:
        parser.receive_data(b"")
    try:
        while not isinstance(
            parser.next_event(), type(h11.NEED_DATA) | h11.EndOfMessage | h11.ConnectionClosed
        ):
            pass
    except h11.RemoteProtocolError as error:
        return what_is_malformed(error)
    return None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET / HTTP/1.1\r\nHost : edge-1\r\n\r\n", "'Host : edge-1' is no header: NAME: VALUE"),
        (b"GET /\xc3\xa9 HTTP/1.1\r\n\r\n", r"'GET /\xc3\xa9 HTTP/1.1' is no request line"),
        (b"GET /" + b"a" * 75 + b" 1\r\n\r\n", f"'GET /{'a' * 75}...' is no request line"),
        (b'it\'s "so"\r\n\r\n', "is no request line"),
        (b"\x16\x03\x01\x02\x00", "does not begin with a request line"),
        (b"\r\n\r\n", "does not begin with a request line"),
        (b"GET / HTTP/1.1\r\n X: y\r\n\r\n", "its first header begins with a space"),
        (b"GET / HTTP/1.1\r\n\r\n", "it has no Host"),
        (HEAD + b"Host: y\r\n\r\n", "more than one Host"),
        (HEAD + b"Content-Length: x\r\n\r\n", "its Content-Length is no number"),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", "that differ"),
        (
            HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "more than one Transfer-",
        ),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\n", "another than chunked"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "begins with 'zz\\r\\n', not with its length"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", "does not end where its length says"),
        (HEAD + b"X: " + b"x" * 200, "its head is too long"),
    ],
)
def test_each_has_words_of_its_own(data: bytes, words: str) -> None:
    told = problem(data)
    assert told is not None
    assert words in told
    assert "bytearray" not in told


@pytest.mark.parametrize("data", [HEAD, HEAD + b"Content-Length: 2\r\n\r\na"])
def test_an_early_end(data: bytes) -> None:
    assert problem(data, end=True) == "the connection ended in its midst"


def test_an_edges_answer_and_whatever_else_h11_may_say() -> None:
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    parser.receive_data(b"SSH-2.0-x\r\n\r\n")
    with pytest.raises(h11.RemoteProtocolError) as caught:
        parser.next_event()
    assert what_is_malformed(caught.value) == "'SSH-2.0-x' is no status line"
    assert what_is_malformed(h11.RemoteProtocolError("bytearray(b'x')")) == "it is no HTTP/1.1"


@given(st.binary(max_size=60), st.booleans())
def test_no_bytes_are_beyond_words(data: bytes, head: bool) -> None:
    told = problem((HEAD if head else b"") + data + b"\r\n\r\n", end=True)
    assert told is None or (told and "bytearray" not in told and told.isprintable())
