"""`tunnelctl status`: the server at a glance."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from tunnelctl.admin_client import add_arguments, ask
from tunnelctl.cluster_arguments import add_cluster_arguments, asks_in_cluster, namespace_of, open_cluster
from tunnelctl.errors import FAILED, OK
from tunnelctl.map_port import mapping_lines
from tunnelctl.tables import show, size, span, table

if TYPE_CHECKING:
    import argparse

    from tunnel_server.kube.client import Cluster


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `status`; sets `run`."""
    parser = subparsers.add_parser(
        "status",
        help="show how the server is doing, and which calls failed lately",
        description="Show the server: listeners, interception, captured ports, nodes, memory, "
        "and the calls that failed lately with their causes. In a cluster, every edge too: its Node, its "
        "agent's pod, certificate, link, addresses (in brackets those that are not captured), whether its "
        "kubelet answers kube-apiserver, and what fails first, with the remedy. The server is asked in its "
        "pod, as by `kubectl exec`.",
    )
    add_arguments(parser)
    add_cluster_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the status; raises CommandError. In a cluster, 1 if something fails on an edge that is there."""
    if asks_in_cluster(args):
        with open_cluster(args) as cluster:
            return _in_cluster(cluster, namespace_of(args), as_json=args.json)
    answer = ask(args.admin_socket, "GET", "/v1/status")
    print(json.dumps(answer, indent=1) if args.json else "\n".join(status_lines(answer)))
    return 0


def _in_cluster(cluster: Cluster, namespace: str, *, as_json: bool) -> int:
    from tunnelctl.cluster_status import edge_lines, look, to_json
    from tunnelctl.doctor import lines

    status = look(cluster, namespace)
    if as_json:
        print(json.dumps(to_json(status), indent=1))
    else:
        told = lines([status.pod], sys.stdout.encoding)
        if status.server is not None:
            told += ["", *status_lines(status.server)]
        print("\n".join([*told, "", *edge_lines(status)]))
    return OK if status.well else FAILED


def status_lines(status: dict[str, Any]) -> list[str]:
    """Return the status as people read it."""
    interception = status["interception"]
    captured = f"{interception['state']}, {interception['addresses']} addresses"
    if interception["restored"]:
        captured += f", put back {interception['restored']} times"
    suspended = status["calls_suspended"]
    waiting = f", {suspended} of them waiting for their node to come back" if suspended else ""
    memory = f"{size(status['memory_used_bytes'])} of {size(status['memory_budget_bytes'])}"
    before = [
        f"replaced      process {each['pid']}, {show(each['version'])}: {each['calls_open']} calls open still"
        for each in status.get("predecessors", ())
    ]
    lines = [
        f"tunnel-server {show(status['version'])}, up {span(status['uptime_seconds'])}",
        f"nodes         {status['nodes_connected']} of {status['nodes_known']} connected",
        f"calls         {status['calls_open']} open{waiting}",
        *before,
        f"memory        {memory}",
        f"interception  {captured}",
        "",
        *table(("LISTENER", "ADDRESS", "GOES TO"), [
            (each["name"], each["address"], each["target"]) for each in status["listeners"]
        ]),
    ]  # fmt: skip
    if frontends := status.get("frontends"):
        rows = [(each["name"], each["calls"], each["failed"]) for each in frontends]
        lines += ["", *table(("CALLS BY", "ALL", "FAILED"), rows)]
    if status["mappings"]:
        lines += ["", *mapping_lines(status["mappings"])]
    problems = [*interception["problems"], *status["mapping_problems"]]
    lines += [line for problem in problems for line in ("", f"problem: {show(problem)}")]
    if status["recent_failures"]:
        lines += ["", "calls that failed lately:", *_failure_lines(status["recent_failures"])]
    return lines


def _failure_lines(failures: list[dict[str, Any]]) -> list[str]:
    keys = ("time", "frontend", "caller", "node", "target", "cause", "detail")
    return table([key.upper() for key in keys], [[each[key] for key in keys] for each in failures])
