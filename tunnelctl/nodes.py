"""`tunnelctl nodes`: the edges, and how each is doing; `nodes forget` for one that will not come back."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from certs.identity import check_name
from tunnelctl.admin_client import add_arguments, ask
from tunnelctl.cluster_arguments import (
    add_cluster_arguments,
    asks_in_cluster,
    namespace_of,
    open_cluster,
)
from tunnelctl.errors import NotReachableError, UsageError
from tunnelctl.tables import ago, show, size, table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_SILENT = 3.0
"""Seconds without an answer, after which the server moves a link's calls to another one."""
HEADER = ("NAME", "STATE", "FOR", "ADDRESSES", "FROM", "RTT", "CALLS", "SENT", "RECEIVED", "AGENT")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `nodes`; sets `run`."""
    parser = subparsers.add_parser(
        "nodes",
        help="list the edges, and how each is doing; forget one",
        description="List the edges: whether each is connected and for how long, its addresses (in brackets "
        "those that are not captured), where its newest link comes from (with how many there are beside it) "
        "and the round trip there, open calls, and bytes sent to and received from it since the server "
        "started. --json has each link.",
    )
    add_arguments(parser)
    add_cluster_arguments(parser)
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(metavar="ACTION")
    forget = actions.add_parser(
        "forget",
        help="know no more of a node that will not come back",
        description="Remove a node that is away for good: its name, its addresses, its record. Another may "
        "have its addresses at once. Its certificate stays as good as it was: where its machine might come "
        "into other hands, `tunnelctl revoke` it first.",
    )
    forget.add_argument("node", metavar="NODE", help="as `tunnelctl nodes` lists it")
    add_arguments(forget, inherited=True)
    add_cluster_arguments(forget, inherited=True)
    forget.set_defaults(run=run_forget)


def run_forget(args: argparse.Namespace) -> int:
    """Have the server forget a node; raises CommandError."""
    try:
        check_name(args.node)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if asks_in_cluster(args):
        answer = _ask_in_cluster(args, "nodes", "forget", args.node)
    else:
        answer = ask(args.admin_socket, "DELETE", f"/v1/nodes/{args.node}")
    print(json.dumps(answer, indent=1) if args.json else "\n".join(forgotten_lines(answer)))
    return 0


def forgotten_lines(forgotten: dict[str, Any]) -> list[str]:
    """Return what was forgotten, and what its certificate is still good for."""
    addresses = ", ".join(map(show, forgotten["addresses"]))
    free = f": {addresses} may be another's" if addresses else ""
    lines = [f"{show(forgotten['name'])} is forgotten{free}"]
    expires = forgotten["certificate_expires"]
    good = expires and not forgotten["certificate_revoked"]
    if good and datetime.fromisoformat(expires) > datetime.now(UTC):
        serial = show(forgotten["certificate_serial"])
        lines.append(
            f"should its machine link again, it is known again, until its certificate ends ({expires}); "
            f"to refuse that: tunnelctl revoke --serial {serial}"
        )
    return lines


def run(args: argparse.Namespace) -> int:
    """Print the nodes; raises CommandError."""
    if asks_in_cluster(args):
        answer = _ask_in_cluster(args, "nodes")
    else:
        answer = ask(args.admin_socket, "GET", "/v1/nodes")
    print(json.dumps(answer, indent=1) if args.json else "\n".join(node_lines(answer["nodes"])))
    return 0


def _ask_in_cluster(args: argparse.Namespace, *words: str) -> dict[str, Any]:
    with open_cluster(args) as cluster:
        from tunnelctl.cluster_pods import server_pod, why_not_running
        from tunnelctl.server_pod import ask_server

        pod = server_pod(cluster, namespace_of(args))
        if pod is None or why_not_running(pod):
            raise NotReachableError(f"{why_not_running(pod)}: see `tunnelctl status`")
        return ask_server(cluster, pod, *words)


def node_lines(nodes: Sequence[dict[str, Any]]) -> list[str]:
    """Return the nodes as a table, and below it what is wrong with them and which calls wait."""
    if not nodes:
        return ["no node has joined yet: see `tunnelctl token create --help`"]
    lines = table(HEADER, [_row(node) for node in nodes])
    for node in nodes:
        if node["problem"]:
            lines.append(f"{show(node['name'])}: {show(node['problem'])}")
        lines += [f"{show(node['name'])}: {line}" for line in _silent_links(node)]
        if node["suspended_calls"]:
            lines.append(f"{show(node['name'])}: {node['suspended_calls']} calls wait for it to come back")
    return lines


def _silent_links(node: dict[str, Any]) -> list[str]:
    links = node.get("links", ())
    return [
        f"one of {len(links)} links, from {show(link['remote_address'])}, has been silent for "
        f"{link['unanswered_seconds']:.0f} s: the others carry its calls"
        for link in links
        if len(links) > 1 and link["unanswered_seconds"] >= _SILENT
    ]


def _row(node: dict[str, Any]) -> Sequence[object]:
    beside = len(node.get("links", ())) - 1
    addresses = [each if each in node["captured"] else f"[{each}]" for each in node["addresses"]]
    return (
        node["name"],
        "connected" if node["connected"] else "away",
        ago(node["since"]),
        ",".join(addresses),
        f"{node['remote_address']} (+{beside})" if beside > 0 else node["remote_address"],
        None if node["rtt_ms"] is None else f"{node['rtt_ms']:.1f} ms",
        node["open_calls"],
        size(node["bytes_up"]),
        size(node["bytes_down"]),
        node["agent_version"],
    )
