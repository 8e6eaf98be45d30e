"""`tunnelctl doctor`: walks the path to a node, and names the step that fails and its remedy."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

from tunnelctl.admin_client import add_arguments, ask
from tunnelctl.checks import Check, State
from tunnelctl.checks_identity import check_certificate, check_name, check_token
from tunnelctl.checks_link import check_link
from tunnelctl.checks_path import check_addresses, check_dial, check_port
from tunnelctl.cluster_arguments import add_cluster_arguments, asks_in_cluster, namespace_of, open_cluster
from tunnelctl.errors import FAILED, OK, NotReachableError
from tunnelctl.ports import node_argument, port_argument
from tunnelctl.tables import show, span

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

LOOPBACK = "127.0.0.1"

SIGNS = {State.OK: "✓", State.FAILED: "✗", State.WARNING: "!", State.SKIPPED: "-"}
PLAIN_SIGNS = {State.OK: "ok    ", State.FAILED: "FAILED", State.WARNING: "note  ", State.SKIPPED: "-     "}
"""For terminals that do not know the others."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `doctor`; sets `run`."""
    parser = subparsers.add_parser(
        "doctor",
        help="walk the path to an edge, and name what fails and its remedy",
        description="Walk the path from a caller to an edge, and name each step that fails and its remedy. "
        "With a port, the edge's agent really dials it: the service there sees a connection that is opened "
        "and closed at once. In a cluster it looks at the node, its label and its agent's pod too, asks the "
        "server in its pod, as by `kubectl exec`, and without a port the kubelet through kube-apiserver. "
        "The exit code is 1 if anything on the path fails.",
    )
    parser.add_argument("node", metavar="NODE", type=node_argument)
    parser.add_argument("port", metavar="PORT", type=port_argument, nargs="?")
    add_arguments(parser)
    add_cluster_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what was found; 1 if anything failed. Raises CommandError for all but a server that is away."""
    if asks_in_cluster(args):
        with open_cluster(args) as cluster:
            from tunnelctl.cluster_doctor import examine as examine_in_cluster

            checks = list(examine_in_cluster(cluster, namespace_of(args), args.node, args.port))
    else:
        checks = list(examine(args.admin_socket, args.node, args.port))
    healthy = not any(check.state is State.FAILED for check in checks)
    if args.json:
        found = [dataclasses.asdict(check) for check in checks]
        print(json.dumps({"node": args.node, "port": args.port, "ok": healthy, "checks": found}, indent=1))
    else:
        print("\n".join(lines(checks, sys.stdout.encoding)))
    return OK if healthy else FAILED


def examine(socket: Path, node: str, port: int | None) -> Iterator[Check]:
    """Yield every step of the path, in its order; raises CommandError."""
    try:
        known = ask(socket, "GET", f"/v1/diagnosis/{node}")
    except NotReachableError as error:
        yield Check("server", State.FAILED, str(error), "systemctl status tunnel-server")
        return
    yield _server(known)
    yield check_name(known)
    yield check_token(known)
    if known["node"] is None:
        return
    certificate = list(check_certificate(known))
    yield from certificate
    refused = any(check.state is State.FAILED for check in certificate)
    yield from check_link(known, refused=refused)
    yield from check_addresses(known, refused=refused)
    if port is None:
        return
    yield from check_port(known, port)
    if known["answers"]:
        yield from _dials(socket, known, port)
    else:
        yield Check("dial", State.SKIPPED, "needs the link")


def _server(known: dict[str, Any]) -> Check:
    text = f"version {known['server_version']}, up {span(known['uptime_seconds'])}"
    if not known["problems"]:
        return Check("server", State.OK, text)
    # Not in the way of this node, most likely; or precisely what keeps its port from being mapped.
    return Check(
        "server",
        State.WARNING,
        f"{text}; {'; '.join(known['problems'])}",
        "tunnel-server check-config says more",
    )


def _dials(socket: Path, known: dict[str, Any], port: int) -> Iterator[Check]:
    """Dial what callers reach: each of the node's addresses, or its loopback where it has none.

    A service need answer at one of them only: what fails beside that is a remark.
    """

    def probe(host: str) -> dict[str, Any]:
        return ask(socket, "POST", "/v1/probe", {"node": known["name"], "port": port, "host": host})

    probes = [probe(host) for host in known["node"]["addresses"]] or [probe(LOOPBACK)]
    answers = any(each["ok"] for each in probes)
    for each in probes:
        check = check_dial(known, each)
        if answers and check.state is State.FAILED:
            check = dataclasses.replace(check, state=State.WARNING)
        elif each["cause"] == "refused" and each["host"] != LOOPBACK and probe(LOOPBACK)["ok"]:
            remedy = (
                f"the service listens on the edge's own loopback only: have it listen on {each['host']} too, "
                f"or add {port} to localhost-proxy-ports"
            )
            check = dataclasses.replace(check, remedy=remedy)
        yield check


def lines(checks: list[Check], encoding: str | None) -> list[str]:
    """Return the checks for people."""
    signs = SIGNS
    try:
        "".join(SIGNS.values()).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        signs = PLAIN_SIGNS
    width = max(len(check.name) for check in checks)
    told = []
    for check in checks:
        told.append(f"{signs[check.state]} {check.name:<{width}}  {show(check.text)}")
        if check.remedy and check.state in {State.FAILED, State.WARNING}:
            told.append(f"{'':{len(signs[check.state])}} {'':{width}}  -> {show(check.remedy)}")
    return told
