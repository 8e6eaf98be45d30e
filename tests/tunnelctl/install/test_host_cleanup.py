"""What removes directories from hosts, and from which."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tunnelctl.install.host_cleanup import LEAVING, HostDirectory, kept_by, remover
from tunnelctl.install.manifests import load, named, pod_spec
from tunnelctl.install.ownership import is_ours

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
    pod_spec(workload)["nodeSelector"] = {LEAVING: "true"}
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
