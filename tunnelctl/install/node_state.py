"""Taking an agent's key and certificate off the edges' disks: by a pod on each, since only it gets there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tunnel_server.kube.references import ObjectReference
from tunnel_server.kube.resources import DAEMON_SETS, NODES, PODS
from tunnelctl.cluster_arguments import NAMESPACE
from tunnelctl.install.manifests import pod_spec
from tunnelctl.install.plan import MANAGER
from tunnelctl.install.scheduling import is_ready, selects

if TYPE_CHECKING:
    from pathlib import PurePosixPath

    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import Object

NAME = "tunnel-agent-cleanup"
PAUSE = 1.0  # seconds between two looks
_LABELS = {"app.kubernetes.io/name": "edge-tunnel", "app.kubernetes.io/component": "agent-cleanup"}
_REMOVE = "import shutil, sys; shutil.rmtree(sys.argv[1])"
_LAST = "import signal; signal.signal(signal.SIGTERM, lambda *_: exit()); signal.pause()"


def state_directory(agents: Object) -> PurePosixPath | None:
    """Return where on its node an agent of this DaemonSet keeps its state; None if nowhere."""
    from pathlib import PurePosixPath

    for each in pod_spec(agents).get("volumes", ()):
        if each["name"] == "state" and "hostPath" in each:
            return PurePosixPath(each["hostPath"]["path"])
    return None


def remover(agents: Object, directory: PurePosixPath) -> Object:
    """Return a DaemonSet that removes `directory` on every node of `agents`, and then waits.

    Its pods are ready once the directory is gone.
    """
    agent = pod_spec(agents)
    # The files are another user's. The parent is mounted: a mount itself could not be removed.
    limits = {
        "runAsUser": 0, "runAsGroup": 0, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["DAC_OVERRIDE"]},
    }  # fmt: skip
    idle = {**limits, "runAsUser": 65532, "runAsGroup": 65532, "capabilities": {"drop": ["ALL"]}}
    image = {
        key: agent["containers"][0][key]
        for key in ("image", "imagePullPolicy")
        if key in agent["containers"][0]
    }
    inside = f"/host/{directory.name}"
    keep = ("affinity", "nodeSelector", "tolerations", "priorityClassName", "imagePullSecrets")
    spec: dict[str, Any] = {
        **{key: agent[key] for key in keep if key in agent},
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
        "volumes": [{"name": "parent", "hostPath": {"path": str(directory.parent), "type": "Directory"}}],
    }  # fmt: skip
    return {
        "apiVersion": DAEMON_SETS.api_version,
        "kind": DAEMON_SETS.kind,
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": _LABELS},
        "spec": {
            "selector": {"matchLabels": _LABELS},
            "updateStrategy": {"type": "OnDelete"},
            "template": {"metadata": {"labels": _LABELS}, "spec": spec},
        },
    }


def clean(cluster: Cluster, agents: Object, timeout: float) -> list[str]:
    """Remove the state of every edge that is there; returns those on which it is still. Raises ApiFailure."""
    directory = state_directory(agents)
    nodes = [each for each in cluster.all_of(NODES) if selects(pod_spec(agents), each)]
    if directory is None or not nodes:
        return []
    away = {each["metadata"]["name"] for each in nodes if not is_ready(each)}
    here = {each["metadata"]["name"] for each in nodes} - away
    if here:
        reference = ObjectReference(DAEMON_SETS, NAME, NAMESPACE)
        cluster.apply_manifest(remover(agents, directory), MANAGER)
        try:
            here -= _cleaned(cluster, here, time.monotonic() + timeout)
        finally:
            cluster.remove(reference)
    return sorted(away | here)


def _cleaned(cluster: Cluster, wanted: set[str], deadline: float) -> set[str]:
    labels = ",".join(f"{key}={value}" for key, value in _LABELS.items())
    while True:
        pods = cluster.all_of(PODS, NAMESPACE, labels=labels)
        done = {each["spec"].get("nodeName", "") for each in pods if is_ready(each)}
        if wanted <= done or time.monotonic() > deadline:
            return done
        time.sleep(PAUSE)
