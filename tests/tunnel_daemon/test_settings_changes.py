"""What differs between two versions of settings, and what of it may apply."""

from dataclasses import dataclass, replace

import pytest

from tunnel_daemon.settings import SettingsError, read_settings, setting
from tunnel_daemon.settings_changes import applicable, changes


@dataclass(frozen=True, kw_only=True)
class Caller:
    ports: tuple[str, ...] | None = setting(None, doc="Ports.", live=True)
    nodes: tuple[str, ...] = setting((), doc="Nodes.")


@dataclass(frozen=True, kw_only=True)
class Deep:
    wait: float = setting(5.0, doc="A wait.", unit="seconds", live=True)
    size: int = setting(65536, doc="A size.", unit="bytes")


def no_capitals(name: str) -> None:
    if not name.islower():
        raise ValueError(f"{name} has capitals")


@dataclass(frozen=True, kw_only=True)
class Config:
    port: int = setting(1, doc="A port.")
    ports: str = setting("", doc="Ports.", live=True)
    proxy: str = setting("", doc="Proxy.", secret=True, live=True)
    deep: Deep = setting(Deep(), doc="Bounds.")
    callers: dict[str, Caller] = setting({}, doc="Callers.", check=no_capitals, live=True)


def test_equal_settings_have_no_changes() -> None:
    assert list(changes(Config(), Config())) == []
    assert Config().callers is not Config().callers


def test_each_change_as_a_file_would_have_it() -> None:
    old = Config(callers={"a": Caller(), "b": Caller()})
    new = Config(
        port=2, ports="80", proxy="http://u:p@x", deep=Deep(wait=90, size=2**20),
        callers={"b": Caller(nodes=("edge-1",)), "c": Caller()},
    )  # fmt: skip
    found = list(changes(old, new))
    assert [(str(each), each.live) for each in found] == [
        ("port: 1 -> 2", False),
        ('ports: "" -> "80"', True),
        ("proxy: (a secret) -> (a secret)", True),
        ('deep.wait: "5s" -> "90s"', True),
        ('deep.size: "64KiB" -> "1MiB"', False),
        ("callers.a: {nodes = []} -> (none)", True),
        ('callers.b: {nodes = []} -> {nodes = ["edge-1"]}', True),
        ("callers.c: (none) -> {nodes = []}", True),
    ]


def test_none_of_something_is_a_change_from_saying_nothing_of_it() -> None:
    (change,) = changes(Config(callers={"a": Caller()}), Config(callers={"a": Caller(ports=())}))
    assert str(change) == "callers.a: {nodes = []} -> {ports = [], nodes = []}"


def test_what_applies_while_it_runs() -> None:
    new = Config(port=2, ports="80", deep=Deep(wait=90, size=1), callers={"a": Caller()})
    expected = replace(new, port=1, deep=Deep(wait=90))
    assert applicable(Config(), new) == expected
    assert [each.key for each in changes(expected, new)] == ["port", "deep.size"]


def test_tables_with_names_of_their_own(tmp_path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('[callers.prom]\nnodes = ["edge-*"]\n[callers.x]\n')
    assert read_settings(Config, path).callers == {"prom": Caller(nodes=("edge-*",)), "x": Caller()}
    path.write_text('callers.Prom = {}\n[callers.x]\nnode = "a"\n')
    with pytest.raises(SettingsError) as caught:
        read_settings(Config, path)
    assert caught.value.problems == [
        f"{path}:1: callers.Prom: Prom has capitals",
        f"{path}:3: callers.x.node: unknown key; did you mean nodes?",
    ]
    for text in ("callers = 5\n", "[callers]\nx = 1\n"):
        path.write_text(text)
        with pytest.raises(SettingsError, match=r"expected .*table.*; write \[callers\."):
            read_settings(Config, path)
