"""Networks behind nodes: the longest prefix wins, and what is nobody's to lend is never reached."""

import os
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tests.e2e.shortage import descriptors
from tunnel_daemon.settings import SettingsError
from tunnel_server import node_networks
from tunnel_server.config import load_config
from tunnel_server.node_networks import NodeNetworks, NodeSettings


def networks(**nodes: str) -> NodeNetworks:
    return NodeNetworks({
        name: NodeSettings(networks=tuple(map(ip_network, text.split()))) for name, text in nodes.items()
    })  # fmt: skip


def test_the_longest_prefix_wins() -> None:
    found = networks(a="10.42.0.0/16 fd00:42::/32", b="10.42.1.0/24", c="10.42.1.7/32")
    for address, name in {
        "10.42.0.1": "a",
        "10.42.255.255": "a",
        "10.42.1.1": "b",
        "10.42.1.7": "c",
        "10.43.0.1": None,
        "fd00:42::1": "a",
        "fd00:43::1": None,
        "::ffff:10.42.1.1": None,
    }.items():
        assert found.node_of(ip_address(address)) == name, address
    assert networks().node_of(ip_address("10.42.1.1")) is None


@pytest.mark.parametrize(
    "address", ["127.0.0.2", "169.254.169.254", "100.100.100.200", "0.0.0.1", "224.0.0.1", "::1", "fe80::1"]
)
def test_special_addresses_are_not_reached_however_wide_the_network(address: str) -> None:
    everything = networks(a="0.0.0.0/0 ::/0")
    assert everything.node_of(ip_address(address)) is None
    assert everything.node_of(ip_address("10.42.1.1")) == "a"
    assert everything.node_of(ip_address("64:ff9b::127.0.0.1")) is None


def test_this_hosts_own_addresses_are_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_networks, "is_own_address", lambda address: address == ip_address("10.42.1.9"))
    found = networks(a="10.42.1.0/24")
    assert (found.node_of(ip_address("10.42.1.9")), found.node_of(ip_address("10.42.1.8"))) == (None, "a")


def test_what_may_be_this_hosts_own_is_not_reached() -> None:
    found = networks(a="10.42.1.0/24")
    with descriptors(os.getpid()):
        assert found.node_of(ip_address("10.42.1.8")) is None
    assert found.node_of(ip_address("10.42.1.8")) == "a"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            '[nodes.a]\nnetworks = "10.42.1.0/24"\n[nodes."b.c"]\nnetworks = ["10.0.0.0/8","10.42.1.0/24"]\n',
            ":4: nodes.b.c.networks: 10.42.1.0/24 is of a already: a network leads to one node",
        ),
        (
            '[nodes.a]\nnetworks = "169.254.0.0/24"\n',
            ":2: nodes.a.networks: 169.254.0.0/24 is never reached through a node: each is a link-local",
        ),
        (
            '[nodes.a]\nnetworks = "ff00::/8"\n',
            ":2: nodes.a.networks: ff00::/8 has the address of no machine",
        ),
        ('[nodes.a]\nnetworks = "10.42.1.7/24"\n', "has host bits set"),
        ('[nodes.a]\nnetwork = "10.42.1.0/24"\n', "did you mean networks?"),
        ('[nodes.A_B]\nnetworks = "10.42.1.0/24"\n', ":1: nodes.A_B: "),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    (path := tmp_path / "server.toml").write_text(text)
    with pytest.raises(SettingsError) as refused:
        load_config(path)
    assert len(refused.value.problems) == 1
    assert problem in refused.value.problems[0]


def test_nested_networks_and_one_given_twice_to_a_node_are_taken(tmp_path: Path) -> None:
    (path := tmp_path / "server.toml").write_text(
        '[nodes.a]\nnetworks = ["10.42.0.0/16", "10.42.0.0/16"]\n[nodes.b]\nnetworks = "10.42.1.0/24"\n'
    )
    assert NodeNetworks(load_config(path).nodes).node_of(ip_address("10.42.1.1")) == "b"
