"""A yurt-tunnel that is there: recognising it, stopping it so that rules and ports are free, and starting it.

Stopped, its objects stay, with a note of how they were: whoever goes back to it loses nothing. Its ConfigMaps
are read by our server as they are, and never touched here.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tunnel_server.kube.references import DEPLOYMENTS, ObjectReference
from tunnel_server.kube.resources import DAEMON_SETS, NODES, PODS
from tunnelctl.errors import CommandError
from tunnelctl.install.scheduling import is_ready

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import Object
    from tunnelctl.install.undoing import Undoing

NAMESPACE = "kube-system"
WORKLOADS = (
    ObjectReference(DEPLOYMENTS, "yurt-tunnel-server", NAMESPACE),
    ObjectReference(DAEMON_SETS, "yurt-tunnel-server", NAMESPACE),  # v0.2.0 wrote of one
    ObjectReference(DAEMON_SETS, "yurt-tunnel-agent", NAMESPACE),
)
STOPPED = "edge-tunnel.io/stopped"
"""Annotation of a workload that we stopped, with its replicas; and a label that no node has."""

CLEANS_UP = (0, 4, 1)
"""The first version that takes its iptables rules away when it ends."""
PAUSE = 1.0  # seconds between two looks


@dataclass(frozen=True, slots=True)
class Workload:
    """One that was found."""

    reference: ObjectReference
    live: Object

    @property
    def stopped(self) -> bool:
        """Whether we stopped it."""
        return STOPPED in (self.live["metadata"].get("annotations") or {})

    @property
    def runs(self) -> bool:
        """Whether it has pods, or will."""
        if self.reference.resource is DEPLOYMENTS:
            return bool(self.live["spec"].get("replicas", 1))
        return not self.stopped

    @property
    def image(self) -> str:
        """Its first container's."""
        return str(self.live["spec"]["template"]["spec"]["containers"][0].get("image", ""))

    def __str__(self) -> str:
        return f"{self.reference} ({self.image})"


def find(cluster: Cluster) -> list[Workload]:
    """Return what is there of it; raises ApiFailure."""
    found = ((each, cluster.find(each)) for each in WORKLOADS)
    return [Workload(reference, live) for reference, live in found if live is not None]


def leaves_rules(workloads: list[Workload]) -> bool:
    """Whether its server is of a version that leaves its iptables rules behind."""
    for each in workloads:
        version = re.search(r":v?(\d+)\.(\d+)\.(\d+)", each.image)
        if each.reference.name.endswith("-server") and version:
            return tuple(map(int, version.groups())) < CLEANS_UP
    return False


def stop(
    cluster: Cluster, workloads: list[Workload], undoing: Undoing, tell: Callable[[str], None], timeout: float
) -> None:
    """Stop what runs, and wait until its pods are gone; raises CommandError if they stay, ApiFailure."""
    for each in workloads:
        if not each.runs:
            continue
        undoing.remember(f"stopping {each.reference}", partial(start, cluster, each.reference))
        _change(cluster, each.reference, _stopped(each))
        tell(f"stopped {each.reference}")
    _wait(cluster, workloads, time.monotonic() + timeout)


def start(cluster: Cluster, reference: ObjectReference) -> str:
    """Put a workload back as it was before `stop`; returns what was done, "" if we had not stopped it."""
    live = cluster.find(reference)
    if live is None:
        return ""
    workload = Workload(reference, live)
    if not workload.stopped:
        return ""
    annotations = {"annotations": {STOPPED: None}}
    if reference.resource is DEPLOYMENTS:
        before = json.loads(live["metadata"]["annotations"][STOPPED])
        # Somebody who scaled it meanwhile knows better.
        spec: dict[str, Any] = {} if workload.runs else {"replicas": before["replicas"]}
    else:
        spec = {"template": {"spec": {"nodeSelector": {STOPPED: None}}}}
    _change(cluster, reference, {"metadata": annotations, "spec": spec})
    return f"started {reference} again"


def _change(cluster: Cluster, reference: ObjectReference, change: Object) -> None:
    cluster.merge(reference.resource, reference.name, change, reference.namespace)


def _stopped(workload: Workload) -> Object:
    if workload.reference.resource is DEPLOYMENTS:
        note = json.dumps({"replicas": workload.live["spec"].get("replicas", 1)})
        return {"metadata": {"annotations": {STOPPED: note}}, "spec": {"replicas": 0}}
    return {
        "metadata": {"annotations": {STOPPED: "{}"}},
        "spec": {"template": {"spec": {"nodeSelector": {STOPPED: "true"}}}},
    }


def _wait(cluster: Cluster, workloads: list[Workload], deadline: float) -> None:
    while left := _pods(cluster, workloads):
        if time.monotonic() > deadline:
            names = ", ".join(f"{pod['metadata']['name']} on {pod['spec']['nodeName']}" for pod in left[:3])
            raise CommandError(
                f"pods of yurt-tunnel do not end: {names}; see `kubectl -n {NAMESPACE} describe pod`, "
                "or give them longer with --timeout"
            )
        time.sleep(PAUSE)


def _pods(cluster: Cluster, workloads: list[Workload]) -> list[Object]:
    """Those on nodes that are there: an edge that is away ends its pod once it is back."""
    found = []
    for each in workloads:
        labels = each.live["spec"]["selector"].get("matchLabels") or {}
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        found += cluster.all_of(PODS, each.reference.namespace, labels=selector)
    if not found:
        return []
    here = {node["metadata"]["name"] for node in cluster.all_of(NODES) if is_ready(node)}
    return [each for each in found if each["spec"].get("nodeName") in here]
