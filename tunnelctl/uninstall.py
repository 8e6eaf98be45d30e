"""`tunnelctl uninstall`: what an install made, out of a cluster again, and nothing else."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from tunnelctl.cluster_arguments import add_cluster_arguments, namespace_of, open_cluster
from tunnelctl.errors import FAILED, OK, RefusedError
from tunnelctl.install import add_timeout
from tunnelctl.interrupts import interruptible
from tunnelctl.standard_streams import tell

if TYPE_CHECKING:
    from tunnel_server.kube.client import Cluster
    from tunnelctl.install.removal import Removal

DESCRIPTION = """\
Take out of a cluster what `tunnelctl install` made, a half of it too: all objects with the authority among
them; the server's rules and routes on its host, which it takes away itself when it ends, and is waited for;
and on the edges their agents' keys and certificates. Cluster that were there before are given back as they
were; a yurt-tunnel that was stopped is started again. Nothing else is touched: no workload restarts or moves.

Edges that joined with a token need a new one should the tunnel be installed again: its authority is another
then, unless `tunnelctl backup` keeps this one."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `uninstall`; sets `run`."""
    parser = subparsers.add_parser(
        "uninstall",
        help="take out of a Kubernetes cluster what install made",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dry-run", action="store_true", help="tell what would be done, and change nothing")
    parser.add_argument(
        "--keep-node-state",
        action="store_true",
        help="leave keys and certificates of agents on the edges, and start no pod there to remove them",
    )
    add_timeout(parser, "for pods to end, for edges to be cleaned, for the namespace to be gone, each")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    add_cluster_arguments(parser, optional=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Uninstall; 1 if anything is left, which is told. Raises CommandError: say it again then."""
    with open_cluster(args) as cluster:
        return _uninstall(cluster, args)


def _uninstall(cluster: Cluster, args: argparse.Namespace) -> int:
    from tunnelctl.install.removal import look
    from tunnelctl.install.uninstallation import carry_out

    removal = look(cluster, namespace_of(args))
    if removal.nothing:
        return _nothing(removal, as_json=args.json)
    told: list[str] = []

    def news(line: str) -> None:
        told.append(line)
        if not args.json:
            tell(line)

    left: list[str] = []
    if args.dry_run:
        for line in intended(removal, keep_node_state=args.keep_node_state):
            news(line)
    else:
        with interruptible():
            left = carry_out(
                cluster, removal, keep_node_state=args.keep_node_state, timeout=args.timeout, tell=news
            )
    if args.json:
        print(
            json.dumps(
                {"dry_run": args.dry_run, "done": told, "left": left, "others": removal.others}, indent=1
            )
        )
        return FAILED if left else OK
    for each in removal.others:
        tell(f"not touched, since no install made it: {each}")
    for each in left:
        tell(f"left: {each}")
    tell(
        "nothing was changed" if args.dry_run else "uninstalled" + (", but for what is left" if left else "")
    )
    return FAILED if left else OK


def _nothing(removal: Removal, *, as_json: bool) -> int:
    if removal.others:
        raise RefusedError(
            f"the tunnel here was not installed by `tunnelctl install`: {'; '.join(removal.others[:3])}; "
            "take it away by the means it came by: helm uninstall, or kubectl delete -f"
        )
    if as_json:
        print(json.dumps({"dry_run": False, "done": [], "left": [], "others": []}, indent=1))
    else:
        tell("nothing to remove: no install made anything here")
    return OK


def intended(removal: Removal, *, keep_node_state: bool) -> list[str]:
    """Return what would be done."""
    told = [f"would delete {reference}" for reference, _ in removal.made]
    told += [f"would give back {live['kind']} {live['metadata']['name']}" for live, _ in removal.changed]
    told += [f"would start {each.reference} again" for each in removal.yurt_tunnel]
    hosts = [removal.server] if keep_node_state else [removal.agents, removal.server]
    told += [f"would remove {each.whose} from their hosts" for each in hosts if each is not None]
    return told
