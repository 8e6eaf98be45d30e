"""`tunnelctl install`: server and agents into a cluster, or nothing."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import TYPE_CHECKING

from tunnelctl.cluster_arguments import add_cluster_arguments, open_cluster
from tunnelctl.durations import parse_duration
from tunnelctl.errors import OK, REFUSED, CommandError, UsageError
from tunnelctl.standard_streams import tell

if TYPE_CHECKING:
    from certs.addresses import IPNetwork
    from tunnel_server.kube.client import Cluster
    from tunnelctl.install.installation import Outcome, Prospect, Wishes

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
        "default: yurt-tunnel's two",
    )
    parser.add_argument(
        "--pod-networks",
        metavar="NET,...",
        help="of pods, if the CNI does not take them from Node.spec.podCIDRs",
    )
    parser.add_argument(
        "--service-networks", metavar="NET,...", help="of Services, where Kubernetes is older than 1.33"
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
    wishes = _wishes(args)
    with open_cluster(args) as cluster:
        return _install(cluster, wishes, dry_run=args.dry_run, as_json=args.json)


def _wishes(args: argparse.Namespace) -> Wishes:
    try:
        from tunnel_server.kube.selector import LabelSelector
        from tunnelctl.install.installation import Wishes
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
    )
    return Wishes(
        options=options,
        replace_yurt_tunnel=args.replace_yurt_tunnel,
        wait=args.wait,
        timeout=args.timeout,
    )


def _install(cluster: Cluster, wishes: Wishes, *, dry_run: bool, as_json: bool) -> int:
    from tunnelctl.doctor import lines
    from tunnelctl.install.installation import Outcome, carry_out, look

    prospect = look(cluster, wishes)
    outcome = Outcome()
    news = (lambda _: None) if as_json else tell
    for line in lines(prospect.checks, sys.stdout.encoding):
        news(line)
    if not prospect.problems and not dry_run:
        news("")
        try:
            carry_out(cluster, prospect, wishes, news, outcome)
        except BaseException:
            if as_json:
                print(report(prospect, outcome, dry_run=False, done=False))
            raise
    if as_json:
        done = not prospect.problems and not dry_run
        print(report(prospect, outcome, dry_run=dry_run, done=done))
    else:
        news("\n".join(ending(prospect, dry_run=dry_run, waited=wishes.wait)))
    return REFUSED if prospect.problems else OK


def ending(prospect: Prospect, *, dry_run: bool, waited: bool) -> list[str]:
    """Return what it comes to."""
    count = len(prospect.problems)
    if count:
        return ["", f"nothing was changed: {count} problem{'s' if count > 1 else ''} above"]
    if dry_run:
        told = []
        for each in prospect.changes:
            told += [f"would {each}", *(f"    {change}" for change in each.changes)]
        return ["", *told, "nothing was changed" if told else "nothing would be changed"]
    if not prospect.changes:
        return ["nothing was changed: all is as it would be installed"]
    if waited:
        return ["", "installed, and running"]
    return ["", "installed; see it start: kubectl -n edge-tunnel get pods"]


def report(prospect: Prospect, outcome: Outcome, *, dry_run: bool, done: bool) -> str:
    """Return it as JSON."""
    from tunnelctl.install.installation import describe

    return json.dumps(
        {
            "done": done,
            "dry_run": dry_run,
            "checks": [dataclasses.asdict(each) for each in prospect.checks],
            "objects": describe(prospect.steps),
            "taken_back": outcome.taken_back,
            "left": outcome.left,
        },
        indent=1,
    )


def _seconds(text: str) -> float:
    try:
        return parse_duration(text).total_seconds()
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
