"""Flags for settings."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import pytest

from tunnel_daemon.command_line import settings_from_flags
from tunnel_daemon.settings import SettingsError, setting
from tunnel_daemon.settings_flags import OneLineParser, add_setting_flags


@dataclass(frozen=True, kw_only=True)
class Deep:
    x: int = setting(1, doc="X.")


@dataclass(frozen=True, kw_only=True)
class Config:
    tunnel_port: int = setting(10262, doc="Port, 100% of them.")
    networks: tuple[str, ...] = setting((), doc="Networks.")
    proxy: str = setting("", doc="Proxy.", secret=True)
    deep: Deep = setting(Deep(), doc="Bounds.")


def parse(default: Path, *argv: str) -> Config:
    parser = argparse.ArgumentParser()
    add_setting_flags(parser, Config, default)
    parser.format_help()  # a stray % would raise
    return settings_from_flags(parser.parse_args(argv), Config, default)


def test_flags_win_over_the_file_and_the_default_file_may_be_missing(tmp_path: Path) -> None:
    default = tmp_path / "default.toml"
    assert parse(default) == Config()
    default.write_text("tunnel-port = 5\n[deep]\nx = 2\n")
    assert parse(default) == Config(tunnel_port=5, deep=Deep(x=2))
    assert parse(default, "--tunnel-port", "6", "--networks=a,b").tunnel_port == 6
    other = tmp_path / "other.toml"
    other.write_text('networks = "a"\n')
    assert parse(default, "--config", str(other)) == Config(networks=("a",))


def test_a_named_file_must_exist_and_flags_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"missing\.toml: can't be read"):
        parse(tmp_path / "default.toml", "--config", str(tmp_path / "missing.toml"))
    with pytest.raises(SettingsError, match=r"^--tunnel-port: expected an integer"):
        parse(tmp_path / "default.toml", "--tunnel-port", "six")


def test_a_default_file_that_can_not_be_read_is_not_passed_over(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(SettingsError, match="can't be read: Too many levels of symbolic links"):
        parse(loop)
    assert parse(tmp_path / "missing" / "default.toml") == Config()


def test_wrong_use_is_one_line_that_names_what_was_meant(tmp_path: Path, capsys) -> None:
    parser = OneLineParser("prog")
    add_setting_flags(parser, Config, tmp_path / "default.toml")
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--tunnel-prot", "3"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        "prog: unrecognized arguments: --tunnel-prot 3; did you mean --tunnel-port?; see prog --help\n"
    )


@pytest.mark.parametrize("flag", ["--proxy", "--x", "--deep"])
def test_neither_secrets_nor_tables_are_flags(flag: str, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        parse(tmp_path / "default.toml", flag, "1")
    assert "unrecognized arguments" in capsys.readouterr().err
