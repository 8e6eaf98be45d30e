"""Judging the addresses of an installation: the edges', the networks that they may be in, the server's."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from certs.addresses import check_edge_address, format_endpoint, parse_endpoint
from tunnelctl.checks import Check, State, some
from tunnelctl.errors import UsageError
from tunnelctl.install.scheduling import addresses

if TYPE_CHECKING:
    from collections.abc import Iterator

    from certs.addresses import IPAddress, IPNetwork
    from tunnel_server.kube.resources import Object

AGENT_PORT = 10262
_SUGGESTED = 5  # networks that a remedy names


def parse_networks(option: str, text: str) -> tuple[IPNetwork, ...]:
    """Read what `option` names; raises UsageError."""
    networks = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        try:
            networks.append(ip_network(part))
        except ValueError as error:
            raise UsageError(f"{option}: {error}; write networks like 192.168.1.0/24") from None
    if not networks:
        raise UsageError(f"{option} names none: write networks like 192.168.1.0/24")
    return tuple(networks)


def parse_server(text: str) -> str:
    """Read one `--server-address`; returns HOST:PORT. Raises UsageError for what no agent can dial."""
    try:
        host, port = parse_endpoint(text, AGENT_PORT)
    except ValueError as error:
        raise UsageError(f"--server-address: {error}") from None
    address = _address(host)
    if address is not None and (address.is_loopback or address.is_unspecified or address.is_multicast):
        raise UsageError(f"--server-address: no edge reaches {host}: give what agents dial from outside")
    if host in {"localhost", "kubernetes"} or host.endswith((".svc", ".cluster.local")):
        raise UsageError(
            f"--server-address: {host} is no name that edges know: give what agents dial from outside"
        )
    return format_endpoint(host, port)


def default_servers(hosts: list[Object]) -> tuple[str, ...]:
    """Return where agents dial if nobody says: the hosts that may run the server, their public addresses."""
    found = (addresses(node, "ExternalIP") or addresses(node) for node in hosts)
    return tuple(format_endpoint(each[0], AGENT_PORT) for each in found if each)


def suggested(edges: list[Object]) -> str:
    """Return networks that hold the edges' addresses, as `--edge-networks` has them."""
    found = set()
    for node in edges:
        for each in addresses(node):
            if (address := _address(each)) is not None:
                found.add(ip_network((address, 24 if address.version == 4 else 64), strict=False))
    return ",".join(sorted(map(str, found))[:_SUGGESTED])


def check_edges(edges: list[Object], networks: tuple[IPNetwork, ...]) -> Iterator[Check]:
    """Judge whether the edges' addresses can be captured, and whether two have the same."""
    outside, holders = [], dict[str, list[str]]()
    for node in edges:
        name = node["metadata"]["name"]
        for text in addresses(node):
            holders.setdefault(text, []).append(name)
            address = _address(text)
            try:
                if address is not None:
                    check_edge_address(address, networks)
            except ValueError:
                outside.append(f"{name} ({text})")
    if outside:
        yield Check(
            "addresses",
            State.WARNING,
            f"not in --edge-networks: {some(outside)}",
            f"to have them captured, name their networks too: {suggested(edges)}; by name all are reached",
        )
    shared = [f"{text} ({some(names)})" for text, names in holders.items() if len(names) > 1]
    if shared:
        yield Check(
            "addresses",
            State.WARNING,
            f"claimed by several nodes, and so captured for none: {some(shared)}",
            "give each an address of its own, or reach them by name",
        )
    if edges and not outside and not shared:
        yield Check("addresses", State.OK, f"{len(holders)} of edges, all in --edge-networks")


def check_overlaps(
    networks: tuple[IPNetwork, ...], others: list[Object], service_ip: str | None
) -> Iterator[Check]:
    """Judge whether the networks of edges hold what is not an edge's: pods, services, other nodes."""
    found = []
    pod_ranges = {each for node in others for each in (node["spec"].get("podCIDRs") or ())}
    for each in sorted(pod_ranges):
        found += [f"{network} has pods ({each})" for network in networks if _overlap(network, each)]
    if service_ip is not None:
        found += [
            f"{network} has services ({service_ip})" for network in networks if _holds(network, service_ip)
        ]
    if found:
        yield Check(
            "networks",
            State.WARNING,
            f"--edge-networks is wider than edges are: {some(found)}",
            "give only networks of edges: what a kubelet claims inside of them is believed",
        )


def check_servers(
    endpoints: tuple[str, ...], hosts: list[Object], service_ip: str | None, *, chosen: bool
) -> Iterator[Check]:
    """Judge the addresses that agents are to dial; `chosen`: by us, since the user named none."""
    name = "server address"
    if chosen:
        remedy = "where edges dial another, name that: --server-address HOST[:PORT]"
        text = f"{', '.join(endpoints)}, as the cluster has the server's host"
        yield Check(name, State.WARNING, text, remedy)
        return
    known = [
        each for node in hosts for kind in ("ExternalIP", "InternalIP") for each in addresses(node, kind)
    ]
    for endpoint in endpoints:
        host, port = parse_endpoint(endpoint, AGENT_PORT)
        if host == service_ip:
            remedy = "give an address that agents dial from outside: --server-address HOST[:PORT]"
            yield Check(
                name, State.FAILED, f"{host} is a Service's address, which edges do not reach", remedy
            )
        elif _address(host) is not None and host not in known:
            names = ", ".join(each["metadata"]["name"] for each in hosts) or "any host"
            remedy = f"well, if a NAT or load balancer leads from there to port {AGENT_PORT} of that host"
            yield Check(name, State.WARNING, f"{endpoint} is no address of {names}", remedy)
        elif host in known and port != AGENT_PORT:
            remedy = f"on its own address the server listens at {AGENT_PORT}"
            yield Check(name, State.FAILED, f"nothing will listen at {endpoint}", remedy)
        else:
            yield Check(name, State.OK, endpoint)


def _address(text: str) -> IPAddress | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _overlap(network: IPNetwork, other: str) -> bool:
    second = ip_network(other, strict=False)
    return network.version == second.version and network.overlaps(second)


def _holds(network: IPNetwork, text: str) -> bool:
    address = _address(text)
    return address is not None and address in network
