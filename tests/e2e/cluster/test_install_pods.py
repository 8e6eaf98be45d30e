"""`tunnelctl install` into a whole cluster: it runs, is seen from afar, and leaves no trace."""

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.cluster import tunnel_image
from tests.e2e.cluster.cluster import Cluster
from tests.e2e.system import BIN

EDGE = "edge-3"
pytestmark = pytest.mark.timeout(180)
STATE = "/var/lib/edge-tunnel-agent"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An edge with an application, and our image on both nodes."""
    directory = tmp_path_factory.mktemp("install")
    (files := directory / "cluster").mkdir()
    with Cluster(files) as made:
        made.add(EDGE)
        made.run(EDGE)
        for node in made.nodes.values():
            node.load(tunnel_image.archive())
        yield made


@pytest.fixture(scope="module")
def tunnelctl(fresh: Cluster) -> Run:
    """The command of the cluster's administrator, on the cloud host."""

    def run(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [BIN / "tunnelctl", *words, "--kubeconfig", fresh.control_plane.kubeconfig]
        done = subprocess.run(
            fresh.topology.cloud.command([str(each) for each in command]),
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
    options = ["--edge-networks", "192.168.0.0/16", "--server-address", address]
    told = tunnelctl("install", *options, "--wait", "--timeout", "60s").stdout
    assert told.endswith("installed, and running\n")
    assert fresh.kubectl("logs", "app-edge-3", "-c", "main", "--tail=1")
    _looks_well(fresh, tunnelctl)
    _names_what_fails(fresh, tunnelctl)
    gone = tunnelctl("uninstall").stdout
    assert "removed the agents' state from the edges\n" in gone
    assert gone.endswith("uninstalled\n")
    assert _workloads(fresh) == before
    assert _kernel(fresh) == rules
    assert not fresh.nodes[EDGE].try_(["ls", "-d", STATE]).stdout
    assert fresh.control_plane.try_kubectl("logs", "app-edge-3", "-c", "main", timeout=10).returncode


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
