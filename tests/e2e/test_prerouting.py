"""Callers in pods: behind a veth whose near end has no address, as Calico, Cilium and AWS lay them."""

import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from tests.e2e.network import dial, listen
from tests.e2e.system import CLOUD, EDGE_1, RESET, System, curl, curl_json
from tunnelctl.demo.topology import Host

POD, STRANGER, LATE = "10.244.0.5", "10.99.0.5", "10.98.0.5"
GATEWAY = "169.254.1.1"
URL = f"http://{EDGE_1}:9081/"


@pytest.fixture(scope="module")
def own(deploy_for_module: Callable[..., System]) -> System:
    made = deploy_for_module()
    cloud = made.topology.cloud
    assert cloud.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]).returncode == 0
    made.start_server(caller_networks=["10.244.0.0/16"], prerouting_address=[CLOUD])
    made.serve(made.topology.edge(1), "http", 9081)
    made.add_edge(made.topology.edge(1))
    made.map_port("9081=10264")
    return made


def _pod(system: System, name: str, address: str) -> Host:
    """A namespace routed by the cloud: a /32, a gateway that no interface has, its neighbour entry."""
    cloud = system.topology.cloud
    pod = Host(name, cloud.namespace.removesuffix("cloud") + name, address)
    subprocess.run(["ip", "netns", "add", pod.namespace], check=True)
    link = f"link add name {name} type veth peer name eth0 netns {pod.namespace}"
    near = f"{link}\nlink set dev {name} address 02:00:00:00:00:01 up\nroute add {address} dev {name}\n"
    far = (
        f"link set dev lo up\naddress add {address}/32 dev eth0\nlink set dev eth0 up\n"
        f"route add {GATEWAY} dev eth0\nroute add default via {GATEWAY}\n"
        f"neighbour add {GATEWAY} lladdr 02:00:00:00:00:01 dev eth0\n"
    )
    for host, lines in [(cloud, near), (pod, far)]:
        done = host.run(["ip", "-batch", "-"], stdin=lines)
        assert done.returncode == 0, done.stderr
    return pod


@pytest.fixture(scope="module")
def pod(own: System) -> Host:
    return _pod(own, "pod", POD)


def test_a_pod_reaches_the_edge_at_its_address(pod: Host) -> None:
    assert curl_json(pod, URL)["machine"] == "edge-1"


def test_a_pod_reaches_anything_else_on_that_port_directly(own: System, pod: Host) -> None:
    with listen(own.topology.cloud, (CLOUD, 9081)) as target, dial(pod, (CLOUD, 9081)):
        caller, (address, _) = target.accept()
        caller.close()
        assert address == POD


@pytest.fixture(scope="module")
def stranger(own: System) -> Host:
    return _pod(own, "stranger", STRANGER)


def test_a_caller_outside_the_named_networks_is_not_captured(own: System, stranger: Host) -> None:
    before = own.status()["recent_failures"]
    refused = curl(stranger, "--max-time", "2", URL)
    assert refused.returncode in {7, 28}, refused.stdout
    assert own.status()["recent_failures"] == before, "nft left it alone: the server never saw it"


def test_a_caller_outside_that_others_redirect_is_refused_by_the_server_itself(
    own: System, stranger: Host, pod: Host
) -> None:
    """The table is one lock, the server another: somebody's rule that captures more opens nothing."""
    cloud = own.topology.cloud
    rule = f"ip daddr {EDGE_1} tcp dport 9081 dnat ip to {CLOUD}:10264"
    chain = f"type nat hook prerouting priority -110\n{rule}\n"
    made = cloud.run(["nft", "-f", "-"], stdin=f"table inet theirs {{\nchain c {{\n{chain}}}\n}}\n")
    assert made.returncode == 0, made.stderr
    try:
        assert curl(stranger, "--max-time", "20", URL).returncode in RESET
        failure = own.status()["recent_failures"][-1]
        assert failure["caller"].startswith(f"{STRANGER}:")
        assert (failure["cause"], failure["node"]) == ("not-allowed", "edge-1")
        assert failure["detail"] == f"{STRANGER} is in none of caller-networks"
        assert curl_json(pod, URL)["machine"] == "edge-1"
    finally:
        cloud.run(["nft", "delete table inet theirs"])


def test_a_call_that_names_no_edge_is_refused(own: System, pod: Host) -> None:
    """The listener's own address, dialled directly from a pod: not an open relay."""
    refused = curl(pod, "--max-time", "20", "-H", f"Host: {EDGE_1}:9081", f"http://{CLOUD}:10264/")
    assert refused.returncode != 0


def test_callers_and_the_address_that_serves_them_change_while_it_runs(own: System, pod: Host) -> None:
    cloud, other = own.topology.cloud, "10.50.0.1"
    assert cloud.run(["ip", "address", "add", f"{other}/32", "dev", "lo"]).returncode == 0
    late = _pod(own, "late", LATE)
    assert curl(late, "--max-time", "1", URL).returncode != 0
    with dial(pod, (EDGE_1, 9081)) as standing:
        size = len(own.log("server"))
        with ThreadPoolExecutor(1) as thread:  # there is no moment in which who stays a caller is not one
            begun, done = Event(), Event()

            def call_on() -> None:
                while not done.is_set():
                    dial(pod, (EDGE_1, 9081)).close()
                    begun.set()

            calls = thread.submit(call_on)
            try:
                assert begun.wait(30)
                own.configure(caller_networks=["10.244.0.0/16", "10.98.0.0/16"], prerouting_address=[other])
                own.hang_up()
                own.until(lambda: "configuration: prerouting-address" in own.log("server")[size:], "server")
            finally:
                done.set()
            calls.result()
        assert curl_json(late, URL)["machine"] == "edge-1"
        assert curl_json(pod, URL)["machine"] == "edge-1"
        standing.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert standing.recv(12) == b"HTTP/1.1 200"
    log = own.log("server")[size:]
    assert 'caller-networks: ["10.244.0.0/16"] -> ["10.244.0.0/16", "10.98.0.0/16"]' in log
    assert f'prerouting-address: ["{CLOUD}"] -> ["{other}"]' in log
    assert "needs a restart" not in log
    own.until(lambda: not any(each["address"] == f"{CLOUD}:10264" for each in own.status()["listeners"]))

    own.configure(caller_networks=["10.98.0.0/16"], prerouting_address=["10.50.0.2"])
    own.hang_up()
    own.until(lambda: "stays as it was" in own.log("server")[size:], "server")
    assert (
        "prerouting-address: can't listen on 10.50.0.2:10263: this machine does not have that address"
        in (own.log("server")[size:])
    )
    assert curl_json(pod, URL)["machine"] == "edge-1"
    own.configure(caller_networks=["10.244.0.0/16"], prerouting_address=[CLOUD])
    own.hang_up()
    own.until(lambda: curl(late, "--max-time", "1", URL).returncode != 0)


def test_callers_on_the_host_itself_work_as_well(own: System) -> None:
    assert curl_json(own.topology.cloud, URL)["machine"] == "edge-1"
