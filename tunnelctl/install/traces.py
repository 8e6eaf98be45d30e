"""What pods of a failed install have left behind: state in Secrets, and directories on their hosts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tunnel_server.kube.references import DEPLOYMENTS, ObjectReference
from tunnel_server.kube.resources import CONFIG_MAPS, SECRETS
from tunnelctl.cluster_pods import AGENT, SERVER, has_run, pods_of
from tunnelctl.errors import CommandError
from tunnelctl.install.host_cleanup import clean, kept_by
from tunnelctl.install.ownership import AT_RUN_TIME, OURS, maker
from tunnelctl.install.stopping import wait_for_pods

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import Object

PATIENCE = 60.0
"""Seconds for pods to end, and for hosts to be cleaned, each."""


@dataclass
class Traces:
    """What is there that was not when the run began."""

    cluster: Cluster
    namespace: str
    tell: Callable[[str], None]
    _before: set[str] = field(init=False)
    """UIDs of what servers had made, or `tunnelctl restore`."""
    _hosts: dict[str, set[str]] = field(default_factory=dict)
    """Nodes on which pods of a workload ran, by its kind."""

    def __post_init__(self) -> None:
        """Look at what is there; raises ApiFailure."""
        self._before = {live["metadata"]["uid"] for live in self._made()}

    def note(self, workload: Object) -> str:
        """See on which nodes pods of a workload ran, while they are there. Raises ApiFailure."""
        pods = pods_of(self.cluster, self.namespace, _component(workload), ending=True)
        self._hosts[workload["kind"]] = {each["spec"].get("nodeName", "") for each in pods if has_run(each)}
        return ""

    def remove(self, workload: Object) -> str:
        """Remove it, once the workload is deleted and its pods have ended; returns what was done.

        Raises ApiFailure, and CommandError with what is left.
        """
        deadline = time.monotonic() + PATIENCE
        left = wait_for_pods(self.cluster, self.namespace, deadline, self.tell, _component(workload))
        done = []
        if workload["kind"] == DEPLOYMENTS.kind:
            for live in list(self._made()):
                if live["metadata"]["uid"] not in self._before:
                    reference = ObjectReference.of(live)
                    self.cluster.remove(reference)
                    done.append(str(reference))
        directory = kept_by(workload, self._hosts.get(workload["kind"], set()))
        if directory is not None and directory.hosts:
            left += clean(self.cluster, self.namespace, [directory], PATIENCE, self.tell)
        if left:
            raise CommandError("; ".join(left))
        return f"deleted {', '.join(done)}" if done else ""

    def _made(self) -> Iterator[Object]:
        for resource in (SECRETS, CONFIG_MAPS):
            for live in self.cluster.all_of(resource, self.namespace, labels=OURS):
                if maker(live) == AT_RUN_TIME:
                    yield live


def _component(workload: Object) -> str:
    return SERVER if workload["kind"] == DEPLOYMENTS.kind else AGENT
