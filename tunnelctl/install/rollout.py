"""Waiting until server and agents run as they were asked to; and why they do not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tunnel_server.kube.references import DEPLOYMENTS, ObjectReference
from tunnel_server.kube.resources import DAEMON_SETS, NODES
from tunnelctl.checks import some
from tunnelctl.cluster_pods import last_warning, pods_of, why_not_ready
from tunnelctl.errors import CommandError
from tunnelctl.install.manifests import AGENT, SERVER, pod_spec
from tunnelctl.install.scheduling import is_ready, selects

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import Object

PAUSE = 0.5  # seconds between two looks


def wait(cluster: Cluster, namespace: str, timeout: float, tell: Callable[[str], None]) -> None:
    """Wait until the server is available, and an agent ready on every edge that is there.

    Raises CommandError after `timeout` seconds, with what is not well; ApiFailure.
    """
    deadline = time.monotonic() + timeout
    said = ""
    while missing := lacking(cluster, namespace):
        if time.monotonic() > deadline:
            raise CommandError(f"after {timeout:g} s {missing}{_why(cluster, namespace)}")
        if missing != said:
            tell(f"waiting: {missing}")
            said = missing
        time.sleep(PAUSE)


def lacking(cluster: Cluster, namespace: str) -> str:
    """Return what is not as it should be yet, "" if all is. Edges that are away are not waited for.

    Raises ApiFailure.
    """
    server, agents = _workloads(cluster, namespace)
    if server is None or agents is None:
        return "the server's Deployment or the agents' DaemonSet is not there"
    if not _available(server):
        return "the server is not ready"
    status = agents.get("status") or {}
    if status.get("observedGeneration", 0) < agents["metadata"]["generation"]:
        return "the agents are not started yet"
    edges = [
        each["metadata"]["name"]
        for each in cluster.all_of(NODES)
        if is_ready(each) and selects(pod_spec(agents), each)
    ]
    pods = {each["spec"].get("nodeName"): each for each in pods_of(cluster, namespace, "agent")}
    # By the nodes: a pod that was never made, since somebody refused it, is in no list of pods.
    if without := [each for each in edges if each not in pods]:
        return f"there is no agent's pod on {some(sorted(without))}"
    if unready := [each for each in edges if not is_ready(pods[each])]:
        return f"agents are not linked on {some(sorted(unready))}"
    away = status.get("desiredNumberScheduled", 0) - len(edges)
    if status.get("updatedNumberScheduled", 0) < status.get("desiredNumberScheduled", 0) - max(0, away):
        return "agents of the version before are still there"
    return ""


def _workloads(cluster: Cluster, namespace: str) -> tuple[Object | None, Object | None]:
    server = cluster.find(ObjectReference(DEPLOYMENTS, SERVER, namespace))
    return server, cluster.find(ObjectReference(DAEMON_SETS, AGENT, namespace))


def _available(server: Object) -> bool:
    status, replicas = server.get("status") or {}, server["spec"].get("replicas", 1)
    return bool(
        status.get("observedGeneration", 0) >= server["metadata"]["generation"]
        and status.get("updatedReplicas", 0) >= replicas
        and status.get("availableReplicas", 0) >= replicas
    )


def _why(cluster: Cluster, namespace: str) -> str:
    """Repeat what is said of the first pod that is not ready; else of those that could not be made."""
    for component in ("server", "agent"):
        for pod in pods_of(cluster, namespace, component, ending=True):
            if not is_ready(pod):
                where = pod["spec"].get("nodeName")
                on = f" on {where}" if where else ""
                return f": pod {pod['metadata']['name']}{on}: {why_not_ready(cluster, pod) or 'Running'}"
    server, agents = _workloads(cluster, namespace)
    conditions = ((server or {}).get("status") or {}).get("conditions") or ()
    for each in conditions:
        if each["type"] == "ReplicaFailure" and each["status"] == "True":
            return f": {each.get('reason')}: {each.get('message')}"
    warning = "" if agents is None else last_warning(cluster, agents)
    return f": {warning}" if warning else ""
