"""A link's credit: a balance, which grows where a round trip needs it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel_wire.flow import CreditExceeded
from tunnel_wire.link_window import LinkWindow

KIB = 1024


def test_the_links_credit_goes_back_in_eighths() -> None:
    window = LinkWindow(80 * KIB, 800 * KIB, 0.0)
    assert window.take(10 * KIB - 1, 1.0, None) == 0
    assert window.take(1, 1.0, None) == 10 * KIB
    with pytest.raises(CreditExceeded, match="1 bytes beyond"):
        window.take(80 * KIB + 1, 1.0, None)


def test_the_links_window_grows_when_a_round_trip_needs_it() -> None:
    window = LinkWindow(100 * KIB, 500 * KIB, 0.0)
    for size in (200, 400, 400):
        now = 0.0
        for _ in range(4):
            # A whole window arrives in a round trip: more would, were more allowed.
            now += 0.025
            credit = window.take(window.size // 4, now, 0.1)
        assert window.size == size * KIB
        window = LinkWindow(window.size, 500 * KIB, 0.0)
    assert credit == 100 * KIB


def test_the_links_window_stays_when_reading_is_the_limit() -> None:
    window = LinkWindow(100 * KIB, 800 * KIB, 0.0)
    for count in range(1, 100):
        assert window.take(25 * KIB, count * 0.01, 0.001) == 25 * KIB
    assert window.size == 100 * KIB


@given(st.lists(st.tuples(st.integers(0, 100), st.floats(0, 0.2)), max_size=200))
def test_the_links_window_is_a_balance(frames: list[tuple[int, float]]) -> None:
    window, granted, admitted, now = LinkWindow(100, 1600, 0.0), 100, 0, 0.0
    for size, pause in frames:
        now += pause
        if admitted + size > granted:
            with pytest.raises(CreditExceeded):
                window.take(size, now, 0.05)
            continue
        admitted += size
        granted += window.take(size, now, 0.05)
        assert granted - admitted <= window.size <= 1600
        assert granted - admitted > window.size * 7 // 8 - 1
