"""Taking an installation away: stop, clean the hosts, give back, delete; each step may be said again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tunnel_server.kube.references import NAMESPACES, ObjectReference
from tunnelctl.install import host_cleanup, yurt_tunnel
from tunnelctl.install.apply import give_back, gone
from tunnelctl.install.owned_fields import owned_fields
from tunnelctl.install.plan import MANAGER
from tunnelctl.install.removal import WORKLOADS
from tunnelctl.install.stopping import wait_for_pods

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import Object
    from tunnelctl.install.host_cleanup import HostDirectory
    from tunnelctl.install.removal import Removal


def carry_out(
    cluster: Cluster,
    removal: Removal,
    *,
    keep_node_state: bool,
    timeout: float,
    tell: Callable[[str], None],
) -> list[str]:
    """Take it away; returns what is left, and for whom it waits. Raises ApiFailure: ask again then.

    Until the hosts are clean, the workloads stay, without pods: they say where their directories are, so
    that who asks again after an interruption finds them.
    """
    directories = [removal.server] if keep_node_state else [removal.agents, removal.server]
    kept = {each.workload["metadata"]["name"]: each for each in directories if each is not None}
    workloads = [each for each in removal.made if each[0].resource in WORKLOADS]
    last = []
    for reference, live in workloads:
        if reference.name in kept and _send_away(cluster, live, kept[reference.name]):
            tell(f"stopped {reference}")
            last.append(reference)
        else:
            _delete(cluster, reference, tell)
    left = []
    if workloads:
        left += wait_for_pods(cluster, removal.namespace, time.monotonic() + timeout, tell)
    left += host_cleanup.clean(cluster, removal.namespace, list(kept.values()), timeout, tell)
    for reference in last:
        _delete(cluster, reference, tell)
    for live, manager in removal.changed:
        if give_back(cluster, live, manager):
            tell(f"gave back {ObjectReference.of(live)}")
    for reference, live in removal.made:
        if (reference, live) in workloads:
            continue
        if reference.resource is NAMESPACES and removal.foreign:
            left.append(f"{reference}, for what is not the tunnel's in it: {', '.join(removal.foreign[:5])}")
            continue
        _delete(cluster, reference, tell)
    for each in removal.yurt_tunnel:
        if done := yurt_tunnel.start(cluster, each.reference):
            tell(done)
    return left + _wait_for_namespace(cluster, removal, time.monotonic() + timeout)


def _send_away(cluster: Cluster, workload: Object, directory: HostDirectory) -> bool:
    """Have the workload's pods end, and keep it; False if its fields are not ours to change."""
    fields = owned_fields(workload, MANAGER)
    if fields is None:
        return False
    host_cleanup.without_pods(fields, directory)
    cluster.apply_manifest(fields, MANAGER)
    return True


def _delete(cluster: Cluster, reference: ObjectReference, tell: Callable[[str], None]) -> None:
    if cluster.remove(reference):
        tell(f"deleted {reference}")


def _wait_for_namespace(cluster: Cluster, removal: Removal, deadline: float) -> list[str]:
    """Wait until a namespace that was deleted is gone, so that an install may follow at once."""
    if removal.foreign or not any(each.resource is NAMESPACES for each, _ in removal.made):
        return []
    reference = ObjectReference(NAMESPACES, removal.namespace)
    if gone(cluster, reference, max(0.0, deadline - time.monotonic())):
        return []
    conditions = ((cluster.find(reference) or {}).get("status") or {}).get("conditions") or ()
    why = "; ".join(each.get("message", "") for each in conditions if each["status"] == "True")
    return [f"{reference}, which is still being deleted: {why or 'the cluster has not said why'}"]
