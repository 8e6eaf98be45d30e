"""Waiting until server and agents run as they were asked to; and why they do not."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from tunnel_server.kube.apiserver import container_log
from tunnel_server.kube.failures import ApiFailure
from tunnel_server.kube.references import DEPLOYMENTS, ObjectReference
from tunnel_server.kube.resources import DAEMON_SETS, NODES, PODS
from tunnelctl.cluster_arguments import NAMESPACE
from tunnelctl.errors import CommandError
from tunnelctl.install.manifests import AGENT, SERVER
from tunnelctl.install.scheduling import is_ready, waiting_reasons

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import Object

PODS_OF_OURS = "app.kubernetes.io/name=edge-tunnel"
PAUSE = 1.0  # seconds between two looks
_LOG_LINES = 3


def wait(cluster: Cluster, timeout: float, tell: Callable[[str], None]) -> None:
    """Wait until the server is available, and an agent ready on every edge that is there.

    Raises CommandError after `timeout` seconds, with what is not well; ApiFailure.
    """
    deadline = time.monotonic() + timeout
    said = ""
    while missing := lacking(cluster):
        if time.monotonic() > deadline:
            raise CommandError(f"after {timeout:g} s {missing}{_why(cluster)}")
        if missing != said:
            tell(f"waiting: {missing}")
            said = missing
        time.sleep(PAUSE)


def lacking(cluster: Cluster) -> str:
    """Return what is not as it should be yet, "" if all is. Edges that are away are not waited for."""
    server = cluster.find(ObjectReference(DEPLOYMENTS, SERVER, NAMESPACE))
    agents = cluster.find(ObjectReference(DAEMON_SETS, AGENT, NAMESPACE))
    if server is None or agents is None:
        return "the server's Deployment or the agents' DaemonSet is not there"
    if not _available(server):
        return "the server is not ready"
    status = agents.get("status") or {}
    if status.get("observedGeneration", 0) < agents["metadata"]["generation"]:
        return "the agents are not started yet"
    here = {each["metadata"]["name"] for each in cluster.all_of(NODES) if is_ready(each)}
    pods = [
        each
        for each in _pods(cluster, "agent")
        if each["spec"].get("nodeName") in here and not each["metadata"].get("deletionTimestamp")
    ]
    unready = [each["spec"]["nodeName"] for each in pods if not is_ready(each)]
    if unready:
        return f"agents are not linked on {', '.join(sorted(unready)[:5])}"
    away = status.get("desiredNumberScheduled", 0) - len(pods)
    if status.get("updatedNumberScheduled", 0) < status.get("desiredNumberScheduled", 0) - max(0, away):
        return "agents of the version before are still there"
    return ""


def _available(server: Object) -> bool:
    status, replicas = server.get("status") or {}, server["spec"].get("replicas", 1)
    return bool(
        status.get("observedGeneration", 0) >= server["metadata"]["generation"]
        and status.get("updatedReplicas", 0) >= replicas
        and status.get("availableReplicas", 0) >= replicas
    )


def _why(cluster: Cluster) -> str:
    """Repeat what kubelet, scheduler and the program itself say of the first pod that is not ready."""
    for component in ("server", "agent"):
        for pod in _pods(cluster, component):
            if not is_ready(pod):
                reasons = [*waiting_reasons(pod), *_last_words(cluster, pod)]
                where = pod["spec"].get("nodeName")
                on = f" on {where}" if where else ""
                why = "; ".join(reasons) or (pod.get("status") or {}).get("phase", "")
                return f": pod {pod['metadata']['name']}{on}: {why}"
    return ""


def _last_words(cluster: Cluster, pod: Object) -> list[str]:
    """Return how containers ended, and the end of their logs, as far as these can be had."""
    words = []
    status = pod.get("status") or {}
    for each in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        ended = (each.get("lastState") or {}).get("terminated")
        if each.get("ready") or not ended:
            continue
        text = (ended.get("message") or "").strip()
        with contextlib.suppress(ApiFailure):
            text = text or container_log(cluster, pod, each["name"], lines=_LOG_LINES, previous=True).strip()
        words.append(
            f"it ended with {ended['exitCode']} ({ended.get('reason')})" + (f": {text}" if text else "")
        )
    return words


def _pods(cluster: Cluster, component: str) -> list[Object]:
    return cluster.all_of(PODS, NAMESPACE, labels=f"{PODS_OF_OURS},app.kubernetes.io/component={component}")
