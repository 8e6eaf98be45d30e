"""Installing into a whole cluster, by `tunnelctl` and by kubectl: it runs, is seen, and leaves nothing."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy import render
from tests.e2e.cluster import metrics, tunnel_image
from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.documented import put
from tests.e2e.cluster.shipped import AGENTS, SERVER
from tests.e2e.system import BIN
from tunnelctl.cli import INTERRUPTED
from tunnelctl.demo.topology import Host
from tunnelctl.errors import FAILED, REFUSED

EDGE = "edge-3"
pytestmark = pytest.mark.timeout(240)
STATE = "/var/lib/edge-tunnel-agent"
SOCKETS = "/run/edge-tunnel"
PODS = "10.244.0.0/16"
HOLDS_A_PORT = (
    "import socket, sys; s = socket.create_server(('', int(sys.argv[1]))); print(flush=True); input()"
)
TAKEN = re.compile("can't listen on 0.0.0.0:10262: another program has the port, one of user 0: `(ss .*?)`")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An edge, and our image on both nodes, each of which has a pod network, as an application is there."""
    directory = tmp_path_factory.mktemp("install")
    (files := directory / "cluster").mkdir()
    with Cluster(files) as made:
        made.add(EDGE)
        made.run(EDGE, "cloud")
        for node in made.nodes.values():
            node.load(tunnel_image.archive())
        yield made


