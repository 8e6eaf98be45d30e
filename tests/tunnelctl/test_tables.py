"""Columns, sizes, spans."""

import datetime

import pytest

from tunnelctl.tables import ago, iso, show, size, span, table


def test_columns_are_aligned_and_quantities_to_the_right() -> None:
    assert table(("NAME", "N", "ADDRESS"), [("a", 5, "10.0.0.1"), ("long-name", None, "10.0.0.22")]) == [
        "NAME       N  ADDRESS",
        "a          5  10.0.0.1",
        "long-name  -  10.0.0.22",
    ]


def test_nothing_steers_a_terminal() -> None:
    assert show("a\x1b[2J\r\nb\u202e") == "a?[2J??b?"
    assert show("") == show(None) == "-"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (20 * 2**20, "20 MiB"), (2**50, "1024.0 TiB")],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (59.9, "59s"), (60, "1m"), (7500, "2h 5m"), (90_000, "1d 1h")],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_times_for_programs() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    assert iso(datetime.datetime(2026, 11, 21, 9, 5, 7, 999_999, tzinfo=zone)) == "2026-11-21T07:05:07Z"


def test_ago() -> None:
    now = datetime.datetime(2026, 11, 21, 9, tzinfo=datetime.UTC)
    assert ago("2026-11-21T08:00:00Z", now) == "1h 0m"
    assert ago(None) == "-"
