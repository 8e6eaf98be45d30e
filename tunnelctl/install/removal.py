"""Taking an installation away, whole or half: what it made is deleted, what it changed given back.

Nothing is remembered between the two but what stands in the objects: our mark on those that an install made,
and the apiserver's record of the fields that it wrote in others.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tunnel_server.kube.references import (
    CRON_JOBS,
    DEPLOYMENTS,
    JOBS,
    KINDS,
    NAMESPACES,
    SERVICE_ACCOUNTS,
    STATEFUL_SETS,
    VOLUME_CLAIMS,
    ObjectReference,
)
from tunnel_server.kube.resources import CONFIG_MAPS, DAEMON_SETS, NODES, PODS, SECRETS, SERVICES
from tunnelctl.cluster_arguments import NAMESPACE
from tunnelctl.install import node_state, yurt_tunnel
from tunnelctl.install.apply import give_back, gone
from tunnelctl.install.manifests import AGENT, load
from tunnelctl.install.owned_fields import managers, owned_fields
from tunnelctl.install.plan import MANAGER, is_ours
from tunnelctl.install.rollout import PODS_OF_OURS
from tunnelctl.install.scheduling import is_ready

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import Object

PAUSE = 1.0  # seconds between two looks

WRITTEN_BY_OURS = (
    ObjectReference(CONFIG_MAPS, "yurt-tunnel-nodes", "kube-system"),
    ObjectReference(CONFIG_MAPS, "yurt-tunnel-server-cfg", "kube-system"),
)
"""What server and `map-port` write outside of our namespace; theirs if it bears our label, else found."""

_OWN_NAMES = ("edge-tunnel-", "tunnel-server", "tunnel-agent")
_OF_THE_CLUSTER = ("kube-root-ca.crt", "default")
_ANYBODYS = (
    PODS, CONFIG_MAPS, SECRETS, SERVICES, SERVICE_ACCOUNTS, VOLUME_CLAIMS, DEPLOYMENTS, DAEMON_SETS,
    STATEFUL_SETS, JOBS, CRON_JOBS,
)  # fmt: skip


@dataclass
class Removal:
    """What is there to take away."""

    made: list[tuple[ObjectReference, Object]] = field(default_factory=list)
    """In the order in which to delete it."""
    changed: list[tuple[ObjectReference, Object]] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """Cluster of the tunnel that somebody else installed, and who that was."""
    foreign: list[str] = field(default_factory=list)
    """What is not the tunnel's in its namespace, which stays for that."""
    yurt_tunnel: list[yurt_tunnel.Workload] = field(default_factory=list)
    """What an install stopped."""

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.made or self.changed or self.yurt_tunnel)


def look(cluster: Cluster) -> Removal:
    """Find what an install left; raises ApiFailure."""
    removal = Removal()
    for reference, live in _candidates(cluster):
        if is_ours(live) or (reference in WRITTEN_BY_OURS and _labelled(live)):
            removal.made.append((reference, live))
        elif owned_fields(live, MANAGER) is not None:
            removal.changed.append((reference, live))
        elif reference not in WRITTEN_BY_OURS:
            removal.others.append(f"{reference} ({', '.join(sorted(managers(live))) or 'unknown'})")
    # Workloads first, so that the server's pod takes its rules away; then what they live on.
    removal.made.sort(key=lambda each: _ORDER.get(each[0].resource, 1))
    if any(reference.resource is NAMESPACES for reference, _ in removal.made):
        removal.foreign = list(_foreign(cluster))
    removal.yurt_tunnel = [each for each in yurt_tunnel.find(cluster) if each.stopped]
    return removal


_ORDER = {DAEMON_SETS: 0, DEPLOYMENTS: 0, NAMESPACES: 9}


def _candidates(cluster: Cluster) -> Iterator[tuple[ObjectReference, Object]]:
    """Yield what this version installs, and whatever of the same kinds bears our label and mark."""
    seen = set()
    shipped = [ObjectReference.of(each) for each in load()]
    for reference in (*shipped, *WRITTEN_BY_OURS):
        seen.add(reference)
        if (live := cluster.find(reference)) is not None:
            yield reference, live
    for resource in dict.fromkeys(each.resource for each in shipped):
        for live in cluster.all_of(resource, labels=PODS_OF_OURS):
            reference = ObjectReference.of(live)
            if reference not in seen and is_ours(live):
                yield reference, live


def _labelled(live: Object) -> bool:
    name, _, value = PODS_OF_OURS.partition("=")
    return bool((live["metadata"].get("labels") or {}).get(name) == value)


