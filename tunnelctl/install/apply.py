"""Doing what was planned, an object at a time, each with its way back written down first."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from tunnel_server.kube.failures import ApiFailure
from tunnel_server.kube.references import DEPLOYMENTS, NAMESPACES, ObjectReference
from tunnel_server.kube.resources import DAEMON_SETS
from tunnelctl.checks import Check, State
from tunnelctl.install.owned_fields import bare, managers, owned_fields
from tunnelctl.install.ownership import is_ours, marked
from tunnelctl.install.plan import MANAGER, Action, Step, step

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import Object
    from tunnelctl.install.traces import Traces
    from tunnelctl.install.undoing import Undoing

NAMESPACE_PATIENCE = 30.0
"""Seconds for a namespace to end once it is deleted, so that the next install finds none."""
PAUSE = 0.5  # seconds between two looks


def plan(cluster: Cluster, objects: list[Object]) -> tuple[list[Step], list[Check]]:
    """Have the apiserver try every object, changing nothing; returns the steps, and what speaks against them.

    What belongs into a namespace that is not there yet cannot be tried. Raises ApiFailure if nobody answers.
    """
    steps, problems = [], []
    absent = set()
    for wanted in objects:
        reference = ObjectReference.of(wanted)
        before = cluster.find(reference)
        manifest = marked(wanted, before)
        if before is None and wanted["kind"] == "Namespace":
            absent.add(reference.name)
        after = None
        if reference.namespace not in absent:
            try:
                after = cluster.apply_manifest(manifest, MANAGER, dry_run=True)
            except ApiFailure as failure:
                if not failure.lasting:
                    raise
                problems.append(_refused(reference, before, failure))
        steps.append(step(manifest, before, after))
    return steps, problems


def _refused(reference: ObjectReference, before: Object | None, failure: ApiFailure) -> Check:
    remedy = "the apiserver's words say what it wants"
    if failure.reason == "Conflict" and before is not None:
        if "helm" in managers(before):
            remedy = "Helm installed it: change it by `helm upgrade`, or `helm uninstall` first"
        else:
            others = ", ".join(sorted(managers(before) - {MANAGER}))
            remedy = f"written by {others}: set these fields there to what you want, or delete the object"
    return Check("objects", State.FAILED, f"{reference}: {failure}", remedy)


def apply(
    cluster: Cluster, steps: list[Step], undoing: Undoing, traces: Traces, tell: Callable[[str], None]
) -> None:
    """Make and change objects in their order; raises ApiFailure, and then `undoing` knows the way back."""
    for each in steps:
        if each.action is Action.KEEP:
            continue
        runs = each.before is None and each.reference.resource in {DAEMON_SETS, DEPLOYMENTS}
        if runs:
            # Taken back after the workload is, before what its pods live on.
            undoing.remember(f"what pods of {each.reference} left", partial(traces.remove, each.wanted))
        undoing.remember(str(each), partial(take_back, cluster, each))
        cluster.apply_manifest(each.wanted, MANAGER)
        if runs:
            undoing.remember(f"a look at the pods of {each.reference}", partial(traces.note, each.wanted))
        tell(f"{'made' if each.before is None else 'changed'} {each.reference}")


def take_back(cluster: Cluster, done: Step) -> str:
    """Undo one step: delete what it made, put back what it changed. Returns what was done.

    Raises ApiFailure.
    """
    live = cluster.find(done.reference)
    if live is None:
        return ""
    if done.before is None:
        if not is_ours(live) or not cluster.remove(done.reference, uid=live["metadata"]["uid"]):
            return ""
        if done.reference.resource is NAMESPACES and not gone(cluster, done.reference, NAMESPACE_PATIENCE):
            return f"deleted {done.reference} again; its end takes the cluster a while"
        return f"deleted {done.reference} again"
    cluster.apply_manifest(owned_fields(done.before, MANAGER) or bare(done.before), MANAGER)
    return f"put back {done.reference}"


def gone(cluster: Cluster, reference: ObjectReference, seconds: float) -> bool:
    """Wait until a deleted object is gone; False if it is still there. Raises ApiFailure."""
    deadline = time.monotonic() + seconds
    while cluster.find(reference) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE)
    return True


def give_back(cluster: Cluster, live: Object, manager: str = MANAGER) -> bool:
    """Let go of the fields that a manager of ours owns in an object that was there before us.

    False if there are none.

    Raises ApiFailure.
    """
    if owned_fields(live, manager) is None:
        return False
    cluster.apply_manifest(bare(live), manager)
    return True
