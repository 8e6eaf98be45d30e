"""IPv6 from end to end: the link, the edges' addresses, callers here and callers routed through this host."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e import tls
from tests.e2e.network import dial, inside, listen
from tests.e2e.system import EDGE_1, RESET, System, curl, curl_json
from tunnelctl.demo.processes import Processes
from tunnelctl.demo.topology import Host, Topology

CLOUD6, ROUTER6, NAT6 = "2001:db8::10", "2001:db8::1", "2001:db8::11"
EDGE6, LAN6 = "fd00:192:168:2::143", "fd00:192:168:2::1"
CALLER, CALLER6 = "10.20.0.2", "fd00:10:20::2"
HERE, HERE6 = "10.20.0.1", "fd00:10:20::1"
STRANGER6 = "fd00:99::2"


def ip(host: Host, *lines: str) -> None:
    done = host.run(["ip", "-batch", "-"], stdin="\n".join(lines) + "\n")
    assert done.returncode == 0, done.stderr


def switch(host: Host, name: str, value: int) -> None:
    done = host.run(["sh", "-c", f"echo {value} > /proc/sys/net/{name}"])
    assert done.returncode == 0, done.stderr


def speak_ipv6(network: Topology) -> None:
    """Give every host an IPv6 address beside what it has, and masquerade the edges' as that of IPv4 is."""
    hosts = {name: network.host(name) for name in ("internet", "cloud", "nat", "edge-1")}
    for host in hosts.values():
        switch(host, "ipv6/conf/all/accept_dad", 0)
        switch(host, "ipv6/conf/default/accept_dad", 0)
    ip(hosts["internet"], f"address add {ROUTER6}/64 dev bridge nodad")
    ip(hosts["cloud"], f"address add {CLOUD6}/64 dev internet nodad")
    ip(hosts["nat"], f"address add {NAT6}/64 dev internet nodad", f"address add {LAN6}/64 dev lan nodad")
    ip(hosts["edge-1"], f"address add {EDGE6}/64 dev lan nodad", f"route add default via {LAN6}")
    switch(hosts["nat"], "ipv6/conf/all/forwarding", 1)
    masquerade = "type nat hook postrouting priority 100\noifname internet masquerade\n"
    made = hosts["nat"].run(["nft", "-f", "-"], stdin=f"table ip6 nat {{\nchain c {{\n{masquerade}}}\n}}\n")
    assert made.returncode == 0, made.stderr


