"""What becomes of calls and edges while a part is away: the server's pod, an agent's, kube-apiserver."""

import re
import shutil
import subprocess

import pytest

from deploy import render
from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.documented import NETWORKS, shown
from tests.e2e.cluster.node import STATIC_PODS
from tests.e2e.cluster.shipped import NAMESPACE, Shipped

STATIC_POD = render.ROOT / render.STATIC_POD
_RUNNING = ("pidof", "-x", "tunnel-agent")
_OURS = ("-n", NAMESPACE)
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module", autouse=True)
def installed(cluster: Cluster, installation: Shipped) -> None:
    """Both ends are up."""
    cluster.control_plane.configure_api()
    installation.install(shown(NETWORKS, "yaml", "callerNetworks"))


def _logs(cluster: Cluster) -> str:
    done = cluster.control_plane.try_kubectl("logs", "--tail=1", "app-edge-3", "-c", "main", timeout=15)
    return done.stdout


def test_logs_and_exec(cluster: Cluster) -> None:
    cluster.until(lambda: re.fullmatch(r"tick \d+\n", _logs(cluster)))
    assert cluster.kubectl("exec", "app-edge-3", "-c", "main", "--", "hostname") == "app-edge-3\n"


def test_two_nodes_with_one_address_are_told_of_in_an_event(cluster: Cluster) -> None:
    def told() -> list[str]:
        words = ["get", "events", "-A", "-o", "jsonpath={range .items[*]}{.message}{'\\n'}{end}"]
        return [line for line in cluster.kubectl(*words).splitlines() if "192.168.1.7" in line]

    (line, *_) = cluster.until(told)
    assert "edge-1" in line
    assert "edge-2" in line


def test_a_server_that_is_deleted_meanwhile(cluster: Cluster) -> None:
    """`logs -f` ends, as the deployment's next pod knows nothing of it; the next `logs` is answered."""
    words = cluster.control_plane.kubectl_command("logs", "-f", "--tail=1", "app-edge-3", "-c", "main")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as follower:
        assert follower.stdout is not None
        try:
            assert follower.stdout.readline().startswith("tick ")
            cluster.kubectl(*_OURS, "delete", "pod", "-l", "app.kubernetes.io/component=server")
            follower.communicate(timeout=30)
        finally:
            follower.kill()
    cluster.until(lambda: re.fullmatch(r"tick \d+\n", _logs(cluster)), timeout=60)


def test_an_agent_restarts_while_the_api_is_away(cluster: Cluster) -> None:
    node = cluster.nodes["edge-3"]
    (before,) = node.try_(_RUNNING).stdout.split()
    cluster.control_plane.stop_api()
    try:
        node.try_(["kill", "-KILL", before])
        cluster.until(lambda: node.try_(_RUNNING).stdout.strip() not in {"", before}, timeout=60)
        cluster.until(lambda: _kubelet_answers(cluster), timeout=60)
    finally:
        cluster.start_api()
    cluster.until(lambda: re.fullmatch(r"tick \d+\n", _logs(cluster)), timeout=60)


def test_a_static_pod_needs_no_api(cluster: Cluster) -> None:
    """It goes on with the identity that the DaemonSet's agent left on the node, and keeps that one away."""
    node, plane = cluster.nodes["edge-3"], cluster.control_plane
    shutil.copy(STATIC_POD, plane.directory / "node-edge-3")  # /files there
    node.try_(["mkdir", "-p", STATIC_PODS])
    cluster.kubectl("label", "node", "edge-3", "edge-tunnel.io/own-agent=static")
    cluster.until(lambda: not node.try_(_RUNNING).stdout, timeout=60)
    assert not _kubelet_answers(cluster)
    plane.stop_api()
    try:
        node.try_(["cp", f"/files/{STATIC_POD.name}", STATIC_PODS])
        cluster.until(lambda: _kubelet_answers(cluster), timeout=60)
    finally:
        cluster.start_api()
    cluster.until(lambda: re.fullmatch(r"tick \d+\n", _logs(cluster)), timeout=60)
    node.try_(["rm", "-r", f"{STATIC_PODS}/{STATIC_POD.name}"])
    cluster.until(lambda: not node.try_(_RUNNING).stdout, timeout=60)
    cluster.kubectl("label", "node", "edge-3", "edge-tunnel.io/own-agent-")
    cluster.until(lambda: _kubelet_answers(cluster), timeout=60)


def _kubelet_answers(cluster: Cluster) -> bool:
    call = ["curl", "-sSk", "--max-time", "3", "https://192.168.3.9:10250/"]
    return cluster.topology.cloud.run(call).stdout == "404 page not found\n"