@pytest.fixture(scope="module")
def tunnelctl(fresh: Cluster) -> Run:
    """The command of the cluster's administrator, on the cloud host unless it is said."""

    def run(
        *words: str, code: int = 0, host: Host = fresh.topology.cloud
    ) -> subprocess.CompletedProcess[str]:
        command = [BIN / "tunnelctl", *words, "--kubeconfig", fresh.control_plane.kubeconfig]
        done = subprocess.run(
            host.command([str(each) for each in command]),
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


def test_install_look_and_uninstall(fresh: Cluster, tunnelctl: Run) -> None:
    before = _workloads(fresh)
    rules = _kernel(fresh)
    assert fresh.control_plane.try_kubectl("logs", "app-edge-3", "-c", "main", timeout=10).returncode
    address = f"{fresh.topology.cloud.address}:10262"
    # Somebody has made the namespace: it stays, and so would the authority in it, and agents' keys.
    fresh.kubectl("create", "namespace", "edge-tunnel")
    options = ["--edge-networks", "192.168.0.0/16", "--server-address", address, "--caller-networks", PODS]
    told = tunnelctl("install", *options, "--wait", "--timeout", "60s").stdout
    assert told.endswith("installed, and running\n")
    assert "secret/edge-tunnel-ca\n" in _state(fresh)
    assert fresh.nodes[EDGE].try_(["ls", f"{STATE}/node.key"]).returncode == 0
    assert fresh.kubectl("logs", "app-edge-3", "-c", "main", "--tail=1")
    _looks_well(fresh, tunnelctl)
    _names_what_fails(fresh, tunnelctl)
    _metrics_are_had(fresh)
    _interrupted_uninstall(fresh)
    gone = tunnelctl("uninstall").stdout
    assert "removed the state of agents from their hosts\n" in gone
    assert gone.endswith("uninstalled\n")
    assert _state(fresh) == "configmap/kube-root-ca.crt\n"
    fresh.kubectl("delete", "namespace", "edge-tunnel")
    assert _workloads(fresh) == before
    fresh.until(lambda: _kernel(fresh) == rules)  # once what a pod had is gone
    assert not fresh.nodes[EDGE].try_(["ls", "-d", STATE]).stdout
    assert not fresh.nodes["cloud"].try_(["ls", "-d", SOCKETS]).stdout
    assert fresh.control_plane.try_kubectl("logs", "app-edge-3", "-c", "main", timeout=10).returncode


def test_a_failed_install_takes_back_what_its_pods_did(fresh: Cluster, tunnelctl: Run) -> None:
    """Both ends run, and no edge reaches the server: the authority, rules, sockets and keys go."""
    before, rules = _workloads(fresh), _kernel(fresh)
    options = ["--edge-networks", "192.168.0.0/16", "--server-address", "203.0.113.99"]
    said = tunnelctl("install", *options, "--wait", "--timeout", "12s", code=FAILED)
    assert "agents are not linked on edge-3" in said.stderr
    assert "deleted Secret edge-tunnel/edge-tunnel-ca" in said.stdout
    assert said.stderr.endswith("everything is as it was before\n")
    assert not fresh.kubectl("get", "namespace", "edge-tunnel", "--ignore-not-found", "-o", "name")
    assert _workloads(fresh) == before
    fresh.until(lambda: _kernel(fresh) == rules)
    assert not fresh.nodes[EDGE].try_(["ls", "-d", STATE]).stdout
    assert not fresh.nodes["cloud"].try_(["ls", "-d", SOCKETS]).stdout


def test_a_port_that_a_program_of_the_host_has(fresh: Cluster, tunnelctl: Run) -> None:
    """On that host it is named before anything changes. Elsewhere the server alone sees it: `status` repeats
    its words, and what they say names the program."""
    cloud, elsewhere = fresh.topology.cloud, fresh.topology.host(EDGE)
    options = ["--edge-networks", "192.168.0.0/16", "--server-address", f"{cloud.address}:10262"]
    command = [sys.executable, "-c", HOLDS_A_PORT, "10262"]
    with subprocess.Popen(cloud.command(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            refused = tunnelctl("install", *options, code=REFUSED).stdout
            name = Path(f"/proc/{holder.pid}/comm").read_text().strip()
            assert (
                f"✗ ports           10262 on cloud: a program there, {name} (process {holder.pid})" in refused
            )
            told = tunnelctl("install", *options, host=elsewhere).stdout
            assert "no pod has those that ours need; other programs show when ours start" in told
            assert told.endswith("get pods; what keeps it: tunnelctl status\n")
            fresh.until(lambda: TAKEN.search(tunnelctl("status", code=FAILED).stdout), timeout=40)
            said = tunnelctl("status", code=FAILED).stdout  # whether it is just being started, or waits
            assert (found := TAKEN.search(said)), said
            assert f"pid={holder.pid}," in cloud.run(["sh", "-c", found[1]]).stdout
            tunnelctl("uninstall")
        finally:
            holder.kill()


def test_the_plain_manifests(fresh: Cluster) -> None:
    """Edited as the page on installing says, applied and deleted; its networks are the edge's already."""
    rules, kubectl = _kernel(fresh), fresh.control_plane.kubectl
    text = put(
        (render.ROOT / render.MANIFESTS).read_text(), **{"tunnel.example.org": fresh.topology.cloud.address}
    )
    kubectl("apply", "--server-side", "-f", "-", stdin=text)
    for each in (SERVER, AGENTS):
        kubectl("-n", "edge-tunnel", "rollout", "status", each, "--timeout=60s", timeout=70)
    assert fresh.kubectl("logs", "app-edge-3", "-c", "main", "--tail=1")
    kubectl("delete", "-f", "-", stdin=text, timeout=60)
    fresh.until(lambda: _kernel(fresh) == rules)
    assert fresh.control_plane.try_kubectl("logs", "app-edge-3", "-c", "main", timeout=10).returncode


def _state(cluster: Cluster) -> str:
    """What is there of what a server writes."""
    return cluster.kubectl("-n", "edge-tunnel", "get", "configmaps,secrets", "-o", "name")


def _metrics_are_had(cluster: Cluster) -> None:
    """By a metrics-server in a pod, which is captured on its way through the server's host."""
    metrics.install(cluster, cluster.directory)
    top = ("top", "node", EDGE, "--no-headers")
    cluster.until(lambda: cluster.control_plane.try_kubectl(*top).stdout.startswith(EDGE), timeout=40)
    for kind, name in (("apiservice", "v1beta1.metrics.k8s.io"), ("deployment", "metrics-server")):
        cluster.kubectl("-n", "kube-system", "delete", kind, name)
    pods = ("-n", "kube-system", "get", "pods", "-l", "k8s-app=metrics-server", "-o", "name")
    cluster.until(lambda: not cluster.kubectl(*pods), timeout=60)


def _interrupted_uninstall(cluster: Cluster) -> None:
    """The agents have ended by then, or will; what they keep is still there."""
    words = [BIN / "tunnelctl", "uninstall", "--kubeconfig", cluster.control_plane.kubeconfig]
    command = cluster.topology.cloud.command([str(each) for each in words])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as uninstalling:
        assert uninstalling.stdout is not None
        for line in uninstalling.stdout:
            if line.startswith("stopped Deployment"):
                uninstalling.terminate()
                break
        uninstalling.communicate(timeout=30)
    assert uninstalling.returncode == INTERRUPTED
    assert cluster.nodes[EDGE].try_(["ls", "-d", STATE]).stdout


def _looks_well(cluster: Cluster, tunnelctl: Run) -> None:
    report = json.loads(tunnelctl("status", "--json").stdout)
    assert report["ok"]
    assert report["server"]["nodes_connected"] == 1
    (edge,) = report["edges"]
    assert edge == {
        "name": EDGE, "ready": True, "agent": "ready", "certificate": "valid", "connected": True,
        "addresses": ["192.168.3.9"], "captured": ["192.168.3.9"], "kubelet": "answers", "failing": None,
    }  # fmt: skip
    shown = tunnelctl("status").stdout
    assert "edge-3  ready  ready  valid        connected  192.168.3.9" in shown
    checks = json.loads(tunnelctl("doctor", "edge-3", "--json").stdout)["checks"]
    states = {each["name"]: each["state"] for each in checks}
    assert set(states.values()) <= {"ok", "skipped"}
    assert states["kubelet"] == states["dial"] == states["agent"] == states["certificate"] == "ok"
    assert "captured on cloud" in checks[-1]["text"]
    assert json.loads(tunnelctl("doctor", "edge-3", "8080", "--json", code=1).stdout)["port"] == 8080


def _names_what_fails(cluster: Cluster, tunnelctl: Run) -> None:
    cluster.kubectl("label", "node", EDGE, "openyurt.io/is-edge-worker-")
    try:
        told = tunnelctl("doctor", EDGE, code=1).stdout
        assert "✗ label" in told
        assert "-> kubectl label node edge-3 openyurt.io/is-edge-worker=true" in told
    finally:
        cluster.kubectl("label", "node", EDGE, "openyurt.io/is-edge-worker=true")
    cluster.until(lambda: json.loads(_status(tunnelctl))["ok"], timeout=30)


def _status(tunnelctl: Run) -> str:
    try:
        return tunnelctl("status", "--json").stdout
    except AssertionError:
        return '{"ok": false}'


def _workloads(cluster: Cluster) -> Any:
    """What runs for others: which pods, since when, restarted how often."""
    found = json.loads(cluster.kubectl("get", "pods", "-A", "-o", "json"))["items"]
    return {
        each["metadata"]["name"]: (
            each["metadata"]["uid"],
            each["spec"]["nodeName"],
            [(c["containerID"], c["restartCount"]) for c in each["status"]["containerStatuses"]],
        )
        for each in found
        if each["metadata"]["namespace"] != "edge-tunnel"
    }


def _kernel(cluster: Cluster) -> tuple[list[str], list[str]]:
    """Tables of nftables and routes on the server's host."""
    run = cluster.topology.cloud.run
    tables = run(["nft", "list", "tables"]).stdout.splitlines()
    return sorted(tables), sorted(run(["ip", "route", "show", "table", "all"]).stdout.splitlines())
