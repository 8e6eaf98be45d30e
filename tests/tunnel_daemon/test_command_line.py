"""Command lines that need no argument parser come to what it makes of them, and others are left to it."""

import argparse
from pathlib import Path

import pytest

from tests.tunnel_daemon.test_settings_flags import Config
from tunnel_daemon.command_line import plain_flags
from tunnel_daemon.settings_flags import add_setting_flags


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--tunnel-port", "1"],
        ["--tunnel-port=1", "--networks", "a,b"],
        ["--networks=a=b", "--config", "x.toml"],
        ["--networks", "a b", "--config=/x y"],
        ["--networks", "=", "--tunnel-port", "x"],
    ],
)
def test_plain_ones_are_read_as_an_argument_parser_reads_them(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    add_setting_flags(parser, Config, Path("/nowhere"))
    parsed = {key: str(value) for key, value in vars(parser.parse_args(words)).items() if value is not None}
    assert plain_flags(words, Config) == parsed


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["-v", "4"],
        ["fly"],
        ["--tunnel-port"],
        ["--tunnel-port="],
        ["--tunnel-port", ""],
        ["--tunnel-port", "-1"],
        ["--tunnel-port", "--networks", "a"],
        ["--tunnel-port", "1", "2"],
        ["--tunnel-port", "1", "--tunnel-port", "2"],
        ["--tunnel-prot", "1"],
        ["--tunnel", "1"],
        ["tunnel-port", "1"],
        ["--proxy", "x"],
        ["--deep", "x"],
        ["--", "--tunnel-port", "1"],
    ],
)
def test_what_is_not_plain_is_left_to_one(words: list[str]) -> None:
    assert plain_flags(words, Config) is None


def test_a_program_has_flags_of_its_own() -> None:
    assert plain_flags(["--server", "a", "--networks=b"], Config, others=["server"]) == {
        "server": "a",
        "networks": "b",
    }
