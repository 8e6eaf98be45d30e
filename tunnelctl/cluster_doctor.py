"""`tunnelctl doctor` in a cluster: what the cluster knows of an edge, around what its server knows."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from tunnel_server.kube import apiserver
from tunnel_server.kube.failures import ApiFailure
from tunnel_server.kube.nodes import APISERVER_SLICES, read_endpoints
from tunnel_server.kube.references import ObjectReference
from tunnel_server.kube.resources import DAEMON_SETS, ENDPOINT_SLICES, NODES
from tunnelctl.checks import Check, State
from tunnelctl.cluster_callers import check_pods
from tunnelctl.cluster_pods import last_words, pods_of, server_pod, why_not_ready, why_not_running
from tunnelctl.errors import CommandError
from tunnelctl.install.manifests import AGENT, pod_spec
from tunnelctl.install.preflight import check_version
from tunnelctl.install.scheduling import is_ready, selection, selects
from tunnelctl.server_pod import ask_server

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from certs.addresses import IPAddress
    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import Object

KUBELET_PORT = 10250


def examine(cluster: Cluster, namespace: str, name: str, port: int | None) -> Iterator[Check]:
    """Yield every step from the cluster to an edge, in its order; raises ApiFailure if nobody answers.

    Without a port, the kubelet's is the one that is looked at.
    """
    yield check_version(cluster.host, apiserver.version(cluster))
    node = cluster.find(ObjectReference(NODES, name))
    if node is None:
        yield _no_node(cluster, name)
    else:
        yield check_node(node)
        yield from check_agents_pod(cluster, namespace, node)
    pod = server_pod(cluster, namespace)
    yield check_servers_pod(cluster, namespace, pod)
    if pod is None or why_not_running(pod):
        return
    wanted = port or kubelet_port(node)
    try:
        answer = ask_server(cluster, pod, "doctor", name, str(wanted))
    except (ApiFailure, CommandError) as error:
        yield Check(
            "server", State.FAILED, str(error), f"kubectl -n {namespace} logs {pod['metadata']['name']}"
        )
        return
    found = [in_cluster(Check(**each), pod) for each in answer["checks"]]
    yield from found
    if port is None and node is not None:
        linked = any(each.name == "link" and each.state is not State.FAILED for each in found)
        yield check_kubelet(cluster, name) if linked else Check("kubelet", State.SKIPPED, "needs the link")
    yield check_pods(cluster, namespace)
    yield where_captured(pod, _apiservers(cluster))


def _apiservers(cluster: Cluster) -> list[IPAddress]:
    """Return where kube-apiservers are, as the cluster has it; nothing if the user may not see it."""
    try:
        found, _ = cluster.list_all(ENDPOINT_SLICES, "default", labels=APISERVER_SLICES)
    except ApiFailure:
        return []
    return sorted({each for slice_ in found for each in read_endpoints(slice_)}, key=str)


def kubelet_port(node: Object | None) -> int:
    """Return the port of a node's kubelet, as it says itself."""
    endpoints = ((node or {}).get("status") or {}).get("daemonEndpoints") or {}
    return int((endpoints.get("kubeletEndpoint") or {}).get("Port") or KUBELET_PORT)


def _no_node(cluster: Cluster, name: str) -> Check:
    names = [each["metadata"]["name"] for each in cluster.all_of(NODES)]
    close = difflib.get_close_matches(name, names, n=1)
    remedy = f"did you mean {close[0]}?" if close else "kubectl get nodes lists those there are"
    # An edge that joined with a token need not be a Node.
    return Check("node", State.WARNING, f"the cluster has no node {name}", remedy)


def check_node(node: Object) -> Check:
    """Whether its kubelet reports."""
    if is_ready(node):
        return Check("node", State.OK, f"{node['metadata']['name']} is ready")
    conditions = (node.get("status") or {}).get("conditions") or ()
    why: dict[str, str] = next((each for each in conditions if each["type"] == "Ready"), {})
    since = f" since {why['lastTransitionTime']}" if why.get("lastTransitionTime") else ""
    text = f"not ready{since}: {why.get('reason', 'it never reported')}"
    return Check(
        "node", State.WARNING, text, "its kubelet, or its way to kube-apiserver: not the tunnel's doing"
    )


def check_agents_pod(cluster: Cluster, namespace: str, node: Object) -> Iterator[Check]:
    """Whether the node counts as an edge, and an agent runs there; raises ApiFailure."""
    name = node["metadata"]["name"]
    agents = cluster.find(ObjectReference(DAEMON_SETS, AGENT, namespace))
    if agents is None:
        yield Check("label", State.SKIPPED, "there is no DaemonSet of agents")
        yield Check(
            "agent",
            State.FAILED,
            f"no agents are installed in {namespace}",
            "tunnelctl install, or --namespace",
        )
        return
    if not selects(pod_spec(agents), node):
        wanted = selection(pod_spec(agents))
        remedy = f"kubectl label node {name} {wanted[0].partition(' ')[0]}"
        yield Check("label", State.FAILED, f"it counts as no edge: it has not {' nor '.join(wanted)}", remedy)
        yield Check("agent", State.SKIPPED, "needs the label")
        return
    yield Check("label", State.OK, "it counts as an edge")
    pods = [each for each in pods_of(cluster, namespace, "agent") if each["spec"].get("nodeName") == name]
    yield judge_agent(cluster, namespace, pods[0] if pods else None, name)


