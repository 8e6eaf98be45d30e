"""`tunnelctl status` in a cluster: the server, and each edge with what fails first and its remedy."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tunnel_server.kube.failures import ApiFailure
from tunnel_server.kube.references import ObjectReference
from tunnel_server.kube.resources import DAEMON_SETS, NODES
from tunnelctl.checks import Check, State
from tunnelctl.cluster_doctor import (
    check_kubelet,
    check_servers_pod,
    failing,
    in_cluster,
    judge_agent,
    kubelet_port,
)
from tunnelctl.cluster_pods import pods_of, server_pod, why_not_running
from tunnelctl.errors import CommandError
from tunnelctl.install.manifests import AGENT, pod_spec
from tunnelctl.install.scheduling import addresses, is_ready, selects
from tunnelctl.server_pod import ask_server
from tunnelctl.tables import show, table

if TYPE_CHECKING:
    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import Object

ASKED_AT_ONCE = 8
EXPLAINED = 10
"""Edges of which the server is asked why they are not linked; of more, `doctor` says it one by one."""

HEADER = ("EDGE", "NODE", "AGENT", "CERTIFICATE", "LINK", "ADDRESSES", "KUBELET")


@dataclass(frozen=True, slots=True)
class Edge:
    """One edge, as the cluster and the server see it."""

    name: str
    ready: bool
    """Its Node is."""
    agent: str
    """ready, or not ready."""
    certificate: str
    """valid, refused, or unknown."""
    connected: bool
    addresses: tuple[str, ...]
    captured: tuple[str, ...]
    kubelet: str
    """answers, no answer, or not asked."""
    failing: Check | None = None


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """All that is shown."""

    pod: Check
    server: dict[str, Any] | None
    """What the server says of itself; None if it cannot be asked."""
    edges: list[Edge]

    @property
    def well(self) -> bool:
        """Whether nothing fails on any edge that is there."""
        return self.pod.state is not State.FAILED and not any(
            each.failing and each.ready for each in self.edges
        )


def look(cluster: Cluster, namespace: str) -> ClusterStatus:
    """Ask the cluster, the server, and every edge's kubelet through kube-apiserver; raises ApiFailure."""
    agents = cluster.find(ObjectReference(DAEMON_SETS, AGENT, namespace))
    if agents is None:
        raise CommandError(_absent(cluster, namespace))
    nodes = [each for each in cluster.all_of(NODES) if selects(pod_spec(agents), each)]
    pods = {each["spec"].get("nodeName"): each for each in pods_of(cluster, namespace, "agent")}
    pod = server_pod(cluster, namespace)
    state = check_servers_pod(cluster, namespace, pod)
    server, known = None, {}
    if pod is not None and not why_not_running(pod):
        try:
            server = ask_server(cluster, pod, "status")
            known = {each["name"]: each for each in ask_server(cluster, pod, "nodes")["nodes"]}
        except (ApiFailure, CommandError) as error:
            remedy = f"kubectl -n {namespace} logs {pod['metadata']['name']}"
            state = Check(state.name, State.FAILED, f"{state.text}: {error}", remedy)
    linked = [each["metadata"]["name"] for each in nodes if _connected(known, each)]
    with ThreadPoolExecutor(ASKED_AT_ONCE) as threads:
        kubelets = dict(
            zip(linked, threads.map(lambda name: check_kubelet(cluster, name), linked), strict=True)
        )
    unlinked = [each for each in nodes if server is not None and not _connected(known, each)]
    reasons = {
        each["metadata"]["name"]: _why(cluster, pod, each) for each in unlinked[:EXPLAINED] if pod is not None
    }
    edges = []
    for node in nodes:
        name = node["metadata"]["name"]
        agent = judge_agent(cluster, namespace, pods.get(name), name)
        edges.append(edge(node, agent, known.get(name), kubelets.get(name), reasons.get(name, [])))
    return ClusterStatus(state, server, edges)


def _absent(cluster: Cluster, namespace: str) -> str:
    found = cluster.all_of(DAEMON_SETS, labels="app.kubernetes.io/name=edge-tunnel")
    if places := sorted({each["metadata"]["namespace"] for each in found}):
        return f"there is no edge-tunnel in namespace {namespace}, but in {', '.join(places)}: --namespace"
    return "there is no edge-tunnel in this cluster: tunnelctl install"


def _connected(known: dict[str, Any], node: Object) -> bool:
    return bool(known.get(node["metadata"]["name"], {}).get("connected"))


def _why(cluster: Cluster, pod: Object, node: Object) -> list[Check]:
    try:
        answer = ask_server(cluster, pod, "doctor", node["metadata"]["name"], str(kubelet_port(node)))
    except (ApiFailure, CommandError):
        return []
    return [in_cluster(Check(**each), pod) for each in answer["checks"]]


def edge(
    node: Object, agent: Check, known: dict[str, Any] | None, kubelet: Check | None, reasons: list[Check]
) -> Edge:
    """Put together what is known of one edge."""
    name = node["metadata"]["name"]
    connected = bool(known and known["connected"])
    # Linked, an agent that is a unit of systemd needs no pod.
    checks = [] if connected else [agent]
    checks += reasons
    certificate = next((each for each in reasons if each.name == "certificate"), None)
    if known and known["problem"]:
        checks.append(Check("link", State.FAILED, known["problem"], f"tunnelctl doctor {name}"))
    if kubelet is not None:
        checks.append(kubelet)
    if not connected:
        text = "the server has no link from its agent"
        checks.append(Check("link", State.FAILED, text, f"tunnelctl doctor {name} says why"))
    return Edge(
        name=name,
        ready=is_ready(node),
        agent="ready" if agent.state is State.OK else "not ready",
        certificate=_certificate(certificate, connected=connected),
        connected=connected,
        addresses=tuple(known["addresses"] if known else addresses(node)),
        captured=tuple(known["captured"] if known else ()),
        kubelet=_KUBELET[kubelet.state] if kubelet is not None else "not asked",
        failing=failing(checks),
    )


_KUBELET = {State.OK: "answers", State.FAILED: "no answer", State.SKIPPED: "not asked"}


def _certificate(check: Check | None, *, connected: bool) -> str:
    if connected:
        return "valid"
    if check is None:
        return "unknown"
    return "refused" if check.state is State.FAILED else "valid"


def edge_lines(status: ClusterStatus) -> list[str]:
    """Return the edges as a table, and below it what fails on each."""
    if not status.edges:
        return ["no node counts as an edge: see `tunnelctl doctor NODE`"]
    lines = table(HEADER, [_row(each) for each in status.edges])
    for each in status.edges:
        if each.failing is not None:
            lines.append(f"{show(each.name)}: {show(each.failing.name)}: {show(each.failing.text)}")
            if each.failing.remedy:
                lines.append(f"  -> {show(each.failing.remedy)}")
    return lines


def _row(each: Edge) -> tuple[str, ...]:
    marked = [address if address in each.captured else f"[{address}]" for address in each.addresses]
    return (
        each.name,
        "ready" if each.ready else "not ready",
        each.agent,
        each.certificate,
        "connected" if each.connected else "away",
        ",".join(marked),
        each.kubelet,
    )


def to_json(status: ClusterStatus) -> dict[str, Any]:
    """Return it as `--json` has it."""
    return {
        "ok": status.well,
        "pod": asdict(status.pod),
        "server": status.server,
        "edges": [asdict(each) for each in status.edges],
    }
