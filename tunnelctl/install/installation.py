"""One installation from beginning to end: look, judge, plan, do, wait; and back, if that fails."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tunnel_server.kube import apiserver
from tunnel_server.kube.failures import ApiFailure
from tunnelctl.checks import Check, State
from tunnelctl.cluster_arguments import as_command_error
from tunnelctl.errors import CommandError, UsageError
from tunnelctl.install import apply, networks, preflight, present, rollout, yurt_tunnel
from tunnelctl.install.manifests import Options, customised, load
from tunnelctl.install.plan import Action, Step
from tunnelctl.install.undoing import Undoing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tunnel_server.kube.client import Cluster


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line said; what it did not say is as it was installed before."""

    options: Options
    replace_yurt_tunnel: bool = False
    wait: bool = False
    timeout: float = 120.0
    """Seconds for yurt-tunnel to end, and for ours to run."""


@dataclass
class Prospect:
    """What would be done, and what speaks against it."""

    checks: list[Check]
    steps: list[Step] = field(default_factory=list)
    found: preflight.Found | None = None

    @property
    def problems(self) -> list[Check]:
        """What has to be put right first."""
        return [each for each in self.checks if each.state is State.FAILED]

    @property
    def changes(self) -> list[Step]:
        """Steps that would change something."""
        return [each for each in self.steps if each.action is not Action.KEEP]


@dataclass
class Outcome:
    """What was done."""

    taken_back: bool = False
    left: list[str] = field(default_factory=list)
    """What could not be taken back."""


def look(cluster: Cluster, wishes: Wishes) -> Prospect:
    """Find out what an installation would do, changing nothing; raises ApiFailure, UsageError."""
    shipped, replace = load(), wishes.replace_yurt_tunnel
    version = apiserver.version(cluster)
    checks = [
        preflight.check_version(cluster.host, version),
        preflight.check_rights(cluster, shipped, replaces=replace),
    ]
    if any(each.state is State.FAILED for each in checks):
        return Prospect(checks)
    options = wishes.options.over(present.look(cluster))
    found = preflight.look(cluster, customised(shipped, options))
    if not options.edge_networks:
        raise UsageError(_which_networks(found))
    named = bool(options.server_addresses)
    options = options.over(Options(server_addresses=networks.default_servers(found.hosts)))
    services, problems = preflight.service_networks(cluster, version, options.service_networks)
    options = dataclasses.replace(options, service_networks=services)
    objects = customised(shipped, options)
    checks += problems
    checks += preflight.check_namespace(cluster)
    checks += preflight.check_cluster(found, objects, options.edge_networks)
    endpoints = options.server_addresses
    checks += networks.check_servers(endpoints, found.hosts, found.service_ip, chosen=not named)
    checks += preflight.check_yurt_tunnel(found, replace=replace)
    checks += preflight.check_ports(found, objects, replace=replace)
    if any(each.state is State.FAILED for each in checks):
        # What the apiserver would have against objects that a mere user may not make is told already.
        return Prospect(checks, found=found)
    steps, problems = apply.plan(cluster, objects)
    checks += problems or [Check("objects", State.OK, f"the apiserver takes all {len(steps)}")]
    return Prospect(checks, steps, found)


def carry_out(
    cluster: Cluster, prospect: Prospect, wishes: Wishes, tell: Callable[[str], None], outcome: Outcome
) -> None:
    """Do it; raises CommandError where it failed, and then what was done is taken back as `outcome` says."""
    undoing = Undoing(tell)
    try:
        with interruptible():
            if wishes.replace_yurt_tunnel and prospect.found is not None:
                yurt_tunnel.stop(cluster, prospect.found.yurt_tunnel, undoing, tell, wishes.timeout)
            apply.apply(cluster, prospect.steps, undoing, tell)
            if wishes.wait:
                rollout.wait(cluster, wishes.timeout, tell)
    except (CommandError, ApiFailure, KeyboardInterrupt) as error:
        why = as_command_error(error) if isinstance(error, ApiFailure) else error
        tell(f"{'failed' if isinstance(why, CommandError) else 'interrupted'}; taking back what was done:")
        outcome.taken_back = True
        outcome.left = undoing.undo()
        if isinstance(why, CommandError):
            raise type(why)(f"{why}; {_told(outcome)}") from None
        raise


def _told(outcome: Outcome) -> str:
    if outcome.left:
        left = "; ".join(outcome.left)
        return f"not all could be taken back: {left}; once that is possible: tunnelctl uninstall"
    return "everything is as it was before"


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Have SIGTERM and SIGHUP interrupt as Ctrl-C does, so that these too leave nothing half done."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {each: signal.signal(each, interrupt) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _which_networks(found: preflight.Found) -> str:
    seen = networks.suggested(found.edges)
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