def judge_agent(cluster: Cluster, namespace: str, pod: Object | None, node: str) -> Check:
    """Judge the pod of an edge's agent, with what is said of it; raises ApiFailure."""
    if pod is None:
        remedy = f"kubectl -n {namespace} describe daemonset {AGENT}; an agent of its own needs none"
        return Check("agent", State.FAILED, "it has no pod there", remedy)
    name = pod["metadata"]["name"]
    if is_ready(pod):
        return Check("agent", State.OK, f"pod {name} is linked")
    if why := why_not_ready(cluster, pod):
        remedy = f"kubectl -n {namespace} describe pod {name}"
    else:
        why, remedy = "it runs, and is not linked", f"on {node}: curl http://127.0.0.1:10266/status"
    return Check("agent", State.FAILED, f"pod {name}: {why}", remedy)


def check_servers_pod(cluster: Cluster, namespace: str, pod: Object | None) -> Check:
    """Judge the server's pod, with its last words if it ended."""
    words = [] if pod is None else last_words(cluster, pod)
    if why := why_not_running(pod):
        remedy = f"kubectl -n {namespace} describe pods -l app.kubernetes.io/component=server"
        return Check("server's pod", State.FAILED, "; ".join([why, *words]), remedy)
    assert pod is not None
    text = f"{pod['metadata']['name']} on {pod['spec'].get('nodeName')}"
    if not is_ready(pod):
        remedy = f"kubectl -n {namespace} logs {pod['metadata']['name']}"
        return Check("server's pod", State.WARNING, "; ".join([f"{text} is not ready", *words]), remedy)
    return Check("server's pod", State.OK, text)


def check_kubelet(cluster: Cluster, node: str) -> Check:
    """Have kube-apiserver ask the node's kubelet, the way `logs` and `exec` go."""
    try:
        apiserver.ask_kubelet(cluster, node, "healthz")
    except ApiFailure as failure:
        if failure.status in {401, 403}:
            return Check("kubelet", State.SKIPPED, "to ask it, you need the right to get nodes/proxy")
        remedy = (
            "if the steps above are well: is kube-apiserver where it is captured, or told another way in?"
        )
        return Check("kubelet", State.FAILED, f"kube-apiserver does not get through to it: {failure}", remedy)
    return Check("kubelet", State.OK, "kube-apiserver gets through to it")


def where_captured(pod: Object, apiservers: Collection[IPAddress]) -> Check:
    """Say from where addresses work, and which kube-apiservers are somewhere else."""
    host, status = pod["spec"].get("nodeName"), pod.get("status") or {}
    here = {status.get("hostIP"), *(each.get("ip") for each in status.get("hostIPs") or ())}
    text = f"captured on {host}, where the server runs"
    elsewhere = [str(each) for each in apiservers if str(each) not in here]
    if not elsewhere:
        return Check("callers", State.OK, f"{text}; elsewhere: by name, CONNECT, tunnelctl port-forward")
    where = ", ".join(elsewhere)
    return Check(
        "callers",
        State.WARNING,
        f"{text}, and kube-apiserver is elsewhere too: {where}",
        "it needs a way in there, by EgressSelector or by name: docs/kubernetes/apiserver.md; other callers: "
        "by name, CONNECT, tunnelctl port-forward",
    )


_INSTEAD = (
    (r"systemctl status tunnel-agent", "crictl ps -a --name tunnel-agent"),
    (r"journalctl -u tunnel-agent", "crictl logs of tunnel-agent"),
    (r"journalctl -u tunnel-server", "kubectl -n {namespace} logs {pod}"),
    (r"systemctl status tunnel-server", "kubectl -n {namespace} describe pod {pod}"),
)
"""What the server's own words of a unit of systemd are for a pod."""


def in_cluster(check: Check, pod: Object) -> Check:
    """Return a check of the server's, with remedies for those who work in a cluster."""
    remedy, metadata = check.remedy, pod["metadata"]
    for pattern, instead in _INSTEAD:
        remedy = re.sub(
            pattern, instead.format(namespace=metadata["namespace"], pod=metadata["name"]), remedy
        )
    return Check(check.name, State(check.state), check.text, remedy)


def failing(checks: list[Check]) -> Check | None:
    """Return the first step that fails."""
    return next((each for each in checks if each.state is State.FAILED), None)
