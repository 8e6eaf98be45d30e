"""Who holds which address: by certificates, a cluster's Nodes, pins, and what is no edge's at all."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_network

import pytest

from tunnel_server.registry import Registry
from tunnel_wire.causes import OpenFailed
from tunnel_wire.flow import Budget, SegmentPool
from tunnel_wire.limits import WireLimits

ONE, TWO, THREE = map(IPv4Address, ("192.168.2.1", "192.168.2.2", "192.168.2.3"))
OUTSIDE = IPv4Address("203.0.113.1")


class Changes:
    count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def changes() -> Changes:
    return Changes()


@pytest.fixture
def registry(changes: Changes) -> Registry:
    return Registry(
        edge_networks=(ip_network("192.168.0.0/16"),),
        budget=Budget(1),
        pool=SegmentPool(),
        limits=WireLimits(),
        links_per_node=1,
        on_addresses=changes,
    )


def test_what_is_refused_is_logged_once_and_stays_known(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        node = registry.learn("edge-1", [ONE, OUTSIDE])
    assert node.addresses == {ONE}
    assert list(node.refused) == [OUTSIDE]
    (line,) = caplog.messages
    assert line.startswith("203.0.113.1 is not captured for edge-1: 203.0.113.1 is outside the edge networks")
    node.certified = frozenset({ONE})
    registry.review()
    assert node.refused == {}


def test_a_pin_decides_between_claimants(registry: Registry, changes: Changes) -> None:
    one, two = registry.learn("edge-1", [ONE]), registry.learn("edge-2", [ONE, TWO])
    assert registry.claims.shared() == {ONE: [one, two]}
    registry.claims.rules.pins = {ONE: "edge-2"}
    registry.review()
    assert registry.by_address(ONE) is two
    assert registry.claims.shared() == {}
    assert one.refused == {ONE: "192.168.2.1 is pinned to edge-2: see pinned-addresses of [nodes.edge-2]"}
    # It gives nothing to who does not claim it, nor where no edge may be.
    registry.claims.rules.pins = {ONE: "edge-3", OUTSIDE: "edge-1"}
    registry.learn("edge-1", [ONE, OUTSIDE])
    registry.review()
    assert registry.addresses() == {TWO}
    registry.claims.rules.pins = {}
    before = changes.count
    registry.review()
    assert registry.addresses() == {ONE, TWO}
    assert changes.count > before
    before = changes.count
    registry.review()
    assert changes.count == before


def test_a_cluster_decides_for_its_nodes_and_only_for_them(registry: Registry) -> None:
    registry.learn("edge-1", [ONE])
    registry.learn("outside", [TWO])
    registry.assign({"edge-1": frozenset({THREE}), "edge-2": frozenset()}, ["cp-1"])
    assert registry.addresses() == {TWO, THREE}
    assert set(registry.nodes) == {"edge-1", "edge-2", "outside"}
    # A certificate that is shown later is of no more weight.
    registry.learn("edge-1", [ONE])
    assert registry.by_name("edge-1").addresses == {THREE}
    # Forgotten by the operator, but not by the cluster.
    registry.forget(registry.by_name("edge-1"))
    registry.assign({"edge-1": frozenset({THREE}), "edge-2": frozenset()}, ["cp-1"])
    assert registry.by_address(THREE).name == "edge-1"
    registry.learn("edge-1", [ONE])
    # Relabelled: no edge any more.
    registry.assign({"edge-2": frozenset({THREE})}, ["cp-1", "edge-1"])
    assert registry.by_name("edge-1").addresses == frozenset()
    assert registry.by_address(THREE).name == "edge-2"
    # Removed: what has a certificate is an edge outside the cluster, what has none is nothing.
    registry.assign({}, ["cp-1"])
    assert set(registry.nodes) == {"edge-1", "outside"}
    assert registry.by_address(ONE).name == "edge-1"


def test_a_revoked_node_holds_nothing_whatever_the_cluster_says(registry: Registry) -> None:
    registry.assign({"edge-1": frozenset({ONE})}, [])
    node = registry.by_name("edge-1")
    registry.withdraw(node, "node edge-1 was revoked", [TWO])
    registry.assign({"edge-1": frozenset({ONE, THREE})}, [])
    assert registry.addresses() == set()
    assert all(map(registry.is_reserved, (ONE, TWO, THREE)))
    with pytest.raises(OpenFailed, match="edge-1 had it: node edge-1 was revoked"):
        registry.by_address(THREE)
    registry.assign({}, [])
    assert registry.by_name("edge-1").revoked
    registry.learn("edge-1", [TWO])
    assert registry.addresses() == {TWO}
    assert not registry.is_reserved(THREE)


def test_what_is_something_else_is_no_edges_whoever_says_so(registry: Registry) -> None:
    registry.learn("outside", [ONE])
    registry.claims.rules.otherwise = lambda address: "kube-apiserver's" if address == ONE else None
    registry.assign({"edge-1": frozenset({ONE, TWO})}, [])
    registry.review()
    assert registry.addresses() == {TWO}
    refused = registry.by_name("outside").refused
    assert refused == {ONE: "192.168.2.1 is kube-apiserver's: no edge can hold it"}


def test_a_pin_overrules_the_word_of_another_machine_and_nothing_else(registry: Registry) -> None:
    """Whoever takes the label off its Node says the same of an address as before."""
    rules = registry.claims.rules
    rules.elsewhere = lambda address: "an address of edge-2, which is no edge" if address == ONE else None
    rules.otherwise = lambda address: "kube-apiserver's" if address == TWO else None
    one = registry.learn("edge-1", [ONE, TWO])
    assert one.refused == {
        ONE: "192.168.2.1 is an address of edge-2, which is no edge: only pinned-addresses of [nodes.edge-1] "
        "would give it to an edge",
        TWO: "192.168.2.2 is kube-apiserver's: no edge can hold it",
    }
    rules.pins = {ONE: "edge-1", TWO: "edge-1"}
    registry.review()
    assert one.addresses == {ONE}
    assert registry.learn("edge-2", [ONE]).addresses == frozenset()


def test_while_nothing_can_be_judged_nobody_holds_anything(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.claims.rules.undecided = "not known yet"
    node, gone = registry.learn("edge-1", [ONE, OUTSIDE]), registry.learn("edge-2", [TWO])
    registry.withdraw(gone, "revoked", [TWO])
    assert registry.addresses() == set()
    assert node.refused[ONE] == "not known yet"
    assert "outside the edge networks" in node.refused[OUTSIDE]
    assert registry.is_reserved(TWO)
    (line,) = caplog.messages
    assert "203.0.113.1" in line, "what will be judged is no failure"
    registry.claims.rules.undecided = ""
    registry.review()
    assert registry.addresses() == {ONE}


def test_a_node_that_changes_its_claims_all_the_time_fills_no_log(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1000):
        registry.learn("edge-1", [IPv4Address("203.0.113.0") + number % 250])
    assert len(caplog.messages) < 100
    registry.learn("edge-2", [OUTSIDE])
    assert caplog.messages[-1].startswith("203.0.113.1 is not captured for edge-2")
