"""`tunnelctl nodes`: the edges, and how each is doing; `nodes forget` for one that will not come back."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from certs.identity import check_name
from tunnelctl.admin_client import add_arguments, ask
from tunnelctl.errors import UsageError
from tunnelctl.tables import ago, show, size, table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

HEADER = ("NAME", "STATE", "FOR", "ADDRESSES", "FROM", "RTT", "CALLS", "SENT", "RECEIVED", "AGENT")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `nodes`; sets `run`."""
    parser = subparsers.add_parser(
        "nodes",
        help="list the edges, and how each is doing; forget one",
        description="List the edges: whether each is connected and for how long, its addresses (in brackets "
        "those that are not captured), where it connects from, the round trip, open calls, and bytes "
        "sent to and received from it since the server started.",
    )
    add_arguments(parser)
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
    forget.set_defaults(run=run_forget)


def run_forget(args: argparse.Namespace) -> int:
    """Have the server forget a node; raises CommandError."""
    try:
        check_name(args.node)
    except ValueError as error:
        raise UsageError(str(error)) from None
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
