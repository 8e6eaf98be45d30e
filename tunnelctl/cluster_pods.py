"""The tunnel's pods in a cluster: finding them, and why one does not do its work."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tunnel_server.kube.apiserver import container_log
from tunnel_server.kube.failures import ApiFailure
from tunnel_server.kube.resources import EVENTS, PODS
from tunnelctl.install.scheduling import is_ready

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import Object

SERVER, AGENT = "server", "agent"
_COMPONENT = "app.kubernetes.io/component"
_OURS = "app.kubernetes.io/name=edge-tunnel"
_LOG_LINES = 3


def pods_of(cluster: Cluster, namespace: str, component: str = "", *, ending: bool = False) -> list[Object]:
    """Return the pods of `SERVER`, of `AGENT`, or all; with `ending`, those on their way out too.

    Raises ApiFailure.
    """
    pods = cluster.all_of(PODS, namespace, labels=_OURS + (f",{_COMPONENT}={component}" if component else ""))
    return [each for each in pods if ending or "deletionTimestamp" not in each["metadata"]]


def component(pod: Object) -> str:
    """Return of which of both ends a pod is."""
    return str((pod["metadata"].get("labels") or {}).get(_COMPONENT, ""))


def server_pod(cluster: Cluster, namespace: str) -> Object | None:
    """Return the server's pod, rather a ready one; None without any. Raises ApiFailure."""
    return next(iter(sorted(pods_of(cluster, namespace, SERVER), key=is_ready, reverse=True)), None)


def has_run(pod: Object) -> bool:
    """Whether any container of a pod was ever started."""
    status = pod.get("status") or {}
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    started = any(
        {"running", "terminated"} & {*(each.get("state") or {}), *(each.get("lastState") or {})}
        for each in containers
    )
    return started or status.get("phase") not in {None, "Pending"}


def why_not_running(pod: Object | None) -> str:
    """Return why nothing can be asked in the server's pod; "" if something can."""
    if pod is None:
        return "the server has no pod"
    status = pod.get("status") or {}
    if any("running" in (each.get("state") or {}) for each in status.get("containerStatuses") or ()):
        return ""
    where = f" on {pod['spec']['nodeName']}" if pod["spec"].get("nodeName") else ""
    why = "; ".join(waiting_reasons(pod)) or status.get("phase", "unknown")
    return f"pod {pod['metadata']['name']}{where} does not run: {why}"


def why_not_ready(cluster: Cluster, pod: Object) -> str:
    """Return what scheduler, kubelet and the program itself say of a pod; "" if it runs, as far as they know.

    Raises ApiFailure.
    """
    phase = (pod.get("status") or {}).get("phase", "unknown")
    reasons = [*waiting_reasons(pod), *last_words(cluster, pod)]
    if phase == "Pending":
        reasons = reasons or [phase]
        reasons += filter(None, [last_warning(cluster, pod)])
    return "; ".join(reasons) or ("" if phase == "Running" else phase)


def waiting_reasons(pod: Object) -> Iterator[str]:
    """Yield why a pod's containers do not run, as the kubelet and the scheduler say it."""
    status = pod.get("status") or {}
    for each in status.get("conditions") or ():
        if each["type"] == "PodScheduled" and each["status"] == "False":
            yield f"{each.get('reason', 'not scheduled')}: {each.get('message', '')}"
    for each in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        waiting = (each.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") not in {"PodInitializing", "ContainerCreating"}:
            yield f"{each['name']}: {waiting.get('reason')}: {waiting.get('message', '')}".rstrip(": ")


def last_warning(cluster: Cluster, about: Object) -> str:
    """Return the newest Event of an object that is a warning, as of a volume that cannot be mounted; or "".

    Raises ApiFailure.
    """
    metadata = about["metadata"]
    fields = f"involvedObject.uid={metadata['uid']},type=Warning"
    events = cluster.all_of(EVENTS, metadata["namespace"], fields=fields)
    newest = max(events, key=_time, default=None)
    return "" if newest is None else f"{newest.get('reason')}: {newest.get('message')}"


def _time(event: Object) -> str:
    found = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp")
    return str(found or "")


def last_words(cluster: Cluster, pod: Object) -> list[str]:
    """Return how containers ended, and the end of their logs, as far as these can be had."""
    words = []
    status = pod.get("status") or {}
    for each in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        now = (each.get("state") or {}).get("terminated")
        ended = now or (each.get("lastState") or {}).get("terminated")
        if each.get("ready") or not ended:
            continue
        text = (ended.get("message") or "").strip()
        with contextlib.suppress(ApiFailure):
            log = text or container_log(cluster, pod, each["name"], lines=_LOG_LINES, previous=not now)
            text = log.strip()
        words.append(
            f"it ended with {ended['exitCode']} ({ended.get('reason')})" + (f": {text}" if text else "")
        )
    return words
