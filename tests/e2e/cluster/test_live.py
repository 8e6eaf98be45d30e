"""What changes in the cluster is so within seconds: in the kernel of the server's host, and for who calls."""

import json
from collections.abc import Iterator

import pytest

from tests.e2e.cluster.cluster import EDGE as LABELS
from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.documented import NETWORKS, shown
from tests.e2e.cluster.shipped import Shipped
from tests.e2e.system import System, curl
from tunnelctl.demo.topology import Host

EDGE, ADDRESS = "edge-3", "192.168.3.9"
SHARED = "192.168.1.7"
LABEL = "openyurt.io/is-edge-worker"
PORTS = ("-n", "kube-system", "configmap/yurt-tunnel-server-cfg")
SECONDS = 10
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module", autouse=True)
def installed(cluster: Cluster, installation: Shipped) -> Iterator[Shipped]:
    """Every edge has a page of its own at 9081, which says who it is."""
    cluster.control_plane.configure_api()
    installation.install(shown(NETWORKS, "yaml", "callerNetworks"))
    pages = System(cluster.topology, cluster.directory, cluster.processes)
    started = [name for name in cluster.nodes if name.startswith("edge-")]
    for name in started:
        pages.serve(cluster.topology.host(name), "http", 9081)
    yield installation
    for name in started:
        cluster.processes.end(f"http-{name}-9081")
    cluster.kubectl("delete", *PORTS, "--ignore-not-found")


def _kubelet(cluster: Cluster) -> bool:
    call = ["curl", "-sSk", "--max-time", "2", f"https://{ADDRESS}:10250/"]
    return cluster.topology.cloud.run(call).stdout == "404 page not found\n"


def _page(cloud: Host, url: str, *words: str) -> str:
    """Which machine answers; nothing if none does."""
    done = curl(cloud, "--max-time", "2", *words, url)
    return json.loads(done.stdout)["machine"] if done.returncode == 0 else ""


def test_a_node_that_is_relabelled(cluster: Cluster, installed: Shipped) -> None:
    cluster.until(lambda: _kubelet(cluster), timeout=SECONDS)
    cluster.kubectl("label", "node", EDGE, f"{LABEL}-")
    try:
        cluster.until(lambda: ADDRESS not in installed.captured(), timeout=SECONDS)
        assert not _kubelet(cluster)
    finally:
        cluster.kubectl("label", "node", EDGE, f"{LABEL}=true")
    cluster.until(lambda: ADDRESS in installed.captured(), timeout=SECONDS)
    cluster.until(lambda: _kubelet(cluster))  # once its agent's pod is there again


def test_lists_of_ports(cluster: Cluster, installed: Shipped) -> None:
    cloud, url = cluster.topology.cloud, f"http://{ADDRESS}:9081/"
    assert not _page(cloud, url)
    installed.ctl("map-port", "9081=10264")
    cluster.until(lambda: _page(cloud, url) == EDGE, timeout=SECONDS)
    # Edited by hand, and half of it wrong: what is right counts.
    change = json.dumps({"data": {"dnat-ports-pair": "", "http-proxy-ports": "nonsense"}})
    cluster.kubectl("patch", "-n", PORTS[1], PORTS[2], "--type=merge", "-p", change)
    cluster.until(lambda: not _page(cloud, url), timeout=SECONDS)
    change = json.dumps({"data": {"http-proxy-ports": "nonsense, 9081"}})
    cluster.kubectl("patch", "-n", PORTS[1], PORTS[2], "--type=merge", "-p", change)
    cluster.until(lambda: _page(cloud, url) == EDGE, timeout=SECONDS)
    events = ("-n", "kube-system", "get", "events", "-o", "jsonpath={.items[*].message}")
    cluster.until(lambda: '"nonsense"' in cluster.kubectl(*events))
    cluster.kubectl("delete", *PORTS)
    cluster.until(lambda: not _page(cloud, url), timeout=SECONDS)
    installed.ctl("map-port", "9081=10264")
    cluster.until(lambda: _page(cloud, url) == EDGE, timeout=SECONDS)


def test_a_node_that_is_readdressed(cluster: Cluster, installed: Shipped) -> None:
    """Its kubelet would write its own address again, and does in the end: it is stopped meanwhile."""
    node, cloud, fresh = cluster.nodes[EDGE], cluster.topology.cloud, "192.168.3.77"
    node.try_(["ip", "address", "add", f"{fresh}/24", "dev", _interface(cluster.topology.host(EDGE))])
    with node.frozen("kubelet"):
        addresses = [{"$patch": "replace"}, {"type": "InternalIP", "address": fresh}]
        change = json.dumps({"status": {"addresses": addresses}})
        cluster.kubectl("patch", "node", EDGE, "--subresource=status", "--type=strategic", "-p", change)
        cluster.until(lambda: {fresh, ADDRESS} & installed.captured() == {fresh}, timeout=SECONDS)
        cluster.until(lambda: _page(cloud, f"http://{fresh}:9081/") == EDGE, timeout=SECONDS)
        assert not _page(cloud, f"http://{ADDRESS}:9081/")
    cluster.until(lambda: {fresh, ADDRESS} & installed.captured() == {ADDRESS}, timeout=20)
    cluster.until(lambda: _page(cloud, f"http://{ADDRESS}:9081/") == EDGE, timeout=SECONDS)


def test_two_with_one_address_and_then_one_of_them_is_removed(cluster: Cluster) -> None:
    """Nobody has it while both claim it, and each is reached by its name; it is the one's who stays."""
    cloud, url = cluster.topology.cloud, f"http://{SHARED}:9081/"

    def by_name(edge: str) -> str:
        return _page(cloud, "http://127.0.0.1:10264/", "-H", f"Host: {edge}:9081")

    assert not _page(cloud, url)
    assert [by_name(edge) for edge in ("edge-1", "edge-2")] == ["edge-1", "edge-2"]
    cluster.kubectl("delete", "node", "edge-2")
    try:
        cluster.until(lambda: _page(cloud, url) == "edge-1", timeout=SECONDS)
    finally:
        # A kubelet makes its Node when it starts. What had no node is gone meanwhile.
        cluster.nodes["edge-2"].end("kubelet")
        cluster.nodes["edge-2"].join(LABELS)
    cluster.until(lambda: not _page(cloud, url))
    cluster.until(lambda: by_name("edge-2") == "edge-2")
    cluster.control_plane.try_kubectl("delete", "pod", "app-edge-2", "--force", "--grace-period=0")
    cluster.run("edge-2")


def _interface(host: Host) -> str:
    found = json.loads(host.run(["ip", "-j", "-4", "route", "show", "default"]).stdout)
    return str(found[0]["dev"])
