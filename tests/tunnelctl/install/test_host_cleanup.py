"""What removes directories from hosts, and from which."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tunnelctl.install.host_cleanup import HostDirectory, kept_by, ran_on, remover, without_pods
from tunnelctl.install.manifests import load, named, pod_spec
from tunnelctl.install.ownership import is_ours
from tunnelctl.install.scheduling import selects

EDGE = {"metadata": {"name": "edge-1", "labels": {"openyurt.io/is-edge-worker": "true"}}}
OTHER = {"metadata": {"name": "cp-1", "labels": {}}}


def kept(kind: str, name: str, hosts: set[str] | None = None) -> HostDirectory:
    found = kept_by(named(load(), kind, name), hosts)
    assert found is not None
    return found


def test_agents_have_it_where_they_are_meant_to_be() -> None:
    agents = kept("DaemonSet", "tunnel-agent")
    assert str(agents.path) == "/var/lib/edge-tunnel-agent"
    assert agents.nodes([EDGE, OTHER]) == [EDGE]


def test_agents_that_were_told_to_leave_had_it_there_too() -> None:
    workload = named(load(), "DaemonSet", "tunnel-agent")
    without_pods(workload, kept("DaemonSet", "tunnel-agent"))
    assert not selects(pod_spec(workload), EDGE)
    agents = kept_by(workload)
    assert agents is not None
    assert agents.nodes([EDGE, OTHER]) == [EDGE]
    assert "nodeSelector" not in pod_spec(remover(agents, "tunnel"))


def test_the_server_has_it_where_it_was() -> None:
    server = kept("Deployment", "tunnel-server", {"cp-1"})
    assert server.nodes([EDGE, OTHER]) == [OTHER]
    made = remover(server, "tunnel")
    assert is_ours(made)
    assert made["metadata"]["namespace"] == "tunnel"
    affinity: Any = pod_spec(made)["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term == {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["cp-1"]}]}


def test_a_server_that_was_told_to_leave_says_where_it_was() -> None:
    workload = named(load(), "Deployment", "tunnel-server")
    assert ran_on(workload) == set()
    without_pods(workload, kept("Deployment", "tunnel-server", {"cp-1", "cp-2"}))
    assert workload["spec"]["replicas"] == 0
    assert ran_on(workload) == {"cp-1", "cp-2"}


@pytest.mark.parametrize("there", [True, False])
def test_a_directory_that_is_not_there_is_removed_too(there: bool, tmp_path: Path) -> None:
    directory = tmp_path / "state"
    if there:
        directory.mkdir()
        (directory / "node.key").write_text("secret")
    (container,) = pod_spec(remover(kept("DaemonSet", "tunnel-agent"), "tunnel"))["initContainers"]
    _python, *words, _inside = container["command"]
    subprocess.run([sys.executable, *words, directory], check=True)
    assert not directory.exists()
