"""Waiting until the tunnel's pods have ended, so that the server has taken its rules and routes away."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tunnel_server.kube.references import ObjectReference
from tunnel_server.kube.resources import NODES
from tunnelctl.cluster_pods import SERVER, component, pods_of
from tunnelctl.install.scheduling import is_ready

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel_server.kube.client import Cluster

PAUSE = 0.5  # seconds between two looks


def wait_for_pods(
    cluster: Cluster,
    namespace: str,
    deadline: float,
    tell: Callable[[str], None],
    of: str = "",
) -> list[str]:
    """Have every pod end, or those `of` a component; returns what was cut short, a line each.

    Raises ApiFailure. A pod of a machine that is away ends when that is back: its object is not waited for.
    """
    left = []
    while pods := pods_of(cluster, namespace, of, ending=True):
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
                if component(pod) == SERVER:
                    left.append(f"perhaps rules and routes of the server on {node}; there: tunnelctl cleanup")
        if late:
            break
        time.sleep(PAUSE)
    return left
