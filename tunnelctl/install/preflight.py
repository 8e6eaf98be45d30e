"""What speaks against an installation, before anything is changed: each problem a line, with its remedy."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network
from typing import TYPE_CHECKING

from certs.identity import check_node_name
from tunnel_server.kube import apiserver
from tunnel_server.kube.references import DEPLOYMENTS, NAMESPACES, ObjectReference
from tunnel_server.kube.resources import DAEMON_SETS, NODES, PODS, SERVICES
from tunnelctl.checks import Check, State, some
from tunnelctl.install import networks, yurt_tunnel
from tunnelctl.install.manifests import AGENT, OWN_AGENT, SERVER, named, pod_spec
from tunnelctl.install.scheduling import is_ready, selection, selects

if TYPE_CHECKING:
    from collections.abc import Iterator

    from certs.addresses import IPNetwork
    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import ApiResource, Object
    from tunnelctl.install.yurt_tunnel import Workload

OLDEST = (1, 26)
"""The first that knows every field of the manifests."""
SAYS_SERVICE_RANGE = (1, 33)
"""The first that has ServiceCIDR objects, which the server reads."""

_VERBS = ("get", "create", "patch", "delete")
_RIGHTS = 8  # that a line names before it counts the rest


@dataclass(frozen=True, slots=True)
class ClusterSurvey:
    """What the cluster has to do with the installation."""

    nodes: list[Object]
    hosts: list[Object]
    """Those that the server may run on."""
    edges: list[Object]
    pods: list[Object]
    service_ip: str | None
    """Of the Service `kubernetes`."""
    yurt_tunnel: list[Workload]

    @property
    def others(self) -> list[Object]:
        """Nodes that are no edges."""
        names = {each["metadata"]["name"] for each in self.edges}
        return [each for each in self.nodes if each["metadata"]["name"] not in names]


def look(cluster: Cluster, objects: list[Object]) -> ClusterSurvey:
    """Read what is there; raises ApiFailure."""
    nodes = cluster.all_of(NODES)
    server = pod_spec(named(objects, DEPLOYMENTS.kind, SERVER))
    agent = pod_spec(named(objects, DAEMON_SETS.kind, AGENT))
    service = cluster.find(ObjectReference(SERVICES, "kubernetes", "default"))
    return ClusterSurvey(
        nodes=nodes,
        hosts=[each for each in nodes if selects(server, each)],
        edges=[each for each in nodes if selects(agent, each)],
        pods=cluster.all_of(PODS),
        service_ip=None if service is None else service["spec"].get("clusterIP"),
        yurt_tunnel=yurt_tunnel.find(cluster),
    )


def check_version(host: str, version: tuple[int, int]) -> Check:
    """Whether the apiserver is recent enough."""
    text = f"{host}, Kubernetes {version[0]}.{version[1]}"
    if version < OLDEST:
        return Check("apiserver", State.FAILED, text, f"needs {OLDEST[0]}.{OLDEST[1]} or newer: upgrade it")
    return Check("apiserver", State.OK, text)


def check_rights(cluster: Cluster, objects: list[Object], *, replaces: bool) -> Check:
    """Whether the user may look, make all this, and take it back."""
    if apiserver.may_everything(cluster):
        return Check("rights", State.OK, "you may do everything")
    needed: dict[tuple[ApiResource, str], tuple[str, ...]] = {
        (NODES, ""): ("list",),
        (PODS, ""): ("list",),
        (DEPLOYMENTS, ""): ("list",),
        (SERVICES, "default"): ("get",),
    }
    for each in (DEPLOYMENTS, DAEMON_SETS):
        needed[each, yurt_tunnel.NAMESPACE] = ("get", "patch") if replaces else ("get",)
    for reference in map(ObjectReference.of, objects):
        needed[reference.resource, reference.namespace] = _VERBS
    lacking = [
        f"{verb} {resource}" + (f" in {namespace}" if namespace else "")
        for (resource, namespace), verbs in needed.items()
        for verb in verbs
        if not apiserver.may(cluster, verb, resource, namespace)
    ]
    if not lacking:
        return Check("rights", State.OK, "you may make all that it needs")
    return Check(
        "rights",
        State.FAILED,
        f"you may not {some(lacking, _RIGHTS)}",
        "install as a cluster administrator: another --context or --kubeconfig",
    )


def service_networks(
    cluster: Cluster, version: tuple[int, int], told: tuple[IPNetwork, ...]
) -> tuple[tuple[IPNetwork, ...], list[Check]]:
    """Return what the server has to be told of the service range, and what speaks against it.

    Raises ApiFailure.
    """
    if told or version >= SAYS_SERVICE_RANGE:
        return told, []
    if found := apiserver.service_range(cluster):
        said = f"in {', '.join(found)}, as the apiserver says"
        return tuple(map(ip_network, found)), [Check("services", State.OK, said)]
    text = f"Kubernetes {version[0]}.{version[1]} does not say which addresses are Services'"
    remedy = "--service-networks NET, kube-apiserver's --service-cluster-ip-range"
    return (), [Check("services", State.FAILED, text, remedy)]


def check_cluster(
    survey: ClusterSurvey, objects: list[Object], edge_networks: tuple[IPNetwork, ...]
) -> Iterator[Check]:
    """Judge nodes and networks."""
    server = pod_spec(named(objects, DEPLOYMENTS.kind, SERVER))
    yield _check_hosts(survey, server)
    yield _check_edges(survey, pod_spec(named(objects, DAEMON_SETS.kind, AGENT)))
    yield from _check_names(survey)
    yield from networks.check_edges(survey.edges, edge_networks)
    yield from networks.check_overlaps(edge_networks, survey.nodes, survey.service_ip)


def _check_hosts(survey: ClusterSurvey, server: dict[str, object]) -> Check:
    names = [each["metadata"]["name"] for each in survey.hosts]
    if not names:
        return Check(
            "server's host",
            State.FAILED,
            f"no node is one for the server: none has {' or '.join(selection(server))}",
            "name the node that is to run it: --server-node; where a provider keeps the control plane to "
            "itself, see docs/kubernetes for what works then",
        )
    if not any(is_ready(each) for each in survey.hosts):
        return Check(
            "server's host",
            State.FAILED,
            f"{', '.join(names)}: not ready",
            f"kubectl describe node {names[0]}",
        )
    if len(names) > 1:
        return Check(
            "server's host",
            State.WARNING,
            f"one of {', '.join(names)}: callers, a kube-apiserver too, are captured where it runs only",
            "for the apiservers of the others, see the ways in by EgressSelector and by name",
        )
    return Check("server's host", State.OK, names[0])


def _check_edges(survey: ClusterSurvey, agent: dict[str, object]) -> Check:
    if not survey.edges:
        label = selection(agent)[0].partition(" ")[0]
        return Check(
            "edges",
            State.WARNING,
            f"no node has {' or '.join(selection(agent))}",
            f"kubectl label node NAME {label}, now or later: agents come by themselves",
        )
    away = [each["metadata"]["name"] for each in survey.edges if not is_ready(each)]
    text = f"{len(survey.edges)} nodes" if len(survey.edges) != 1 else survey.edges[0]["metadata"]["name"]
    if away:
        remedy = "their agents start when they are back"
        return Check("edges", State.WARNING, f"{text}, of which not ready: {some(away)}", remedy)
    return Check("edges", State.OK, text)


def _check_names(survey: ClusterSurvey) -> Iterator[Check]:
    if refused := [name for each in survey.edges if not _can_be_a_node(name := each["metadata"]["name"])]:
        yield Check(
            "edges",
            State.WARNING,
            f"named as no node of the tunnel can be, and their agents refused: {some(refused)}",
            f"give each an agent of its own under another name: label it {OWN_AGENT}=systemd, and see "
            '"Nodes that are named by an address" in docs/kubernetes.md',
        )


def _can_be_a_node(name: str) -> bool:
    try:
        check_node_name(name)
    except ValueError:
        return False
    return True


def check_yurt_tunnel(survey: ClusterSurvey, *, replace: bool) -> Iterator[Check]:
    """Judge a yurt-tunnel that is there."""
    running = [each for each in survey.yurt_tunnel if each.runs]
    if not running:
        if replace:
            yield Check("yurt-tunnel", State.OK, "none runs: there is nothing to replace")
        return
    what = ", ".join(map(str, running))
    if not replace:
        yield Check(
            "yurt-tunnel",
            State.FAILED,
            f"{what} has the rules and ports that this tunnel needs",
            "--replace-yurt-tunnel stops it first; `tunnelctl uninstall` starts it again",
        )
        return
    yield Check("yurt-tunnel", State.OK, f"to be stopped: {what}; its ConfigMap stays and counts")
    if yurt_tunnel.leaves_rules(running):
        yield Check(
            "yurt-tunnel",
            State.WARNING,
            "its version leaves its iptables rules behind",
            "afterwards, on its server's host: iptables-save | grep -v TUNNEL-PORT | iptables-restore",
        )


def check_namespace(cluster: Cluster, namespace: str) -> Iterator[Check]:
    """Whether our namespace is not on its way out, and no other has a tunnel: there is one in a cluster."""
    for each in cluster.all_of(DEPLOYMENTS, labels="app.kubernetes.io/name=edge-tunnel"):
        other = each["metadata"]["namespace"]
        if other != namespace:
            text = f"there is a tunnel in namespace {other}"
            yield Check("namespace", State.FAILED, text, f"--namespace {other}, or take that one away first")
    live = cluster.find(ObjectReference(NAMESPACES, namespace))
    if live is not None and live["metadata"].get("deletionTimestamp"):
        yield Check(
            "namespace",
            State.FAILED,
            f"{namespace} is still being deleted",
            f"wait until it is gone; `kubectl get pods -n {namespace}` shows whom it waits for",
        )
