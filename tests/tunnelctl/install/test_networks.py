"""Judging the addresses of an installation."""

from typing import Any

import pytest

from tunnelctl.checks import Check, State
from tunnelctl.errors import UsageError
from tunnelctl.install.networks import (
    check_edges,
    check_overlaps,
    check_servers,
    default_servers,
    parse_networks,
    parse_server,
    suggested,
)


def node(name: str, *addresses: str, external: str = "", pods: str = "") -> dict[str, Any]:
    listed = [{"type": "InternalIP", "address": each} for each in addresses]
    if external:
        listed.append({"type": "ExternalIP", "address": external})
    spec = {"podCIDRs": [pods]} if pods else {}
    return {"metadata": {"name": name}, "spec": spec, "status": {"addresses": listed}}


NETWORKS = parse_networks("--edge-networks", "192.168.0.0/16, fd00::/8")
HOST = node("cp-1", "10.0.0.10")


@pytest.mark.parametrize("text", ["", ",", "192.168.1.1/16", "edge", "10.0.0.0/40"])
def test_networks_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--edge-networks.*write networks like"):
        parse_networks("--edge-networks", text)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("tunnel.example.org", "tunnel.example.org:10262"),
        ("198.51.100.7:443", "198.51.100.7:443"),
        ("fd00::1", "[fd00::1]:10262"),
    ],
)
def test_a_server_address(text: str, endpoint: str) -> None:
    assert parse_server(text) == endpoint


@pytest.mark.parametrize(
    "text", ["127.0.0.1", "::", "localhost", "tunnel-server.edge-tunnel.svc", "a b", "x:0", "224.0.0.1"]
)
def test_what_no_edge_can_dial(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--server-address: "):
        parse_server(text)


def test_unless_told_every_host_by_its_public_address() -> None:
    hosts = [HOST, node("cp-2", "10.0.0.11", external="203.0.113.9"), node("cp-3")]
    assert default_servers(hosts) == ("10.0.0.10:10262", "203.0.113.9:10262")


def test_networks_that_fit_the_edges() -> None:
    assert (
        suggested([node("a", "192.168.1.7"), node("b", "192.168.1.8", "fd00::1")])
        == "192.168.1.0/24,fd00::/64"
    )
    assert suggested([]) == ""


def states(checks: Any) -> list[tuple[str, State]]:
    return [(each.name, each.state) for each in checks]


def test_edges_in_and_outside_of_their_networks() -> None:
    assert states(check_edges([node("a", "192.168.1.7")], NETWORKS)) == [("addresses", State.OK)]
    outside = list(check_edges([node("a", "10.9.9.9"), node("b", "192.168.1.7")], NETWORKS))
    assert states(outside) == [("addresses", State.WARNING)]
    assert outside[0].text == "not in --edge-networks: a (10.9.9.9)"
    shared = list(check_edges([node("a", "192.168.1.7"), node("b", "192.168.1.7")], NETWORKS))
    assert "192.168.1.7 (a, b)" in shared[0].text


def test_networks_that_hold_more_than_edges() -> None:
    others = [node("cp-1", "10.0.0.10", pods="192.168.64.0/24")]
    found = list(check_overlaps(NETWORKS, others, "192.168.0.1"))
    assert states(found) == [("networks", State.WARNING)]
    assert "has pods (192.168.64.0/24)" in found[0].text
    assert "has services (192.168.0.1)" in found[0].text
    assert not list(check_overlaps(NETWORKS, [node("x", "1.2.3.4", pods="10.244.0.0/24")], "10.96.0.1"))


def one(endpoint: str, *, chosen: bool = False) -> Check:
    (check,) = check_servers((endpoint,), [HOST], "10.96.0.1", chosen=chosen)
    return check


def test_addresses_for_agents_to_dial() -> None:
    assert one("10.0.0.10:10262").state is State.OK
    assert one("tunnel.example.org:443").state is State.OK
    assert one("10.0.0.10:443").state is State.FAILED
    assert one("10.96.0.1:10262").state is State.FAILED
    assert one("198.51.100.1:443").state is State.WARNING
    assert one("10.0.0.10:10262", chosen=True).state is State.WARNING
