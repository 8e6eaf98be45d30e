"""A TOML file into a frozen dataclass, or every reason why not."""

from collections.abc import Iterator
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel_daemon.settings import SettingsError, between, read_settings, setting
from tunnel_daemon.settings_values import Network


@dataclass(frozen=True)
class Pair:
    left: str
    right: str
    FORM = 'a pair like "a=b"'

    @classmethod
    def parse(cls, text: str) -> "Pair":
        left, equals, right = text.partition("=")
        if not equals:
            raise ValueError(f'"{text}" is not {cls.FORM}')
        return cls(left, right)


@dataclass(frozen=True, kw_only=True)
class Limits:
    open_timeout: float = setting(15.0, doc="How long a dial may take.", unit="seconds")
    memory_budget: int = setting(1024, doc="Memory for queues.", unit="bytes")


@dataclass(frozen=True, kw_only=True)
class Config:
    node: str = setting(doc="The node's name.")
    tunnel_port: int = setting(10262, doc="Port.", check=between(1, 65535))
    networks: tuple[Network, ...] = setting((), doc="Networks.")
    log_format: Literal["text", "json"] = setting("text", doc="Format.")
    listen: tuple[Pair, ...] = setting((), doc="Pairs.")
    proxy: str | None = setting(None, doc="Proxy.", secret=True)
    limits: Limits = setting(Limits(), doc="Bounds.")

    def cross_check(self) -> Iterator[tuple[str, str]]:
        if self.networks and not self.listen:
            yield "networks", "is set, so listen is needed too"


def read(tmp_path: Path, text: str, overrides: dict[str, str] | None = None) -> Config:
    path = tmp_path / "c.toml"
    path.write_text(text)
    return read_settings(Config, path, overrides)


def problems(tmp_path: Path, text: str, overrides: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text, overrides)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return [problem.removeprefix(f"{tmp_path}/") for problem in caught.value.problems]


def test_a_full_file(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        'node = "edge-1"\ntunnel-port = 443\nlisten = "a=b"\nproxy = "http://u:p@h"\n'
        '[limits]\nopen-timeout = "1m"\nmemory-budget = "16MiB"\n',
    )
    assert config == Config(
        node="edge-1", tunnel_port=443, listen=(Pair("a", "b"),), proxy="http://u:p@h",
        limits=Limits(open_timeout=60.0, memory_budget=16 * 2**20),
    )  # fmt: skip
    assert "u:p" not in repr(config)
    with pytest.raises(FrozenInstanceError):
        config.node = "x"  # type: ignore[misc]


def test_every_problem_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    text = """\
tunel-port = 1
tunnel-port = "10262"
networks = ["10.0.0.1/8"]
open_timeout = 3
listen = ["a=b", "c"]
limits.memory-budget = true
"""
    assert problems(tmp_path, text) == [
        "c.toml:1: tunel-port: unknown key; did you mean tunnel-port?",
        'c.toml:2: tunnel-port: expected an integer, not the string "10262"',
        'c.toml:3: networks: "10.0.0.1/8" has host bits set; the network is "10.0.0.0/8"',
        "c.toml:4: open_timeout: unknown key; it belongs in [limits]",
        'c.toml:5: listen: "c" is not a pair like "a=b"',
        'c.toml:6: limits.memory-budget: expected a size, in bytes or like "64KiB", "16MiB", not true',
        "c.toml: node: is required: The node's name.",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tunnel-port = 70000", "c.toml:2: tunnel-port: expected 1 to 65535, not 70000"),
        ("limits = 3", "c.toml:2: limits: expected a table; write [limits]"),
        ("node = ", "c.toml: is not valid TOML: Invalid value (at end of document)"),
        ("node = \n", "c.toml:2: is not valid TOML: Invalid value, column 8"),
        ("[other]\nx = 1", "c.toml:2: other: unknown key; remove it, or look up the known keys in"),
        ("[limits]\nz = 1", "c.toml:3: limits.z: unknown key"),
        ("limits = { z = 1 }", "c.toml:2: limits.z: unknown key"),
        ('networks = "10.0.0.0/8"', "c.toml:2: networks: is set, so listen is needed too"),
        ("limits.open-timeout = " + "[" * 5000, "c.toml: is not valid TOML"),
    ],
)
def test_single_problems(tmp_path: Path, text: str, problem: str) -> None:
    node = "" if text.startswith("node") else 'node = "a"'
    [found] = problems(tmp_path, f"{node}\n{text}")
    assert found.startswith(problem)


def test_what_a_value_says_does_not_steer_the_terminal(tmp_path: Path) -> None:
    (told,) = problems(tmp_path, 'node = "n"\nlisten = ["a\\u001b[2J\tb"]')
    assert told.endswith(r'"a\x1b[2J\tb" is not a pair like "a=b"')


def test_a_secret_is_not_shown(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, 'node = "a"\nproxy = ["http://u:p@h"]')
    assert problem.startswith("c.toml:2: proxy: expected a string")
    assert "u:p" not in problem


def test_overrides_win_and_are_named_as_flags(tmp_path: Path) -> None:
    text = 'node = "a"\ntunnel-port = "wrong"\n'
    assert read(tmp_path, text, {"tunnel-port": "5", "log-format": "json"}).tunnel_port == 5
    assert problems(tmp_path, text, {"tunnel-port": "x", "networks": "10.0.0.0/8"}) == [
        '--tunnel-port: expected an integer, not the string "x"',
    ]
    assert read_settings(
        Config, None, {"node": "n", "networks": "10.0.0.0/8,fc00::/7", "listen": "a=b"}
    ).listen


def test_no_file_means_defaults_and_still_needs_what_is_required() -> None:
    with pytest.raises(SettingsError, match="settings: node: is required"):
        read_settings(Config, None)


def test_unreadable_files(tmp_path: Path) -> None:
    for name, content, message in [
        ("missing", None, "can't be read: No such file or directory"),
        ("latin", 'node = "a"\nx = "é"'.encode("latin-1"), "latin:2: is not UTF-8"),
        ("huge", b"#" * (2**20 + 1), "is over 1048576 bytes"),
    ]:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(SettingsError, match=message):
            read_settings(Config, tmp_path / name)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    assert read(tmp_path, '\ufeffnode = "a"\n').node == "a"


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(tmp_path_factory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(text, encoding="utf-8", errors="replace", newline="")
    with pytest.raises(SettingsError) as caught:  # "node" is required, and text() never has it
        read_settings(Config, path)
    assert caught.value.problems