def plug_caller(cloud: Host, name: str, addresses: dict[str, str]) -> Host:
    """A host whose only way to anywhere is the cloud's; its addresses, and for each the cloud's beside it."""
    host = Host(name, cloud.namespace.removesuffix("cloud") + name, next(iter(addresses)))
    subprocess.run(["ip", "netns", "add", host.namespace], check=True)
    ip(cloud, f"link add name {name} type veth peer name up netns {host.namespace}")
    near, far = [f"link set dev {name} up"], ["link set dev lo up", "link set dev up up"]
    for address, gateway in addresses.items():
        length = 64 if ":" in address else 24
        flags = " nodad" if ":" in address else ""
        near.append(f"address add {gateway}/{length} dev {name}{flags}")
        far += [f"address add {address}/{length} dev up{flags}", f"route add default via {gateway}"]
    ip(cloud, *near)
    ip(host, *far)
    return host


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The server on :: alone, an edge with two addresses whose agent dials [..], a caller behind it."""
    directory = tmp_path_factory.mktemp("ipv6")
    (logs := directory / "logs").mkdir()
    with Topology(f"et-v6{os.getpid()}") as network, Processes(logs) as processes:
        speak_ipv6(network)
        cloud, edge = network.cloud, network.edge(1)
        for family in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            switch(cloud, family, 1)
        plug_caller(cloud, "caller", {CALLER: HERE, CALLER6: HERE6})
        plug_caller(cloud, "stranger", {STRANGER6: "fd00:99::1"})
        system = System(network, directory, processes)
        system.ctl("init", "--state-dir", system.state, "--cert-ips", CLOUD6)
        system.start_server(
            **{
                "bind-address": ["::"],
                "http-proxy-ports": "9081-9083",
                "https-proxy-ports": "9443",
                "localhost-proxy-ports": "9083",
                "caller-networks": ["10.20.0.0/24", "fd00:10:20::/64"],
                "prerouting-address": [HERE, HERE6],
            }
        )
        www = directory / "www"
        www.mkdir()
        (www / "machine").write_text('{"machine": "edge-1"}')
        serve = ["python3", "-m", "http.server", "--bind", "::", "--directory", www, "9081"]
        system.start("http6", edge, *serve)
        system.serve(edge, "http", 9082)
        system.until(lambda: system.listens(edge, 9081), "http6")
        pair = tls.certificate(directory, "edge-1", f"IP:{EDGE6}")
        for port in (9443, 10250):
            tls.serve_pages(system, edge, port, pair, "-6")
        joined = system.join(edge, system.join_line("edge-1", EDGE_1, EDGE6))
        assert joined.returncode == 0, joined.stderr
        system.start_agent(edge)
        system.wait_ready("edge-1")
        yield system


@pytest.fixture(scope="module")
def caller(own: System) -> Host:
    return Host("caller", own.topology.cloud.namespace.removesuffix("cloud") + "caller", CALLER)


def test_the_link_is_ipv6_alone(own: System) -> None:
    (join_log,) = [own.nodes()["edge-1"]["remote_address"]]
    assert join_log.startswith(f"[{NAT6}]:")
    assert (
        curl(own.topology.edge(1), "-k", "--max-time", "20", "https://203.0.113.10:10262/v1/ca").returncode
        == 7
    )


def test_both_addresses_of_a_dual_stack_edge_are_captured(own: System) -> None:
    assert sorted(own.nodes()["edge-1"]["captured"]) == sorted([EDGE_1, EDGE6])
    cloud = own.topology.cloud
    assert curl_json(cloud, "-6", f"http://[{EDGE6}]:9081/machine")["machine"] == "edge-1"
    assert curl_json(cloud, "-4", f"http://{EDGE_1}:9082/")["machine"] == "edge-1"


def test_the_agent_dials_the_address_that_was_called(own: System) -> None:
    edge = own.topology.edge(1)
    with listen(edge, ("127.0.0.1", 9090)):  # a port of IPv4 alone says nothing about IPv6
        refused = curl(own.topology.cloud, "-6", "--max-time", "20", f"http://[{EDGE6}]:9082/")
    assert refused.returncode in RESET
    failure = own.status()["recent_failures"][-1]
    assert (failure["cause"], failure["target"]) == ("refused", f"[{EDGE6}]:9082")


def test_a_localhost_port_of_an_ipv6_address_is_dialled_on_its_loopback(own: System) -> None:
    with listen6(own.topology.edge(1), "::1", 9083) as target, dial(own.topology.cloud, (EDGE6, 9083)):
        served, (address, *_) = target.accept()
        served.close()
        assert address == "::1"


def listen6(host: Host, address: str, port: int) -> socket.socket:
    listener = inside(host, lambda: socket.create_server((address, port), family=socket.AF_INET6))
    listener.settimeout(30)
    return listener


def test_a_caller_routed_through_the_server(own: System, caller: Host) -> None:
    assert curl_json(caller, "-6", f"http://[{EDGE6}]:9081/machine")["machine"] == "edge-1"
    assert curl_json(caller, "-4", f"http://{EDGE_1}:9082/")["machine"] == "edge-1"


def test_what_is_no_edge_is_only_routed(own: System, caller: Host) -> None:
    with listen6(own.topology.cloud, CLOUD6, 9081) as target, dial(caller, (CLOUD6, 9081)):
        served, (address, *_) = target.accept()
        served.close()
        assert address == CALLER6


def test_a_caller_outside_of_caller_networks_is_not_served(own: System) -> None:
    stranger = Host("stranger", own.topology.cloud.namespace.removesuffix("cloud") + "stranger", STRANGER6)
    refused = curl(stranger, "-6", "--max-time", "2", f"http://[{EDGE6}]:9081/machine")
    assert refused.returncode in {7, 28}
    direct = curl(
        stranger, "-6", "--max-time", "2", f"http://[{HERE6}]:10264/machine", "-H", f"Host: [{EDGE6}]:9081"
    )
    assert direct.returncode != 0


@pytest.mark.parametrize(
    "header",
    [f"Host: [{EDGE6}]:9081", f"Host: [{EDGE6.upper()}]:9081", f"X-Tunnel-Proxy-Dest: [{EDGE6}]:9081"],
)
def test_directly_by_an_ipv6_literal(own: System, header: str) -> None:
    assert curl_json(own.topology.cloud, "-H", header, "http://[::1]:10264/machine")["machine"] == "edge-1"


def test_a_literal_that_is_no_edges_is_refused(own: System) -> None:
    refused = own.topology.cloud.run(
        ["curl", "-sS", "-H", "Host: [fd00:192:168:2::9]:9081", "http://[::1]:10264/"]
    )
    assert json.loads(refused.stdout) == {
        "error": "no node has the address fd00:192:168:2::9; see `tunnelctl nodes`", "cause": "no-such-node"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("where", "options"),
    [
        ("[::1]:10263", ("-servername", EDGE6)),
        (f"[{EDGE6}]:9443", ()),
    ],
)
def test_tls_over_ipv6(own: System, where: str, options: tuple[str, ...]) -> None:
    said = tls.s_client(own.topology.cloud, where, "-CAfile", own.directory / "edge-1.pem", *options)
    assert "subject=CN=edge-1" in said
    assert "Verify return code: 0 (ok)" in said


def test_a_transfer_is_whole(own: System, caller: Host) -> None:
    big = own.directory / "www" / "big"
    big.write_bytes(os.urandom(8 << 20))
    got = own.directory / "got"
    for host in (own.topology.cloud, caller):
        done = curl(host, "-6", "-o", got, f"http://[{EDGE6}]:9081/big")
        assert done.returncode == 0, done.stderr
        assert got.read_bytes() == big.read_bytes()


def test_the_table_and_the_routes_are_gone_with_the_server(own: System) -> None:
    cloud = own.topology.cloud
    routes = json.loads(cloud.run(["ip", "-j", "-6", "route", "show", "proto", "126"]).stdout)
    assert [route["dst"] for route in routes] == [EDGE6]
    own.processes.end("server")
    assert cloud.run(["nft", "list", "ruleset"]).stdout == ""
    for family in ("-4", "-6"):
        assert json.loads(cloud.run(["ip", "-j", family, "route", "show", "proto", "126"]).stdout) == []
