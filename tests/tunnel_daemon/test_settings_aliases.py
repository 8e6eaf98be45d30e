"""Flags of another program: taken over, passed over with a word, or refused with the remedy."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import pytest

from tunnel_daemon.command_line import settings_from_flags
from tunnel_daemon.settings import SettingsError, setting
from tunnel_daemon.settings_aliases import Alias, Aliased, add_alias_flags, read_aliases
from tunnel_daemon.settings_flags import add_setting_flags

ALIASES = (
    Alias("connect-port", key="tunnel-port"),
    Alias("agent-port", key="tunnel-port"),
    Alias("v", short="v", key="log-level", translate=lambda value: "debug" if value == "9" else "info"),
    Alias("enable-rules", key="intercept", bare="true"),
    Alias("period", unused="nothing is polled, not 100% of it"),
    Alias("count", refused="there is one: set it to 1", harmless=("1",)),
    Alias("dns", refused="there is none: leave it out", harmless=("false",), bare="true"),
    Alias("name", checked="the certificate says it"),
)


@dataclass(frozen=True, kw_only=True)
class Config:
    tunnel_port: int = setting(1, doc="Port.")
    intercept: bool = setting(False, doc="Rules.")
    log_level: str = setting("info", doc="Level.")


def parse(*argv: str) -> tuple[Config, Aliased]:
    parser = argparse.ArgumentParser("prog")
    add_setting_flags(parser, Config, Path("/nowhere"))
    add_alias_flags(parser, "flags of another", ALIASES)
    assert "flags of another" in parser.format_help()
    arguments = parser.parse_args(argv)
    aliased = read_aliases(arguments, ALIASES)
    return settings_from_flags(arguments, Config, Path("/nowhere"), aliased), aliased


@pytest.mark.parametrize(
    ("argv", "config"),
    [
        ([], Config()),
        (["--connect-port", "5"], Config(tunnel_port=5)),
        (["--connect-port=5", "--log-level", "error"], Config(tunnel_port=5, log_level="error")),
        (["--v=9"], Config(log_level="debug")),
        (["-v", "9"], Config(log_level="debug")),
        (["-v=2"], Config()),
        (["--enable-rules"], Config(intercept=True)),
        (["--enable-rules=false"], Config()),
        (["--count", "1", "--dns=false"], Config()),
    ],
)
def test_what_means_the_same_is_taken_over_without_a_word(argv: list[str], config: Config) -> None:
    found, aliased = parse(*argv)
    assert found == config
    assert aliased.warnings == []


def test_what_means_nothing_here_is_one_warning_that_says_why() -> None:
    assert parse("--period", "60")[1].warnings == ["--period is not used: nothing is polled, not 100% of it"]


def test_what_the_program_looks_at_itself() -> None:
    assert parse("--name", "edge-1")[1].checked == {"name": "edge-1"}


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--count", "2"], "--count 2: there is one: set it to 1"),
        (["--dns"], "--dns true: there is none: leave it out"),
        (["--connect-port", "x"], "--connect-port: expected an integer, not the string"),
        (
            ["--connect-port", "1", "--tunnel-port", "1"],
            "--connect-port: means the same as --tunnel-port; give one",
        ),
        (
            ["--connect-port", "1", "--agent-port", "1"],
            "--agent-port: means the same as --connect-port; give one",
        ),
    ],
)
def test_refusals_name_the_flag_that_was_written(argv: list[str], problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(*argv)
    (found,) = caught.value.problems
    assert found.startswith(problem)


def test_every_refusal_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        parse("--count", "2", "--dns")
    assert len(caught.value.problems) == 2
