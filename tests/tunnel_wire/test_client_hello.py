"""Connections that many requests share are known by their ClientHello."""

from __future__ import annotations

import ssl

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
