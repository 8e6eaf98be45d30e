"""Asking the server of a cluster: by `tunnelctl` itself, in the server's pod, where its admin socket is.

As `kubectl exec` does: it takes the right to `create pods/exec` in our namespace, and opens nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tunnel_server.kube.execution import execute
from tunnel_server.kube.resources import EVENTS, PODS
from tunnelctl.cluster_arguments import NAMESPACE
from tunnelctl.errors import CommandError, NotReachableError, RefusedError
from tunnelctl.install.scheduling import is_ready, waiting_reasons

if TYPE_CHECKING:
    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import Object

CONTAINER = "tunnel-server"
TIMEOUT = 45.0
"""Seconds for a command there; more than it gives the server itself."""

_OF_OURS = "app.kubernetes.io/name=edge-tunnel,app.kubernetes.io/component="


def pods_of(cluster: Cluster, component: str) -> list[Object]:
    """Return the pods of `server` or `agent` that are not on their way out; raises ApiFailure."""
    pods = cluster.all_of(PODS, NAMESPACE, labels=_OF_OURS + component)
    return [each for each in pods if "deletionTimestamp" not in each["metadata"]]


def server_pod(cluster: Cluster) -> Object | None:
    """Return the server's pod, rather a ready one; None without any. Raises ApiFailure."""
    return next(iter(sorted(pods_of(cluster, "server"), key=is_ready, reverse=True)), None)


def last_warning(cluster: Cluster, pod: Object) -> str:
    """Return the newest Event of a pod that is a warning, as of a volume that cannot be mounted; "" for none.

    Raises ApiFailure.
    """
    fields = f"involvedObject.uid={pod['metadata']['uid']},type=Warning"
    events = cluster.all_of(EVENTS, NAMESPACE, fields=fields)
    newest = max(events, key=_time, default=None)
    return "" if newest is None else f"{newest.get('reason')}: {newest.get('message')}"


def _time(event: Object) -> str:
    found = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp")
    return str(found or "")


def why_not_running(pod: Object | None) -> str:
    """Return why nothing can be asked there; "" if something can."""
    if pod is None:
        return "the server has no pod"
    status = pod.get("status") or {}
    containers = status.get("containerStatuses") or ()
    if any("running" in (each.get("state") or {}) for each in containers):
        return ""
    where = f" on {pod['spec']['nodeName']}" if pod["spec"].get("nodeName") else ""
    why = "; ".join(waiting_reasons(pod)) or status.get("phase", "unknown")
    return f"pod {pod['metadata']['name']}{where} does not run: {why}"


def ask_server(cluster: Cluster, pod: Object, *words: str) -> dict[str, Any]:
    """Return the JSON that `tunnelctl WORDS --json` prints there.

    Raises ApiFailure, and CommandError with what it says on standard error.
    """
    command = ["tunnelctl", *words, "--json"]
    done = execute(cluster, pod, CONTAINER, command, timeout=TIMEOUT)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        return answer
    said = done.stderr.strip().removeprefix("tunnelctl: ") or "nothing"
    kind = {3: NotReachableError, 4: RefusedError}.get(done.code, CommandError)
    raise kind(f"{' '.join(command)} in pod {pod['metadata']['name']} ended with {done.code}: {said}")
