"""What there is to take away of an installation, whole or half: what was made, and what was only changed.

Nothing is remembered but what stands in the objects: the label of what the tunnel made, and the apiserver's
record of the fields that it wrote in others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tunnel_server.kube import apiserver
from tunnel_server.kube.failures import ApiFailure
from tunnel_server.kube.references import DEPLOYMENTS, NAMESPACES, ObjectReference
from tunnel_server.kube.resources import CONFIG_MAPS, DAEMON_SETS, PODS, SECRETS
from tunnelctl.cluster_pods import SERVER as SERVER_COMPONENT
from tunnelctl.cluster_pods import pods_of
from tunnelctl.install import yurt_tunnel
from tunnelctl.install.host_cleanup import HostDirectory, kept_by, ran_on
from tunnelctl.install.manifests import AGENT, SERVER, load, moved, named
from tunnelctl.install.owned_fields import managers, owned_fields
from tunnelctl.install.ownership import AT_RUN_TIME, OURS, is_ours, maker
from tunnelctl.install.plan import MANAGER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import ApiResource, Object

WORKLOADS = (DAEMON_SETS, DEPLOYMENTS)
ELSEWHERE = {
    ObjectReference(CONFIG_MAPS, "yurt-tunnel-nodes", "kube-system"): "edge-tunnel-names",
    ObjectReference(CONFIG_MAPS, "yurt-tunnel-server-cfg", "kube-system"): "tunnelctl",
}
"""What server and `map-port` write outside of our namespace, and as which field manager."""

_ORDER = {DAEMON_SETS: 0, DEPLOYMENTS: 0, NAMESPACES: 9}
_OF_THE_CLUSTER = {("ConfigMap", "kube-root-ca.crt"), ("ServiceAccount", "default")}
_OF_OTHERS_MAKING = {"events", "endpoints"}
"""Kinds that only tell of other objects."""


@dataclass
class Removal:
    """What is there to take away."""

    namespace: str
    made: list[tuple[ObjectReference, Object]] = field(default_factory=list)
    """In the order in which to delete it."""
    changed: list[tuple[Object, str]] = field(default_factory=list)
    """What was there before, and as which manager we wrote in it."""
    others: list[str] = field(default_factory=list)
    """Objects of the tunnel that somebody else installed, and who that was."""
    foreign: list[str] = field(default_factory=list)
    """What is not the tunnel's in its namespace, which stays for that."""
    yurt_tunnel: list[yurt_tunnel.Workload] = field(default_factory=list)
    """What an install stopped."""
    agents: HostDirectory | None = None
    """What agents keep on their hosts, if they ever ran."""
    server: HostDirectory | None = None
    """What the server keeps on its hosts, unless somebody else uses it too."""

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.made or self.changed or self.yurt_tunnel)


def look(cluster: Cluster, namespace: str) -> Removal:
    """Find what an install left, and what servers made; raises ApiFailure."""
    removal = Removal(namespace)
    others: list[ObjectReference] = []
    for reference, live in _candidates(cluster, namespace):
        if is_ours(live) and not (reference in ELSEWHERE and managers(live) - {ELSEWHERE[reference]}):
            removal.made.append((reference, live))
        elif owned_fields(live, manager := ELSEWHERE.get(reference, MANAGER)) is not None:
            removal.changed.append((live, manager))
        elif reference not in ELSEWHERE:
            others.append(reference)
            removal.others.append(f"{reference} ({', '.join(sorted(managers(live))) or 'unknown'})")
    if any(each.resource in WORKLOADS for each in others):
        # A tunnel that runs for somebody else: what its server made is its own.
        removal.made = [each for each in removal.made if maker(each[1]) != AT_RUN_TIME]
        removal.changed = [each for each in removal.changed if each[1] == MANAGER]
    # Workloads first, so that the server's pod takes its rules away; then what they live on.
    removal.made.sort(key=lambda each: _ORDER.get(each[0].resource, 1))
    if any(reference.resource is NAMESPACES for reference, _ in removal.made):
        removal.foreign = list(_foreign(cluster, namespace))
    removal.yurt_tunnel = [each for each in yurt_tunnel.find(cluster) if each.stopped]
    _look_at_hosts(cluster, removal)
    return removal


