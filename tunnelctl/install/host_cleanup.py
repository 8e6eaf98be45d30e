"""Taking what a workload keeps on its hosts' disks off them: by a pod on each, since only it gets there.

Of agents, their keys and certificates; of the server, the directory with its sockets.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from tunnel_server.kube.references import DEPLOYMENTS, ObjectReference
from tunnel_server.kube.resources import DAEMON_SETS, NODES, PODS
from tunnelctl.install.manifests import pod_spec
from tunnelctl.install.ownership import INSTALL, MADE_BY, NAME, TUNNEL
from tunnelctl.install.plan import MANAGER
from tunnelctl.install.scheduling import is_ready, selects

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import Object

PAUSE = 0.5  # seconds between two looks
_LEAVING = "edge-tunnel.io/leaving"
"""A label that no node has: agents whose DaemonSet selects it are to go, and their state with them."""
_RAN_ON = "edge-tunnel.io/ran-on"
"""An annotation of the server's Deployment once its pods are to go: the hosts that they were on."""
_COMPONENT = "app.kubernetes.io/component"
_REMOVE = "import os, shutil, sys; os.path.lexists(sys.argv[1]) and shutil.rmtree(sys.argv[1])"
_LAST = "import signal; signal.signal(signal.SIGTERM, lambda *_: exit()); signal.pause()"


@dataclass(frozen=True)
class HostDirectory:
    """A directory of hosts, and whose it is."""

    workload: Object
    """As it is, or was, in the cluster."""
    path: PurePosixPath
    hosts: frozenset[str] | None = None
    """Names of the nodes that have it; None: all that the workload selects."""

    @property
    def spec(self) -> dict[str, Any]:
        """Of the workload's pods, as they were before they were told to leave."""
        spec = dict(pod_spec(self.workload))
        spec["nodeSelector"] = {k: v for k, v in (spec.get("nodeSelector") or {}).items() if k != _LEAVING}
        return spec

    @property
    def remover(self) -> str:
        """The name of the DaemonSet that removes it."""
        return f"{self.workload['metadata']['name']}-cleanup"

    @property
    def whose(self) -> str:
        """What to call it."""
        return "the server's sockets" if self.workload["kind"] == DEPLOYMENTS.kind else "the state of agents"

    def nodes(self, nodes: Iterable[Object]) -> list[Object]:
        """Return those of the nodes that have it."""
        if self.hosts is not None:
            return [each for each in nodes if each["metadata"]["name"] in self.hosts]
        return [each for each in nodes if selects(self.spec, each)]


def kept_by(workload: Object, hosts: Collection[str] | None = None) -> HostDirectory | None:
    """Return what the pods of a workload keep on their hosts; None if nothing."""
    for each in pod_spec(workload).get("volumes", ()):
        if each["name"] in {"state", "run"} and "hostPath" in each:
            path = PurePosixPath(each["hostPath"]["path"])
            return HostDirectory(workload, path, None if hosts is None else frozenset(hosts))
    return None


def without_pods(workload: Object, directory: HostDirectory) -> None:
    """Change the workload so that it has no pods, and still says which hosts have the directory."""
    if directory.hosts is None:
        pod_spec(workload).setdefault("nodeSelector", {})[_LEAVING] = "true"
    else:
        workload["spec"]["replicas"] = 0
        annotations = workload["metadata"].setdefault("annotations", {})
        annotations[_RAN_ON] = ",".join(sorted(directory.hosts))


def ran_on(workload: Object) -> set[str]:
    """Return the hosts that `without_pods` noted."""
    noted = (workload["metadata"].get("annotations") or {}).get(_RAN_ON, "")
    return set(filter(None, noted.split(",")))


