"""One installation from beginning to end: look, judge, plan, do, wait; and back, if that fails."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tunnel_server.kube import apiserver
from tunnel_server.kube.failures import ApiFailure
from tunnelctl.checks import Check, State
from tunnelctl.cluster_arguments import as_command_error
from tunnelctl.errors import CommandError, UsageError
from tunnelctl.install import apply, networks, preflight, present, rollout, yurt_tunnel
from tunnelctl.install.manifests import Options, customised, load, moved
from tunnelctl.install.plan import Action, Step
from tunnelctl.install.ports import check_ports
from tunnelctl.install.traces import Traces
from tunnelctl.install.undoing import Undoing
from tunnelctl.interrupts import interruptible, only_by_keyboard

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel_server.kube.client import Cluster


@dataclass(frozen=True, slots=True)
class InstallRequest:
    """What the command line said; what it did not say is as it was installed before."""

    options: Options
    replace_yurt_tunnel: bool = False
    wait: bool = False
    timeout: float = 120.0
    """Seconds for yurt-tunnel to end, and for ours to run."""


@dataclass
class InstallPlan:
    """What would be done, and what speaks against it."""

    checks: list[Check]
    steps: list[Step] = field(default_factory=list)
    survey: preflight.ClusterSurvey | None = None

    @property
    def problems(self) -> list[Check]:
        """What has to be put right first."""
        return [each for each in self.checks if each.state is State.FAILED]

    @property
    def changes(self) -> list[Step]:
        """Steps that would change something."""
        return [each for each in self.steps if each.action is not Action.KEEP]


@dataclass
class InstallResult:
    """What was done."""

    taken_back: bool = False
    left: list[str] = field(default_factory=list)
    """What could not be taken back."""


def look(cluster: Cluster, request: InstallRequest) -> InstallPlan:
    """Find out what an installation would do, changing nothing; raises ApiFailure, UsageError."""
    namespace, replace = request.options.namespace, request.replace_yurt_tunnel
    shipped = load(by_name=True)
    version = apiserver.version(cluster)
    checks = [
        preflight.check_version(cluster.host, version),
        preflight.check_rights(cluster, moved(shipped, namespace), replaces=replace),
    ]
    if any(each.state is State.FAILED for each in checks):
        return InstallPlan(checks)
    options = request.options.over(present.look(cluster, namespace))
    shipped = load(by_name=options.by_name is not None)
    survey = preflight.look(cluster, customised(shipped, options))
    if not options.edge_networks:
        raise UsageError(_which_networks(survey))
    named = bool(options.server_addresses)
    options = options.over(Options(server_addresses=networks.default_servers(survey.hosts)))
    services, problems = preflight.service_networks(cluster, version, options.service_networks)
    options = dataclasses.replace(options, service_networks=services)
    objects = customised(shipped, options)
    checks += problems
    checks += preflight.check_namespace(cluster, namespace)
    checks += preflight.check_cluster(survey, objects, options.edge_networks)
    endpoints = options.server_addresses
    checks += networks.check_servers(endpoints, survey.hosts, survey.service_ip, chosen=not named)
    checks += preflight.check_yurt_tunnel(survey, replace=replace)
    checks += check_ports(survey, objects, namespace, replace=replace)
    if any(each.state is State.FAILED for each in checks):
        # What the apiserver would have against objects that a mere user may not make is told already.
        return InstallPlan(checks, survey=survey)
    steps, problems = apply.plan(cluster, objects)
    checks += problems or [Check("objects", State.OK, f"the apiserver takes all {len(steps)}")]
    return InstallPlan(checks, steps, survey)


def carry_out(
    cluster: Cluster,
    plan: InstallPlan,
    request: InstallRequest,
    tell: Callable[[str], None],
    result: InstallResult,
) -> None:
    """Do it. Whatever is raised meanwhile, what was done is taken back first, as `result` says.

    Raises CommandError where it failed.
    """
    undoing = Undoing(tell)
    traces = Traces(cluster, request.options.namespace, tell)
    with interruptible():
        try:
            if request.replace_yurt_tunnel and plan.survey is not None:
                yurt_tunnel.stop(cluster, plan.survey.yurt_tunnel, undoing, tell, request.timeout)
            apply.apply(cluster, plan.steps, undoing, traces, tell)
            if request.wait:
                rollout.wait(cluster, request.options.namespace, request.timeout, tell)
        except BaseException as error:
            why = as_command_error(error) if isinstance(error, ApiFailure) else error
            interrupted = isinstance(why, KeyboardInterrupt)
            tell(f"{'interrupted' if interrupted else 'failed'}; taking back what was done:")
            result.taken_back = True
            with only_by_keyboard():
                result.left = undoing.undo()
            if isinstance(why, CommandError):
                raise type(why)(f"{why}; {_told(result)}") from None
            raise


def _told(result: InstallResult) -> str:
    if result.left:
        left = "; ".join(result.left)
        return f"not all could be taken back: {left}; once that is possible: tunnelctl uninstall"
    return "everything is as it was before"


def _which_networks(survey: preflight.ClusterSurvey) -> str:
    seen = networks.suggested(survey.edges)
    hint = f"; for the nodes that are edges now: --edge-networks {seen}" if seen else ", like 192.168.0.0/16"
    return f"--edge-networks is needed: an address counts as an edge's only inside of these networks{hint}"


def describe(steps: list[Step]) -> list[dict[str, Any]]:
    """Return the steps as `--json` has them."""
    return [
        {
            "kind": each.reference.kind,
            "namespace": each.reference.namespace or None,
            "name": each.reference.name,
            "action": str(each.action),
            "changes": list(each.changes),
        }
        for each in steps
    ]
