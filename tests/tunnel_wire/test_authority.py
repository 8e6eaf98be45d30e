"""`:authority` of a CONNECT, written and read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel_wire.authority import read_authority, write_authority


@pytest.mark.parametrize(
    ("host", "port", "value"),
    [
        ("192.168.2.143", 9081, b"192.168.2.143:9081"),
        ("fe80::1%eth0", 1, b"[fe80::1%eth0]:1"),
        ("edge_1.local", 65535, b"edge_1.local:65535"),
    ],
)
def test_it_reads_as_it_was_written(host: str, port: int, value: bytes) -> None:
    assert write_authority(host, port) == value
    assert read_authority(value) == (host, port)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b":80",
        b"host",
        b"host:",
        b"host:0",
        b"host:65536",
        b"host:+80",
        b"host:8 0",
        b"host:\xb2",
        b"::1:80",
        b"a:b:80",
        b"user@host:80",
        b"host/path:80",
        b"ho st:80",
        b"ho\x7fst:80",
        b"[::1:80",
        b"[]:80",
        b"h" * 256 + b":80",
        "b\u00fccher:80".encode(),
    ],
)
def test_what_is_no_authority(value: bytes) -> None:
    assert read_authority(value) is None


@pytest.mark.parametrize(
    ("host", "port"),
    [("", 80), ("a b", 80), ("a\r\nb", 80), ("b\u00fccher", 80), ("h", 0), ("h", 70_000), ("[a]", 1)],
)
def test_what_cannot_be_named_is_not_written(host: str, port: int) -> None:
    with pytest.raises(ValueError, match="host and a port"):
        write_authority(host, port)


@given(st.text(max_size=20) | st.text("a.:-[]@/%0 \t", max_size=8), st.integers(-1, 70_000))
def test_nothing_changes_on_the_way(host: str, port: int) -> None:
    try:
        value = write_authority(host, port)
    except ValueError:
        return
    assert read_authority(value) == (host, port)


names = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,60}[A-Za-z0-9.])?", fullmatch=True)


@given(names | st.ip_addresses().map(str), st.integers(1, 65535))
def test_names_and_addresses_travel(host: str, port: int) -> None:
    assert read_authority(write_authority(host, port)) == (host, port)


@given(st.binary(max_size=20) | st.text("a1.:[]@", max_size=10).map(str.encode))
def test_what_is_read_could_have_been_written(value: bytes) -> None:
    found = read_authority(value)
    if found is not None:
        assert read_authority(write_authority(*found)) == found
