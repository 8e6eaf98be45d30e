"""Addresses with ports: read and written alike, or refused in words that show the form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel_server.endpoints import FixedListener, ServerAddress


@given(
    st.text(max_size=60) | st.from_regex(r"[\[\]0-9.:a-f]{0,12}:\d{0,6}=[a-z-]{0,5}:\d{0,6}", fullmatch=True)
)
def test_a_fixed_listener_is_read_and_written_alike_or_refused(text: str) -> None:
    try:
        listener = FixedListener.parse(text)
    except ValueError as error:
        assert FixedListener.FORM in str(error)  # noqa: PT017 - either outcome is right
        return
    assert FixedListener.parse(str(listener)) == listener
    assert 0 < listener.port < 65536


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("tunnel.example.org", "tunnel.example.org:10262"),
        ("203.0.113.10:443", "203.0.113.10:443"),
        ("[2001:db8::1]", "[2001:db8::1]:10262"),
    ],
)
def test_where_agents_dial(text: str, written: str) -> None:
    assert str(ServerAddress.parse(text)) == written


@pytest.mark.parametrize("text", ["https://tunnel.example.org:10262", "a b", "a:0", "::1:2:x", ""])
def test_what_is_no_place_to_dial_is_told_the_form(text: str) -> None:
    with pytest.raises(ValueError, match='; the form is "HOST:PORT", like'):
        ServerAddress.parse(text)
