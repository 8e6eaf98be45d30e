"""Rights: nothing that is not configured, and the file's words for it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.identity import Identity, Role
from tunnel_daemon.settings import SettingsError
from tunnel_server.config import load_config
from tunnel_server.rights import CallerRights, NodeGlob, PortRange, Rights

KUBE = Identity("edge.test", Role.CALLER, "kube")


def allowed(rights: CallerRights, node: str, port: int) -> bool:
    return rights.refusal(node, port) is None


def test_who_is_not_configured_has_no_right() -> None:
    assert not allowed(Rights({}).of(KUBE), "edge-1", 80)
    assert not Rights({}).of(KUBE).direct


def test_nodes_by_pattern_and_ports_by_range() -> None:
    mine = CallerRights(
        nodes=(NodeGlob.parse("edge-*"), NodeGlob.parse("pi")),
        ports=(PortRange.parse("9100"), PortRange.parse("8000-8100")),
    )
    rights = Rights({"kube": mine}).of(KUBE)
    assert allowed(rights, "edge-1", 9100)
    assert allowed(rights, "pi", 8000)
    assert allowed(rights, "pi", 8100)
    assert not allowed(rights, "pi", 8101)
    assert not allowed(rights, "pi-2", 9100)
    assert not allowed(rights, "my-edge-1", 9100)
    assert rights.refusal("my-edge-1", 9100) == "this caller has no right to my-edge-1"
    assert rights.refusal("pi", 8101) == "this caller has no right to port 8101 of pi"


def test_users_of_the_sockets_reach_every_node_and_nothing_else() -> None:
    rights = Rights({}).of(None)
    assert allowed(rights, "any", 1)
    assert not rights.direct


def test_local_may_be_given_more_and_less() -> None:
    assert Rights({"local": CallerRights(direct=True)}).of(None).direct
    assert allowed(Rights({"local": CallerRights(direct=True)}).of(None), "any", 1)
    less = Rights({"local": CallerRights(ports=(PortRange.parse("80"),))}).of(None)
    assert allowed(less, "any", 80)
    assert not allowed(less, "any", 81)


@pytest.mark.parametrize(
    ("keys", "reached"),
    [
        ("direct = true", True),
        ("nodes = []", False),
        ("ports = []", False),
        ("nodes = []\nports = []", False),
        ('nodes = "*"\nports = []', False),
        ('nodes = "edge-*"', True),
    ],
)
def test_an_empty_list_is_none_and_no_list_is_every_one_for_local_only(
    tmp_path: Path, keys: str, reached: bool
) -> None:
    path = tmp_path / "server.toml"
    path.write_text(f"[callers.local]\n{keys}\n[callers.kube]\ndirect = true\n")
    rights = Rights(load_config(path).callers)
    assert allowed(rights.of(None), "edge-1", 80) == reached
    assert not allowed(rights.of(KUBE), "edge-1", 80)


def test_nothing_is_written_for_none(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text('[callers.local]\nnodes = ""\n')
    with pytest.raises(SettingsError, match=r'callers.local.nodes: "" is not the name of a node'):
        load_config(path)


@pytest.mark.parametrize(
    "identity", [Identity("edge.test", Role.CALLER, "local"), Identity("edge.test", Role.NODE, "kube")]
)
def test_no_certificate_stands_for_local_and_no_node_for_a_caller(identity: Identity) -> None:
    everything = CallerRights(nodes=(NodeGlob.parse("*"),), ports=(PortRange.parse("*"),))
    assert not allowed(Rights({"local": everything, "kube": everything}).of(identity), "edge-1", 80)


@pytest.mark.parametrize("text", ["", "0", "65536", "-", "1-", "-1", "9-8", "a", "1,2", "99999999999"])
def test_ports_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match='"'):
        PortRange.parse(text)


@pytest.mark.parametrize("text", ["", "Edge", "[a]", "a b", "edge/1"])
def test_patterns_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        NodeGlob.parse(text)


@given(st.integers(1, 65535), st.integers(1, 65535))
def test_a_range_reads_as_it_is_written(one: int, other: int) -> None:
    ports = PortRange(min(one, other), max(one, other))
    assert PortRange.parse(str(ports)) == ports


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text('[callers.kube]\nnodes = ["edge-*"]\nports = ["9100", "8000-8100"]\ndirect = true\n')
    rights = Rights(load_config(path).callers).of(KUBE)
    assert allowed(rights, "edge-7", 8050)
    assert rights.direct
    path.write_text('[callers.kube]\nports = ["900-80"]\n')
    with pytest.raises(SettingsError, match=r"server.toml:2: callers.kube.ports: .*write 80-900"):
        load_config(path)
