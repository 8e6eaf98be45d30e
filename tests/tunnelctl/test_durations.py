"""Spans of time as people write them."""

from datetime import timedelta

import pytest

from tunnelctl.durations import parse_duration


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("24h", timedelta(hours=24)),
        ("30m", timedelta(minutes=30)),
        ("7d", timedelta(days=7)),
        ("90s", timedelta(seconds=90)),
        ("1d2h3m4s", timedelta(days=1, hours=2, minutes=3, seconds=4)),
    ],
)
def test_durations(text, duration):
    assert parse_duration(text) == duration


@pytest.mark.parametrize("text", ["", "0h", "24", "h", "-1h", "1.5h", "1w", "1h1d", "24 h", "9999999d", "٣h"])
def test_not_durations(text):
    with pytest.raises(ValueError, match=r"duration|no time"):
        parse_duration(text)
