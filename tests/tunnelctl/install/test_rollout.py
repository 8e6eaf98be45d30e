"""When an installation runs, judged by nodes as well as by pods."""

from typing import Any

from tunnel_server.kube.references import ObjectReference
from tunnelctl.install.manifests import load, named
from tunnelctl.install.rollout import lacking

READY = {"conditions": [{"type": "Ready", "status": "True"}]}


class Cluster:
    """Two edges, one of which may have no pod."""

    def __init__(self, *pods: Any) -> None:
        self.pods = pods
        labels = {"openyurt.io/is-edge-worker": "true"}
        self.nodes = [
            {"metadata": {"name": name, "labels": labels}, "status": READY} for name in ("edge-1", "edge-2")
        ]

    def find(self, reference: ObjectReference) -> Any:
        found = named(load(), reference.kind, reference.name)
        found["metadata"]["generation"] = 1
        counts = ("updatedReplicas", "availableReplicas", "desiredNumberScheduled", "updatedNumberScheduled")
        return {**found, "status": {"observedGeneration": 1, **dict.fromkeys(counts, 2)}}

    def all_of(self, resource: Any, *_: Any, **__: Any) -> list[Any]:
        return self.nodes if resource.plural == "nodes" else list(self.pods)


def judged(*pods: Any) -> str:
    cluster: Any = Cluster(*pods)
    return lacking(cluster, "edge-tunnel")


def pod(node: str, status: Any = READY, **metadata: Any) -> Any:
    return {"metadata": metadata, "spec": {"nodeName": node}, "status": status}


def test_an_agent_on_every_edge() -> None:
    assert judged(pod("edge-1"), pod("edge-2")) == ""


def test_pods_that_were_never_made() -> None:
    assert judged() == "there is no agent's pod on edge-1, edge-2"
    assert judged(pod("edge-2")) == "there is no agent's pod on edge-1"
    assert judged(pod("edge-2"), pod("edge-1", deletionTimestamp="x")).endswith("pod on edge-1")


def test_one_that_is_not_linked() -> None:
    assert judged(pod("edge-1"), pod("edge-2", {})) == "agents are not linked on edge-2"
