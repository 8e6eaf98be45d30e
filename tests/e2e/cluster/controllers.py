"""Controllers and a scheduler beside a bare apiserver, and nodes that are only objects.

What an installation sees of a cluster, in seconds: Deployments and DaemonSets get pods, pods get nodes,
namespaces end. No kubelet runs: `Kubelets` says of each pod what one would, as far as a test wants it to.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest
import urllib3
from kubernetes.client import ApiException, CoreV1Api

from tests.e2e.cluster.control_plane import ControlPlane
from tunnelctl.demo.processes import Processes

CONTROL_PLANE = {"node-role.kubernetes.io/control-plane": ""}
EDGE = {"openyurt.io/is-edge-worker": "true"}

Pod = dict[str, Any]

# A Node that no kubelet renews stays as ready as the test made it.
_CONTROLLERS = "*,-node-lifecycle-controller,-taint-eviction-controller"


@contextlib.contextmanager
def controllers(plane: ControlPlane, processes: Processes) -> Iterator[None]:
    """Run kube-controller-manager and kube-scheduler."""
    common = [f"--kubeconfig={plane.kubeconfig}", "--leader-elect=false", "--secure-port=0"]
    own = [
        f"--controllers={_CONTROLLERS}", f"--service-account-private-key-file={plane.signing_key}",
        f"--root-ca-file={plane.authority.ca}",
    ]  # fmt: skip
    programs = {"kube-controller-manager": [*common, *own], "kube-scheduler": common}
    for name, words in programs.items():
        processes.start(name, [str(plane.programs / name), *words])
    try:
        yield
    finally:
        for name in programs:
            processes.end(name, signum=9)


def add_namespace(plane: ControlPlane, name: str) -> None:
    """Make a namespace; what controllers put into each is there then."""
    plane.kubectl("create", "namespace", name)
    words = ["get", "serviceaccount/default", "configmap/kube-root-ca.crt", "-n", name]
    eventually(lambda: plane.try_kubectl(*words).returncode == 0)


def add_node(
    plane: ControlPlane, name: str, address: str, labels: dict[str, str], *, ready: bool = True
) -> None:
    """Make a Node, or make it ready or not."""
    known = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **labels}
    plane.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": known}})
    room = {"cpu": "4", "memory": "8Gi", "pods": "110"}
    condition = {"type": "Ready", "status": "True" if ready else "Unknown", "reason": "Test", "message": "-"}
    status = {
        "addresses": [{"type": "InternalIP", "address": address}],
        "conditions": [condition], "capacity": room, "allocatable": room,
    }  # fmt: skip
    change = json.dumps({"status": status})
    plane.kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", change)


class Kubelets:
    """Those of all nodes that are ready: pods end when they are told to, and run if `runs` says so."""

    def __init__(self, plane: ControlPlane) -> None:
        self.runs: Callable[[Pod], bool] = lambda _: True
        self.seen: list[Pod] = []
        """Every pod that was told to run, as it was then."""
        self._api = CoreV1Api(plane.client())
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="kubelets")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._ending.wait(0.2):
            # Somebody else deleted it, or the apiserver is away.
            with contextlib.suppress(ApiException, urllib3.exceptions.HTTPError):
                self._look()

    def _look(self) -> None:
        ready = set()
        for node in self._list("nodes"):
            if any(
                each["type"] == "Ready" and each["status"] == "True" for each in node["status"]["conditions"]
            ):
                ready.add(node["metadata"]["name"])
        for pod in self._list("pods"):
            if pod["spec"].get("nodeName") not in ready:
                continue
            name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
            if "deletionTimestamp" in pod["metadata"]:
                self._api.delete_namespaced_pod(name=name, namespace=namespace, grace_period_seconds=0)
            elif pod["status"].get("phase") == "Pending" and self.runs(pod):
                self.seen.append(pod)
                conditions = [{"type": each, "status": "True"} for each in ("Ready", "ContainersReady")]
                status = {"phase": "Running", "conditions": conditions}
                self._api.patch_namespaced_pod_status(name=name, namespace=namespace, body={"status": status})

    def _list(self, kind: str) -> list[dict[str, Any]]:
        api = self._api
        answer = (
            api.list_node(_preload_content=False)
            if kind == "nodes"
            else api.list_pod_for_all_namespaces(_preload_content=False)
        )
        items: list[dict[str, Any]] = json.loads(answer.data)["items"]
        return items


def eventually(holds: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Return what `holds()` does, as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        if time.monotonic() > deadline:
            pytest.fail(f"after {seconds:g} s it is still {found!r}")
        time.sleep(0.1)
    return found
