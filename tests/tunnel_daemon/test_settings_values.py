"""Single values."""

from __future__ import annotations

import contextlib
import re
from ipaddress import IPv4Address, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel_daemon.settings_values import (
    Address,
    Network,
    convert,
    describe,
    from_text,
    nearest,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("kind", "unit", "value", "result"),
    [
        (int, "", 5, 5),
        (float, "", 5, 5.0),
        (str, "", "x", "x"),
        (bool, "", True, True),
        (float, "seconds", 90, 90.0),
        (float, "seconds", "1h30m", 5400.0),
        (float, "seconds", "250ms", 0.25),
        (int, "bytes", "64KiB", 65536),
        (int, "bytes", "1 MB", 1_000_000),
        (int, "bytes", 7, 7),
        (Path, "", "/var/lib", Path("/var/lib")),
        (Network, "", "10.0.0.0/8", ip_network("10.0.0.0/8")),
        (Network | None, "", "", None),
        (Network | None, "", "fc00::/7", IPv6Network("fc00::/7")),
        (Address, "", "192.0.2.1", IPv4Address("192.0.2.1")),
        (tuple[int, ...], "", [1, 2], (1, 2)),
        (tuple[str, ...], "", "alone", ("alone",)),
        (str | None, "", "x", "x"),
        (tuple[str, ...] | None, "", [], ()),
        (tuple[str, ...] | None, "", "", ("",)),
        (Literal["a", "b"], "", "b", "b"),
    ],
)
def test_accepted(kind: Any, unit: str, value: object, result: object) -> None:
    converted = convert(kind, unit, value)
    assert converted == result
    assert type(converted) is type(result)


@pytest.mark.parametrize(
    ("kind", "unit", "value", "message"),
    [
        (int, "", "10262", 'expected an integer, not the string "10262"'),
        (int, "", True, "expected an integer, not true"),
        (int, "", 1.0, "expected an integer, not the number 1.0"),
        (bool, "", 1, "expected true or false, not the number 1"),
        (bool, "", "true", 'expected true or false, not the string "true"'),
        (str, "", 5, "expected a string, not the number 5"),
        (float, "", float("nan"), "expected a finite number, not nan"),
        (float, "seconds", float("inf"), "expected a finite number, not inf"),
        (float, "seconds", "-5s", 'expected a duration, in seconds or like "90s"'),
        (float, "seconds", "5 parsecs", "expected a duration"),
        (int, "bytes", "16mib", 'expected a size, in bytes or like "64KiB", "16MiB", not the string "16mib"'),
        (int, "bytes", 1.5, "expected a size"),
        (Path, "", "", "expected a path, not an empty string"),
        (Path, "", "a\0b", "a path can't hold a NUL"),
        (Network, "", "192.168.2.143/24", 'has host bits set; the network is "192.168.2.0/24"'),
        (Network, "", "edge", 'expected a network like "10.0.0.0/8", not the string "edge"'),
        (Network, "", 10, 'expected a network like "10.0.0.0/8", not the number 10'),
        (Address, "", "300.1.1.1", "expected an IP address"),
        (Address, "", "fe80::1%eth0", "has a zone"),
        (tuple[int, ...], "", [1, "x"], 'expected an integer, not the string "x"'),
        (tuple[int, ...], "", {"a": 1}, "expected an integer, not a table"),
        (Literal["text", "json"], "", "jsno", 'did you mean "json"?'),
        (Literal["text", "json"], "", 3, 'expected one of "text", "json", not the number 3'),
        (str | None, "", 3, 'expected a string, or "" for none'),
    ],
)
def test_refused(kind: Any, unit: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        convert(kind, unit, value)


@pytest.mark.parametrize(
    ("kind", "text", "raw"),
    [
        (int, "5", 5),
        (int, "x", "x"),
        (bool, "true", True),
        (bool, "yes", "yes"),
        (float, "1.5", 1.5),
        (float, "90s", "90s"),
        (str, "5", "5"),
        (tuple[int, ...], "1, 2,", [1, 2]),
        (tuple[str, ...], "", []),
    ],
)
def test_text_of_the_command_line(kind: Any, text: str, raw: object) -> None:
    assert from_text(kind, text) == raw


@given(st.text())
def test_durations_and_sizes_raise_nothing_but_value_errors(text: str) -> None:
    for parse in (parse_duration, parse_size):
        with contextlib.suppress(ValueError):
            assert parse(text) >= 0


def test_descriptions_are_short_and_printable() -> None:
    assert describe("a\nb\x1b") == 'the string "a\\nb\\x1b"'
    assert len(describe("x" * 1000)) < 90


def test_nearest_sees_through_underscores_and_case() -> None:
    assert nearest("LOG_LEVEL", ["log-level", "log-format"]) == "log-level"
    assert nearest("zzz", ["log-level"]) is None
