"""Ports and nodes as they are typed."""

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelctl.ports import Forward, host_argument, node_argument, port_argument


@pytest.mark.parametrize(
    ("text", "local", "remote"),
    [("8888:80", 8888, 80), ("80", 80, 80), (":80", 0, 80), ("1:65535", 1, 65535)],
)
def test_a_forward(text: str, local: int, remote: int) -> None:
    assert Forward.parse(text) == Forward(local, remote)


@pytest.mark.parametrize("text", ["", ":", "80:", "0:80", "80:0", "80:80:80", "x", "65536", "-1", "٣", "8 0"])
def test_what_is_no_forward(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no LOCAL:REMOTE: write 8888:80"):
        Forward.parse(text)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        forward = Forward.parse(text)
    except argparse.ArgumentTypeError:
        return
    assert 0 <= forward.local < 65536
    assert 0 < forward.remote < 65536


def test_a_port_and_a_node() -> None:
    assert port_argument("22") == 22
    assert node_argument("edge-1.factory") == "edge-1.factory"
    with pytest.raises(argparse.ArgumentTypeError, match="is not a port"):
        port_argument("ssh")
    with pytest.raises(argparse.ArgumentTypeError, match="is not a name"):
        node_argument("Edge_1")


def test_a_host() -> None:
    for text in ("edge-1.factory", "10.42.1.7", "fd00:42::7"):
        assert host_argument(text) == text
    assert host_argument("FD00:42:0::7") == "fd00:42::7"
    for text in ("fd00::x", "::ffff:10.42.1.7", "fe80::1%lo"):
        with pytest.raises(argparse.ArgumentTypeError, match=r"is not an IP address|IPv4 in IPv6|has a zone"):
            host_argument(text)
    with pytest.raises(argparse.ArgumentTypeError, match="is not a name"):
        host_argument("Edge_1")
