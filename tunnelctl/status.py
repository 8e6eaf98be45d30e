"""`tunnelctl status`: the server at a glance."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tunnelctl.admin_client import add_arguments, ask
from tunnelctl.map_port import mapping_lines
from tunnelctl.tables import show, size, span, table

if TYPE_CHECKING:
    import argparse


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `status`; sets `run`."""
    parser = subparsers.add_parser(
        "status",
        help="show how the server is doing, and which calls failed lately",
        description="Show the server: listeners, interception, captured ports, nodes, memory, "
        "and the calls that failed lately with their causes.",
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the status; raises CommandError."""
    answer = ask(args.admin_socket, "GET", "/v1/status")
    print(json.dumps(answer, indent=1) if args.json else "\n".join(status_lines(answer)))
    return 0


def status_lines(status: dict[str, Any]) -> list[str]:
    """Return the status as people read it."""
    interception = status["interception"]
    captured = f"{interception['state']}, {interception['addresses']} addresses"
    if interception["restored"]:
        captured += f", put back {interception['restored']} times"
    memory = f"{size(status['memory_used_bytes'])} of {size(status['memory_budget_bytes'])}"
    lines = [
        f"tunnel-server {show(status['version'])}, up {span(status['uptime_seconds'])}",
        f"nodes         {status['nodes_connected']} of {status['nodes_known']} connected",
        f"calls         {status['calls_open']} open",
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
