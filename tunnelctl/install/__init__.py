"""`tunnelctl install`: server and agents into a cluster, or nothing."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tunnelctl.cluster_arguments import add_cluster_arguments, namespace_of, open_cluster
from tunnelctl.durations import parse_duration
from tunnelctl.errors import OK, REFUSED, CommandError, UsageError
from tunnelctl.standard_streams import tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from certs.addresses import IPNetwork
    from tunnel_server.kube.client import Cluster
    from tunnelctl.install.installation import InstallPlan, InstallRequest, InstallResult

DESCRIPTION = """\
Install server and agents into a cluster. First it looks, and changes nothing: at what you may do, at nodes,
addresses, ports, and a yurt-tunnel that is there; and it has the apiserver try every object. Whatever is in
the way is told with its remedy, and then nothing was changed. If something fails later, or Ctrl-C is pressed,
all that this run did is taken back.

Said again, it changes what is different, such as another --server-address or what a new version brings, and
nothing else; options that are not said again stay as they were. No workload of yours restarts or moves.
`tunnelctl uninstall` takes it away."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `install`; sets `run`."""
    parser = subparsers.add_parser(
        "install",
        help="put server and agents into a Kubernetes cluster",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--edge-networks",
        metavar="NET,...",
        help="needed once: the networks that edges are in; no address outside of them is an edge's",
    )
    parser.add_argument(
        "--server-address",
        metavar="HOST[:PORT],...",
        help="where edges reach the server from outside, port 10262 unless given; "
        "default: the addresses of the server's host as the cluster has them",
    )
    parser.add_argument(
        "--server-node",
        metavar="NODE",
        help="the node that runs the server; default: one of the control plane",
    )
    parser.add_argument(
        "--edge-selector",
        metavar="SELECTOR",
        action="append",
        help="labels of nodes that are edges, like example.org/site=factory; given again, either will do; "
        "default: yurt-tunnel's two, and node-restriction.kubernetes.io/edge-tunnel=true",
    )
    parser.add_argument(
        "--pod-networks",
        metavar="NET,...",
        help="of all pods, if the CNI does not take them from Node.spec.podCIDRs, or edges are in them",
    )
    parser.add_argument(
        "--service-networks", metavar="NET,...", help="of Services, where Kubernetes is older than 1.33"
    )
    parser.add_argument(
        "--caller-networks",
        metavar="NET,...",
        help="of callers that are captured on their way through the server's host: the pods', so that "
        "metrics-server and others there reach edges; `none` for none",
    )
    parser.add_argument(
        "--by-name",
        metavar="NET,...",
        help="have a Service for callers by the edge's name from these networks, and names for CoreDNS",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="further settings of the server, TOML, as [callers.local]; an empty file for none",
    )
    parser.add_argument(
        "--image",
        metavar="IMAGE",
        help="of server and agents; default: the one that this version is built as",
    )
    parser.add_argument(
        "--replace-yurt-tunnel",
        action="store_true",
        help="stop a yurt-tunnel that is there: it needs the same ports; its ConfigMap stays and counts",
    )
    parser.add_argument("--dry-run", action="store_true", help="tell what would be done, and change nothing")
    parser.add_argument(
        "--wait",
        action="store_true",
        help="succeed only once the server runs and an agent is linked on every edge that is there",
    )
    add_timeout(parser, "for yurt-tunnel to end, and with --wait for ours to run")
    parser.add_argument("--json", action="store_true", help="print what was found and done as JSON")
    add_cluster_arguments(parser, optional=False)
    parser.set_defaults(run=run)


def add_timeout(parser: argparse.ArgumentParser, what: str) -> None:
    """Add `--timeout`, in seconds when it is read."""
    parser.add_argument(
        "--timeout", type=_seconds, default=120.0, metavar="TIME", help=f"{what}, like 30s or 5m; default: 2m"
    )


def run(args: argparse.Namespace) -> int:
    """Install; raises CommandError, and then everything is as before, or the message says what is not."""
    request = _request(args)
    with open_cluster(args) as cluster:
        return _install(cluster, request, dry_run=args.dry_run, as_json=args.json)