def remover(directory: HostDirectory, namespace: str) -> Object:
    """Return a DaemonSet that removes the directory on every host that has it, and then waits.

    Its pods are ready once the directory is gone.
    """
    labels = {NAME: TUNNEL, _COMPONENT: directory.remover}
    mine = directory.spec
    # The files are another user's. The parent is mounted: a mount itself could not be removed.
    limits = {
        "runAsUser": 0, "runAsGroup": 0, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["DAC_OVERRIDE"]},
    }  # fmt: skip
    idle = {**limits, "runAsUser": 65532, "runAsGroup": 65532, "capabilities": {"drop": ["ALL"]}}
    first = mine["containers"][0]
    image = {key: first[key] for key in ("image", "imagePullPolicy") if key in first}
    inside = f"/host/{directory.path.name}"
    keep = ("affinity", "nodeSelector", "tolerations", "priorityClassName", "imagePullSecrets")
    parent = {"path": str(directory.path.parent), "type": "DirectoryOrCreate"}
    spec: dict[str, Any] = {
        **{key: mine[key] for key in keep if mine.get(key)},
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        "hostNetwork": True,  # no CNI needed
        "initContainers": [
            {
                "name": "remove", **image, "securityContext": limits,
                "command": ["python3", "-c", _REMOVE, inside],
                "volumeMounts": [{"name": "parent", "mountPath": "/host"}],
            },
        ],
        "containers": [
            {"name": "done", **image, "securityContext": idle, "command": ["python3", "-c", _LAST]},
        ],
        "volumes": [{"name": "parent", "hostPath": parent}],
    }  # fmt: skip
    if directory.hosts is not None:
        field = {"key": "metadata.name", "operator": "In", "values": sorted(directory.hosts)}
        terms = {"nodeSelectorTerms": [{"matchFields": [field]}]}
        spec["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    return {
        "apiVersion": DAEMON_SETS.api_version,
        "kind": DAEMON_SETS.kind,
        "metadata": {
            "name": directory.remover,
            "namespace": namespace,
            "labels": {**labels, MADE_BY: INSTALL},
        },
        "spec": {
            "selector": {"matchLabels": labels},
            "updateStrategy": {"type": "OnDelete"},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def clean(
    cluster: Cluster,
    namespace: str,
    directories: list[HostDirectory],
    timeout: float,
    tell: Callable[[str], None],
) -> list[str]:
    """Remove directories from every host that is there; returns those that are left, a line each.

    Raises ApiFailure. What removes them is gone again, whatever is raised meanwhile.
    """
    nodes = cluster.all_of(NODES)
    waiting: dict[str, set[str]] = {}
    away: dict[str, set[str]] = {}
    for each in directories:
        names = {node["metadata"]["name"]: is_ready(node) for node in each.nodes(nodes)}
        waiting[each.remover] = {name for name, ready in names.items() if ready}
        away[each.remover] = names.keys() - waiting[each.remover]
    at_work = [each for each in directories if waiting[each.remover]]
    try:
        for each in at_work:
            cluster.apply_manifest(remover(each, namespace), MANAGER)
        _wait(cluster, namespace, waiting, time.monotonic() + timeout)
    finally:
        for each in at_work:
            cluster.remove(ObjectReference(DAEMON_SETS, each.remover, namespace))
    left = []
    for each in directories:
        where = sorted(waiting[each.remover] | away[each.remover])
        if where:
            left.append(f"{each.whose} on {', '.join(where)}; there: rm -r {each.path}")
        if each in at_work:
            tell(f"removed {each.whose} from their hosts" + (" that are there" if where else ""))
    return left


def _wait(cluster: Cluster, namespace: str, waiting: dict[str, set[str]], deadline: float) -> None:
    """Take from `waiting` the hosts that are clean, until none is left, or it is late."""
    while any(waiting.values()):
        for name, hosts in waiting.items():
            if hosts:
                pods = cluster.all_of(PODS, namespace, labels=f"{_COMPONENT}={name}")
                hosts -= {each["spec"].get("nodeName", "") for each in pods if is_ready(each)}
        if time.monotonic() > deadline:
            return
        if any(waiting.values()):
            time.sleep(PAUSE)