def _candidates(cluster: Cluster, namespace: str) -> Iterator[tuple[ObjectReference, Object]]:
    """Yield what this version installs, and whatever of the same kinds, or a Secret, bears our label."""
    seen = set()
    shipped = [ObjectReference.of(each) for each in moved(load(), namespace)]
    for reference in (*shipped, *ELSEWHERE):
        seen.add(reference)
        if (live := cluster.find(reference)) is not None:
            yield reference, live
    places = {namespace, *(each.namespace for each in shipped)}
    for resource in dict.fromkeys([*(each.resource for each in shipped), SECRETS]):
        for live in cluster.all_of(resource, labels=OURS):
            reference = ObjectReference.of(live)
            here = reference.name == namespace if resource is NAMESPACES else reference.namespace in places
            if here and reference not in seen:
                yield reference, live


def _look_at_hosts(cluster: Cluster, removal: Removal) -> None:
    workloads = {reference: live for reference, live in removal.made if reference.resource in WORKLOADS}
    agents = workloads.get(ObjectReference(DAEMON_SETS, AGENT, removal.namespace))
    server = workloads.get(ObjectReference(DEPLOYMENTS, SERVER, removal.namespace))
    if agents is None and any(maker(live) == AT_RUN_TIME for _, live in removal.made):
        # Deleted by hand, or by Helm; an authority was there, so agents may have keys.
        agents = named(moved(load(), removal.namespace), DAEMON_SETS.kind, AGENT)
    removal.agents = None if agents is None else kept_by(agents)
    if server is not None:
        hosts = ran_on(server) | {
            each["spec"]["nodeName"]
            for each in pods_of(cluster, removal.namespace, SERVER_COMPONENT, ending=True)
            if "nodeName" in each["spec"]
        }
        directory = kept_by(server, hosts)
        if directory is not None and hosts and not _mounted(cluster, removal.namespace, directory):
            removal.server = directory


def _mounted(cluster: Cluster, namespace: str, directory: HostDirectory) -> bool:
    """Whether a pod of somebody else has the directory, as a kube-apiserver with EgressSelector does."""
    path = str(directory.path)
    return any(
        (volume.get("hostPath") or {}).get("path", "").rstrip("/") == path
        for pod in cluster.all_of(PODS)
        if pod["metadata"]["namespace"] != namespace
        for volume in pod["spec"].get("volumes") or ()
    )


def _foreign(cluster: Cluster, namespace: str) -> Iterator[str]:
    """Yield what is in the namespace that is neither the tunnel's nor the cluster's own, of every kind."""
    seen, listed = set[str](), set[str]()
    for group_version, resources in apiserver.namespaced_kinds(cluster):
        if resources is None:
            yield f"perhaps objects of {group_version}, whose API does not answer"
        for resource in resources or ():
            if resource.plural in _OF_OTHERS_MAKING or str(resource) in listed:
                continue
            listed.add(str(resource))
            for live in _there(cluster, resource, namespace):
                metadata = live["metadata"]
                if metadata["uid"] in seen or is_ours(live) or metadata.get("ownerReferences"):
                    continue
                seen.add(metadata["uid"])
                if (live["kind"], metadata["name"]) not in _OF_THE_CLUSTER and not _token(live):
                    yield f"{live['kind']} {namespace}/{metadata['name']}"


def _there(cluster: Cluster, resource: ApiResource, namespace: str) -> list[Object]:
    try:
        return cluster.all_of(resource, namespace)
    except ApiFailure as failure:
        if failure.status in {404, 405}:  # a kind that is no more, or cannot be listed after all
            return []
        raise


def _token(live: Object) -> bool:
    """Whether it is the token that an older cluster makes for each ServiceAccount."""
    return bool(live.get("type") == "kubernetes.io/service-account-token")