def _foreign(cluster: Cluster) -> Iterator[str]:
    for resource in _ANYBODYS:
        for live in cluster.all_of(resource, NAMESPACE):
            name = live["metadata"]["name"]
            if not (_labelled(live) or name.startswith(_OWN_NAMES) or name in _OF_THE_CLUSTER):
                yield str(ObjectReference.of(live))


def carry_out(
    cluster: Cluster, removal: Removal, *, keep_node_state: bool, timeout: float, tell: Callable[[str], None]
) -> list[str]:
    """Take it away; returns what is left, and for whom it waits. Raises ApiFailure: ask again then."""
    left = []
    agents = next((live for each, live in removal.made if _is_agents(each)), None)
    workloads = [each for each, _ in removal.made if each.resource in {DAEMON_SETS, DEPLOYMENTS}]
    for reference in workloads:
        _delete(cluster, reference, tell)
    if workloads:
        left += _wait_for_pods(cluster, time.monotonic() + timeout, tell)
    if agents is not None and not keep_node_state:
        if dirty := node_state.clean(cluster, agents, timeout):
            directory = node_state.state_directory(agents)
            left.append(f"the state of agents on {', '.join(dirty)}; there: rm -r {directory}")
        tell("removed the agents' state from the edges" + (" that are there" if dirty else ""))
    for reference, live in removal.changed:
        give_back(cluster, live)
        tell(f"gave back {reference}")
    for reference, _ in removal.made:
        if reference in workloads:
            continue
        if reference.resource is NAMESPACES and removal.foreign:
            _empty(cluster, tell)
            left.append(f"{reference}, for what is not the tunnel's in it: {', '.join(removal.foreign[:5])}")
            continue
        _delete(cluster, reference, tell)
    for each in removal.yurt_tunnel:
        if done := yurt_tunnel.start(cluster, each.reference):
            tell(done)
    return left + _wait_for_namespace(cluster, removal, time.monotonic() + timeout)


def _is_agents(reference: ObjectReference) -> bool:
    return reference.resource is DAEMON_SETS and reference.name == AGENT


def _delete(cluster: Cluster, reference: ObjectReference, tell: Callable[[str], None]) -> None:
    if cluster.remove(reference):
        tell(f"deleted {reference}")


def _empty(cluster: Cluster, tell: Callable[[str], None]) -> None:
    """Delete what the server made at run time in a namespace that stays."""
    for resource in (SECRETS, CONFIG_MAPS, KINDS["coordination.k8s.io/v1", "Lease"]):
        for live in cluster.all_of(resource, NAMESPACE):
            if _labelled(live) or live["metadata"]["name"].startswith(_OWN_NAMES):
                _delete(cluster, ObjectReference.of(live), tell)


def _wait_for_pods(cluster: Cluster, deadline: float, tell: Callable[[str], None]) -> list[str]:
    """Have every pod end, so that the server has taken its rules away; returns what was cut short.

    A pod of a machine that is away ends when that is back: its object is not waited for.
    """
    left = []
    while pods := cluster.all_of(PODS, NAMESPACE, labels=PODS_OF_OURS):
        late = time.monotonic() > deadline
        here = {each["metadata"]["name"] for each in cluster.all_of(NODES) if is_ready(each)}
        for pod in pods:
            name, node = pod["metadata"]["name"], pod["spec"].get("nodeName")
            away = node is not None and node not in here and "deletionTimestamp" in pod["metadata"]
            if not (late or away):
                continue
            cluster.remove(ObjectReference.of(pod), at_once=True)
            if away:
                tell(f"{node} is away: pod {name} ends there when it is back")
            elif node is not None:
                tell(f"pod {name} on {node} does not end, and is waited for no longer")
                if _component(pod) == "server":
                    left.append(f"perhaps rules and routes of the server on {node}; there: tunnelctl cleanup")
        if late:
            break
        time.sleep(PAUSE)
    return left


def _component(pod: Object) -> str:
    return str((pod["metadata"].get("labels") or {}).get("app.kubernetes.io/component", ""))


def _wait_for_namespace(cluster: Cluster, removal: Removal, deadline: float) -> list[str]:
    """Wait until a namespace that was deleted is gone, so that an install may follow at once."""
    if removal.foreign or not any(each.resource is NAMESPACES for each, _ in removal.made):
        return []
    reference = ObjectReference(NAMESPACES, NAMESPACE)
    if gone(cluster, reference, max(0.0, deadline - time.monotonic())):
        return []
    conditions = ((cluster.find(reference) or {}).get("status") or {}).get("conditions") or ()
    why = "; ".join(each.get("message", "") for each in conditions if each["status"] == "True")
    return [f"{reference}, which is still being deleted: {why or 'the cluster has not said why'}"]
