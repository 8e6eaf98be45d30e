"""Ports and nodes as they are typed."""

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnelctl.ports import Forward, node_argument, port_argument


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
