"""Connections that many requests share are known by their ClientHello."""

from __future__ import annotations

import ssl
import time

import pytest

from tunnel_wire.client_hello import MAX_HELLO, Http2Offer


def hello(*protocols: str) -> bytes:
    """What a TLS client says first."""
    context = ssl.create_default_context()
    if protocols:
        context.set_alpn_protocols(list(protocols))
    out = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="edge-1")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


@pytest.mark.parametrize(
    ("protocols", "pooled"),
    [
        ((), False),
        (("http/1.1",), False),
        (("h2",), True),
        (("http/1.1", "h2"), True),
        (("h2c", "h3"), False),
    ],
)
def test_what_is_offered(protocols: tuple[str, ...], pooled: bool) -> None:
    assert Http2Offer()(hello(*protocols)) is pooled


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_hello_in_pieces(size: int) -> None:
    whole, offer = hello("h2"), Http2Offer()
    answers = [offer(whole[at : at + size]) for at in range(0, len(whole), size)]
    assert answers[-1] is True
    assert set(answers[:-1]) == {None}


def test_anything_else_offers_nothing() -> None:
    assert Http2Offer()(b"GET / HTTP/1.1\r\n\r\n") is False
    endless = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc"
    assert Http2Offer()(endless) is None
    assert Http2Offer()(endless + bytes(MAX_HELLO)) is False


def test_a_byte_at_a_time_in_records_of_one_costs_hardly_more() -> None:
    """Each byte is read once. Reading all of them again for each takes half a minute."""
    body = b"\x01" + (16_000).to_bytes(3) + bytes(MAX_HELLO)
    wire = b"".join(b"\x16\x03\x01\x00\x01%c" % byte for byte in body)[:MAX_HELLO]
    offer, began = Http2Offer(), time.process_time()
    for at in range(MAX_HELLO - 1):
        assert offer(wire[at : at + 1]) is None
        assert time.process_time() - began < 2
    assert offer(wire[-1:]) is False


@pytest.mark.parametrize("segment", [600, 900, 1400])
def test_one_with_a_post_quantum_key_in_a_few_segments(segment: int) -> None:
    """As browsers send it: 1.8 KiB, with values that mean nothing (RFC 8701) among the others.

    OpenSSL 3.5 and newer send such a key of themselves: then there are two, and 3 KiB.
    """
    grease = b"\x4a\x4a\x00\x00"
    key = b"\x00\x33" + (1220).to_bytes(2) + bytes(1220)
    whole = bytearray(hello("h2", "http/1.1"))
    size = int.from_bytes(whole[6:9])
    at = 9 + 2 + 32
    at += 1 + whole[at]
    at += 2 + int.from_bytes(whole[at : at + 2])
    at += 1 + whole[at]
    listed = grease + key + bytes(whole[at + 2 :])
    body = bytes(whole[9:at]) + len(listed).to_bytes(2) + listed
    assert len(body) > size
    message = b"\x01" + len(body).to_bytes(3) + body
    wire = b"\x16\x03\x01" + len(message).to_bytes(2) + message
    offer = Http2Offer()
    answers = [offer(wire[start : start + segment]) for start in range(0, len(wire), segment)]
    assert 2 <= len(answers) <= 5
    assert answers == [None] * (len(answers) - 1) + [True]
