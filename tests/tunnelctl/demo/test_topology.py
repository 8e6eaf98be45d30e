"""The namespaces are what they say: out is free, in is shut, and nothing stays behind."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from types import MappingProxyType

import pytest

from tests.e2e.network import dial, dropping, listen
from tunnelctl.demo import topology
from tunnelctl.demo.topology import Site, Topology, TopologyError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
PREFIX = f"et-topo{os.getpid()}"


@pytest.fixture(scope="module")
def network() -> Iterator[Topology]:
    second = Site("nat-b", "203.0.113.12", MappingProxyType({"edge-3": "192.168.2.143"}))
    with Topology(PREFIX, sites=[Site(), second]) as made:
        yield made


def test_edges_dial_out_under_their_routers_address(network: Topology) -> None:
    with listen(network.cloud, ("0.0.0.0", 80)) as server:
        for edge, router in [(1, "nat"), (2, "nat"), (3, "nat-b")]:
            with dial(network.edge(edge), ("203.0.113.10", 80)):
                caller, (address, _) = server.accept()
                caller.close()
                assert address == network.host(router).address


def test_edges_of_one_site_reach_each_other(network: Topology) -> None:
    with listen(network.edge(2), ("0.0.0.0", 81)), dial(network.edge(1), ("192.168.2.144", 81)):
        pass


def test_the_internet_does_not_know_private_addresses(network: Topology) -> None:
    with listen(network.edge(1), ("0.0.0.0", 82)), pytest.raises(OSError, match=r"unreachable|No route"):
        dial(network.cloud, ("192.168.2.143", 82))


def test_nobody_dials_in_even_knowing_the_way(network: Topology) -> None:
    assert network.cloud.run(["ip", "route", "add", "192.168.2.0/24", "via", "203.0.113.11"]).returncode == 0
    try:
        with listen(network.edge(1), ("0.0.0.0", 83)), pytest.raises(TimeoutError):
            dial(network.cloud, ("192.168.2.143", 83), timeout=0.3)
    finally:
        network.cloud.run(["ip", "route", "del", "192.168.2.0/24"])


def test_a_cut_is_silent_and_heals(network: Topology) -> None:
    with listen(network.cloud, ("0.0.0.0", 84)):
        network.cut("nat")
        with pytest.raises(TimeoutError):
            dial(network.edge(1), ("203.0.113.10", 84), timeout=0.3)
        with dial(network.edge(3), ("203.0.113.10", 84)):
            pass
        network.heal("nat")
        with dial(network.edge(1), ("203.0.113.10", 84)):
            pass


@pytest.mark.skipif(shutil.which("nft") is None, reason="needs the nft program")
def test_the_router_has_these_rules_and_drops_what_a_test_says(network: Topology) -> None:
    rules = network.host("nat").run(["nft", "list", "ruleset"]).stdout
    assert [line.strip() for line in rules.splitlines() if line.strip() not in {"", "}"}] == [
        "table ip router {",
        "chain postrouting {",
        "type nat hook postrouting priority srcnat; policy accept;",
        'oifname "internet" masquerade',
        "chain forward {",
        "type filter hook forward priority filter; policy drop;",
        "ct state established,related accept",
        'iifname "lan" accept',
    ]
    with listen(network.cloud, ("0.0.0.0", 85)), dial(network.edge(1), ("203.0.113.10", 85)) as sock:
        with dropping(network.host("nat"), "tcp dport 85"):
            sock.send(b"lost")
            with pytest.raises(TimeoutError):
                dial(network.edge(1), ("203.0.113.10", 85), timeout=0.3)
        with dial(network.edge(1), ("203.0.113.10", 85)):
            pass


def test_several_stand_beside_each_other_and_go_alone(network: Topology) -> None:
    with Topology(f"{PREFIX}b") as other:
        assert other.cloud.namespace != network.cloud.namespace
    assert topology.existing(f"{PREFIX}b") == []
    assert network.cloud.namespace in topology.existing(PREFIX)


def test_what_was_left_behind_is_removed_first() -> None:
    subprocess.run(["ip", "netns", "add", f"{PREFIX}c-cloud"], check=True)
    with Topology(f"{PREFIX}c") as made, listen(made.cloud, ("0.0.0.0", 80)):
        pass
    assert topology.existing(f"{PREFIX}c") == []


def test_a_failure_half_way_leaves_nothing() -> None:
    bad = Site(edges=MappingProxyType({"edge-1": "192.168.2.143", "edge-2": "192.168.2.300"}))
    with pytest.raises(TopologyError, match=r"192\.168\.2\.300") as caught:
        Topology(f"{PREFIX}d", sites=[bad]).__enter__()
    assert "\n" not in str(caught.value)
    assert topology.existing(f"{PREFIX}d") == []


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(TopologyError, match="apt-get install iproute2"):
        topology.check_prerequisites()


def test_sockets_are_where_they_should_be(network: Topology) -> None:
    with listen(network.edge(1), ("127.0.0.1", 86)), pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", 86))