def _request(args: argparse.Namespace) -> InstallRequest:
    try:
        from tunnel_server.kube.selector import LabelSelector
        from tunnelctl.install.installation import InstallRequest
        from tunnelctl.install.manifests import Options
        from tunnelctl.install.networks import parse_networks, parse_server
    except ModuleNotFoundError as error:
        raise CommandError(f"{error.name} is not installed: install needs edge-tunnel[server]") from None

    def networks(option: str, text: str | None) -> tuple[IPNetwork, ...]:
        return () if text is None else parse_networks(option, text)

    try:
        selectors = tuple(map(LabelSelector.parse, args.edge_selector or ()))
    except ValueError as error:
        raise UsageError(f"--edge-selector: {error}") from None
    servers = [each.strip() for each in (args.server_address or "").split(",")]
    options = Options(
        server_addresses=tuple(parse_server(each) for each in servers if each),
        edge_networks=networks("--edge-networks", args.edge_networks),
        image=args.image or "",
        server_node=args.server_node or "",
        edge_selectors=selectors,
        service_networks=networks("--service-networks", args.service_networks),
        pod_networks=networks("--pod-networks", args.pod_networks),
        caller_networks=_some_or_none(networks, args.caller_networks),
        by_name=networks("--by-name", args.by_name) or None,
        config=None if args.config is None else _further(args.config),
        namespace=namespace_of(args),
    )
    return InstallRequest(
        options=options,
        replace_yurt_tunnel=args.replace_yurt_tunnel,
        wait=args.wait,
        timeout=args.timeout,
    )


def _further(path: Path) -> str:
    """Read further settings of the server; raises UsageError for what it would not take."""
    from tunnel_daemon.settings import SettingsError, read_settings
    from tunnel_server.config import ServerConfig

    try:
        text = path.read_text()
        read_settings(ServerConfig, path)
    except SettingsError as error:
        raise UsageError(f"--config: {'; '.join(error.problems)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--config: {path}: {getattr(error, 'strerror', None) or error}") from None
    return text


def _some_or_none(
    networks: Callable[[str, str | None], tuple[IPNetwork, ...]], text: str | None
) -> tuple[IPNetwork, ...] | None:
    if text is None:
        return None
    return () if text.strip() == "none" else networks("--caller-networks", text)


def _install(cluster: Cluster, request: InstallRequest, *, dry_run: bool, as_json: bool) -> int:
    from tunnelctl.doctor import lines
    from tunnelctl.install.installation import InstallResult, carry_out, look

    plan = look(cluster, request)
    result = InstallResult()
    news = (lambda _: None) if as_json else tell
    for line in lines(plan.checks, sys.stdout.encoding):
        news(line)
    if not plan.problems and not dry_run:
        news("")
        try:
            carry_out(cluster, plan, request, news, result)
        except BaseException:
            if as_json:
                print(report(plan, result, dry_run=False, done=False))
            raise
    if as_json:
        done = not plan.problems and not dry_run
        print(report(plan, result, dry_run=dry_run, done=done))
    else:
        news("\n".join(ending(plan, request.options.namespace, dry_run=dry_run, waited=request.wait)))
    return REFUSED if plan.problems else OK


def ending(plan: InstallPlan, namespace: str, *, dry_run: bool, waited: bool) -> list[str]:
    """Return what it comes to."""
    count = len(plan.problems)
    if count:
        return ["", f"nothing was changed: {count} problem{'s' if count > 1 else ''} above"]
    if dry_run:
        told = []
        for each in plan.changes:
            told += [f"would {each}", *(f"    {change}" for change in each.changes)]
        return ["", *told, "nothing was changed" if told else "nothing would be changed"]
    if not plan.changes:
        return ["nothing was changed: all is as it would be installed"]
    if waited:
        return ["", "installed, and running"]
    return ["", f"installed; see it start: kubectl -n {namespace} get pods; what keeps it: tunnelctl status"]


def report(plan: InstallPlan, result: InstallResult, *, dry_run: bool, done: bool) -> str:
    """Return it as JSON."""
    from tunnelctl.install.installation import describe

    return json.dumps(
        {
            "done": done,
            "dry_run": dry_run,
            "checks": [dataclasses.asdict(each) for each in plan.checks],
            "objects": describe(plan.steps),
            "taken_back": result.taken_back,
            "left": result.left,
        },
        indent=1,
    )


def _seconds(text: str) -> float:
    try:
        return parse_duration(text).total_seconds()
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
