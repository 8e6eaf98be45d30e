"""`tunnelctl nodes`: the edges, and how each is doing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tunnelctl.admin_client import add_arguments, ask
from tunnelctl.tables import ago, show, size, table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

HEADER = ("NAME", "STATE", "FOR", "ADDRESSES", "FROM", "RTT", "CALLS", "SENT", "RECEIVED", "AGENT")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `nodes`; sets `run`."""
    parser = subparsers.add_parser(
        "nodes",
        help="list the edges, and how each is doing",
        description="List the edges: whether each is connected and for how long, its addresses (in brackets "
        "those that are not captured), where it connects from, the round trip, open calls, and bytes "
        "sent to and received from it since the server started.",
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the nodes; raises CommandError."""
    answer = ask(args.admin_socket, "GET", "/v1/nodes")
    print(json.dumps(answer, indent=1) if args.json else "\n".join(node_lines(answer["nodes"])))
    return 0


def node_lines(nodes: Sequence[dict[str, Any]]) -> list[str]:
    """Return the nodes as a table, and what is wrong with them below."""
    if not nodes:
        return ["no node has joined yet: see `tunnelctl token create --help`"]
    lines = table(HEADER, [_row(node) for node in nodes])
    return lines + [f"{show(node['name'])}: {show(node['problem'])}" for node in nodes if node["problem"]]


def _row(node: dict[str, Any]) -> Sequence[object]:
    addresses = [each if each in node["captured"] else f"[{each}]" for each in node["addresses"]]
    return (
        node["name"],
        "connected" if node["connected"] else "away",
        ago(node["since"]),
        ",".join(addresses),
        node["remote_address"],
        None if node["rtt_ms"] is None else f"{node['rtt_ms']:.1f} ms",
        node["open_calls"],
        size(node["bytes_up"]),
        size(node["bytes_down"]),
        node["agent_version"],
    )
