"""Our header blocks against hpack's own codec: whatever is said before, and however the table is resized."""

from __future__ import annotations

import hpack
import pytest
from hpack.exceptions import HPACKDecodingError, OversizedHeaderListError
from hypothesis import given, settings
from hypothesis import strategies as st

from tunnel_wire.header_codec import HeaderDecoder, HeaderEncoder

_names = st.sampled_from([b":method", b":status", b"tunnel-key", b"tunnel-state", b"x"])
_values = st.sampled_from(
    [b"CONNECT", b"200", b"", b"0", b"opening", b"v" * 60, b"w" * 300, bytes(range(256))]
)
_fields = st.one_of(
    st.tuples(_names, _values),
    st.builds(hpack.HeaderTuple, _names, _values),
    st.builds(hpack.NeverIndexedHeaderTuple, _names, _values),
)
_steps = st.lists(st.one_of(st.lists(_fields, max_size=12), st.sampled_from([0, 64, 200, 4096])), max_size=30)


@settings(max_examples=50)
@given(_steps)
def test_what_is_encoded_here_is_decoded_by_hpack(steps: list[list[tuple[bytes, bytes]] | int]) -> None:
    ours, theirs = HeaderEncoder(), hpack.Decoder()
    for step in steps:
        if isinstance(step, int):
            ours.header_table_size = step
        else:
            decoded = theirs.decode(ours.encode(step), raw=True)
            assert decoded == step
            assert [field.indexable for field in decoded] == [
                getattr(field, "indexable", True) for field in step
            ]
            assert theirs.header_table.dynamic_entries == ours.header_table.dynamic_entries


@settings(max_examples=50)
@given(_steps, st.booleans())
def test_what_hpack_encodes_is_decoded_here(
    steps: list[list[tuple[bytes, bytes]] | int], huffman: bool
) -> None:
    theirs, ours = hpack.Encoder(), HeaderDecoder()
    for step in steps:
        if isinstance(step, int):
            if step != theirs.header_table_size:  # hpack forgets a change that is followed by none
                theirs.header_table_size = step
        else:
            decoded = ours.decode(theirs.encode(step, huffman), raw=True)
            assert decoded == step
            assert all(type(name) is type(value) is bytes for name, value in decoded)
            assert ours.header_table.dynamic_entries == theirs.header_table.dynamic_entries


@given(
    st.lists(
        st.lists(
            st.sampled_from(
                [0x80, 0x81, 0x82, 0xBD, 0xBE, 0xC0, 0xFF, 0x3F, 0x21, 0x20, 0x41, 0, 1, 0x10, 0x7E, 0x7F]
            )
        ),
        max_size=5,
    )
)
def test_any_block_is_taken_or_refused_as_by_hpack(blocks: list[list[int]]) -> None:
    ours, theirs = HeaderDecoder(1000), hpack.Decoder(1000)
    for block in blocks:
        results: list[object] = []
        for decoder in (ours, theirs):
            try:
                results.append(decoder.decode(bytes(block), raw=True))
            except hpack.HPACKError as error:
                results.append(type(error))
        assert results[0] == results[1]
        if isinstance(results[0], type):
            return


def test_what_is_said_again_costs_a_byte_each() -> None:
    fields = [(b":method", b"CONNECT"), (b":authority", b"127.0.0.1:80"), (b"tunnel-state", b"opening")]
    key = hpack.NeverIndexedHeaderTuple(b"tunnel-key", b"0" * 16)
    encoder = HeaderEncoder()
    encoder.encode([*fields, key])
    assert len(encoder.encode(fields)) == 3
    assert key not in encoder.header_table.dynamic_entries


def test_what_is_said_again_is_said_in_full_once_the_peer_has_no_table() -> None:
    field = (b"tunnel-state", b"opening")
    encoder, decoder = HeaderEncoder(), hpack.Decoder()
    for _ in range(3):
        assert decoder.decode(encoder.encode([field]), raw=True) == [field]
    encoder.header_table_size = 0
    assert decoder.decode(encoder.encode([field]), raw=True) == [field]


def test_an_index_means_what_stands_there_now() -> None:
    encoder, decoder = HeaderEncoder(), HeaderDecoder()
    for value in (b"1", b"2", b"3"):
        assert decoder.decode(encoder.encode([(b"n", value)]), raw=True) == [(b"n", value)]
        for _ in range(2):
            assert decoder.decode(b"\xbe\x82", raw=True) == [(b"n", value), (b":method", b"GET")]


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 128])
def test_literals_of_any_length(length: int) -> None:
    for field in ((b"n" * length, b"v"), (b"n", b"v" * length), (b"n" * length, b"v" * length)):
        block = b"\x82" + HeaderEncoder().encode([hpack.NeverIndexedHeaderTuple(*field)])
        assert HeaderDecoder().decode(block, raw=True) == [(b":method", b"GET"), field]
        for cut in range(2, len(block)):
            with pytest.raises(HPACKDecodingError):
                HeaderDecoder().decode(block[:cut], raw=True)


def test_what_is_remembered_is_bounded() -> None:
    decoder = HeaderDecoder()
    for first in range(0x81, 0xBE):
        for block in (bytes([first]), bytes([first]) * 1000):
            assert len(decoder.decode(block, raw=True)) == len(block)
    assert len(decoder._known) <= 32
    assert max(map(len, decoder._known)) <= 16


def test_a_size_update_behind_a_field() -> None:
    with pytest.raises(HPACKDecodingError, match="behind a field"):
        HeaderDecoder().decode(b"\x82\x20", raw=True)


def test_a_block_that_grows() -> None:
    encoder, decoder = HeaderEncoder(), HeaderDecoder(10_000)
    decoder.decode(encoder.encode([(b"name", b"v" * 4000)]), raw=True)
    for block in (b"\xbe" * 3, b"\xbe" * 2 + b"\x00\x01n\x7f\xe1\x0f" + b"v" * 2144):
        for _ in range(2):
            with pytest.raises(OversizedHeaderListError):
                decoder.decode(block, raw=True)
