"""The ways in that name the node: EgressSelector and SNI, to two edges that have one address."""

import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.objects import service
from tests.e2e.cluster.test_kubectl import protocols
from tests.e2e.cluster.tunnel import egress_selector
from tests.e2e.system import System, curl

EDGES = ("edge-1", "edge-2")
BY_NAME = "10.96.200.1"


@pytest.fixture(scope="module", params=["unix-socket", "mutual-tls", "by-name"])
def way(request: pytest.FixtureRequest, cluster: Cluster, tunnel: System) -> Iterator[str]:
    """kube-apiserver calls nodes by name first: in CONNECT, or in the TLS that it speaks to the kubelet."""
    plane = cluster.control_plane
    flags = {"kubelet_preferred_address_types": "Hostname,InternalIP"}
    if request.param != "by-name":
        flags["egress_selector_config_file"] = str(egress_selector(tunnel, request.param))
    plane.apply(*service("by-name", BY_NAME, 10250, (cluster.topology.cloud.address, 10263)))
    plane.names.write_text(f"127.0.0.1 localhost\n{BY_NAME} edge-1 edge-2 edge-3\n")
    plane.configure_api(**flags)
    yield request.param
    plane.names.write_text("127.0.0.1 localhost\n")


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("edge", EDGES)
class TestEachOfTwoEdgesWithOneAddress:
    def test_logs(self, cluster: Cluster, edge: str) -> None:
        assert re.fullmatch(r"tick \d+\n", cluster.kubectl("logs", "--tail=1", f"app-{edge}", "-c", "main"))

    @protocols
    def test_exec(self, cluster: Cluster, edge: str, env: dict[str, str]) -> None:
        words = ["exec", f"app-{edge}", "-c", "main", "--", "hostname"]
        assert cluster.control_plane.try_kubectl(*words, env=env).stdout == f"app-{edge}\n"

    @protocols
    def test_port_forward(self, cluster: Cluster, edge: str, env: dict[str, str]) -> None:
        words = cluster.control_plane.kubectl_command("port-forward", f"pod/app-{edge}", "8888:80", env=env)
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as forwarder:
            try:
                assert forwarder.stdout is not None
                assert forwarder.stdout.readline() == "Forwarding from 127.0.0.1:8888 -> 80\n"
                assert (
                    curl(cluster.topology.cloud, "http://127.0.0.1:8888/").stdout
                    == f"hello from app-{edge}\n"
                )
            finally:
                forwarder.kill()

    def test_the_kubelets_metrics(self, cluster: Cluster, edge: str) -> None:
        metrics = cluster.kubectl("get", "--raw", f"/api/v1/nodes/{edge}/proxy/metrics")
        assert f'kubelet_node_name{{node="{edge}"}} 1\n' in metrics
