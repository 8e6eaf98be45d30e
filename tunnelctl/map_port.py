"""`tunnelctl map-port`: which ports of the edges are captured, by the server here or those of a cluster."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tunnelctl.admin_client import DEFAULT_SOCKET, add_arguments, ask
from tunnelctl.cluster_arguments import add_cluster_arguments
from tunnelctl.cluster_state import named_place, usual_place
from tunnelctl.errors import UsageError
from tunnelctl.local_server import state_errors
from tunnelctl.tables import show, table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from tunnelctl.cluster_state import ClusterPlace


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `map-port`; sets `run`."""
    parser = subparsers.add_parser(
        "map-port",
        help="capture a port of the edges, at once and for good",
        description="Capture connections to a port of any edge's address, from now on and over restarts. "
        "`map-port 9081=10264` sends them to the listener on 10264, the one for plain protocols; "
        "10263 is the one for TLS. A bare port means the plain one. Connections that are open stay so. In a "
        "cluster, this writes the ConfigMap that its servers watch.",
    )
    parser.add_argument("mapping", nargs="?", metavar="PORT[=LISTENER-PORT]")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--remove", action="store_true", help="capture the port no longer")
    group.add_argument("--list", action="store_true", help="list what is captured")
    add_arguments(parser)
    add_cluster_arguments(parser)
    parser.add_argument(
        "--force-conflicts",
        action="store_true",
        help="in a cluster: take the list over from whoever else keeps it",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Change or list the mappings; raises CommandError."""
    place = named_place(args)
    if place is None and args.admin_socket == DEFAULT_SOCKET and not DEFAULT_SOCKET.exists():
        place = usual_place()
    if place is not None:
        return _run_in_cluster(args, place)
    if args.force_conflicts:
        raise UsageError("--force-conflicts is for the ConfigMap of a cluster: name it, --kubeconfig")
    if args.list:
        if args.mapping:
            raise UsageError("--list takes no port")
        answer = ask(args.admin_socket, "GET", "/v1/mappings")
        text = "\n".join(mapping_lines(answer["mappings"]))
    elif not args.mapping:
        raise UsageError("name a port, `tunnelctl map-port 9081=10264`, or see them with --list")
    else:
        port, listener_port = parse_mapping(args.mapping)
        if args.remove:
            answer = ask(args.admin_socket, "DELETE", f"/v1/mappings/{port}")
            text = f"port {port} is no longer captured"
        else:
            body = {"port": port} | ({} if listener_port is None else {"listener_port": listener_port})
            answer = ask(args.admin_socket, "POST", "/v1/mappings", body)
            text = _added(port, answer)
    print(json.dumps(answer, indent=1) if args.json else text)
    return 0


def _run_in_cluster(args: argparse.Namespace, place: ClusterPlace) -> int:
    from tunnelctl.cluster_ports import ClusterPorts

    with state_errors():
        if args.list == bool(args.mapping):
            raise UsageError("name a port, `tunnelctl map-port 9081=10264`, or see them with --list")
        port, listener_port = parse_mapping(args.mapping) if args.mapping else (0, None)
        ports = ClusterPorts(place, force=args.force_conflicts)
        where = f"; ConfigMap {ports.where}, which servers follow within seconds"
        answer: dict[str, Any]
        if args.list:
            mappings, problems = ports.listed()
            answer = {"mappings": mappings, "mapping_problems": list(problems)}
            text = "\n".join([*mapping_lines(mappings), *map(show, problems)])
        elif args.remove:
            answer = {"changed": True, "mappings": ports.remove(port)}
            text = f"port {port} is no longer captured{where}"
        else:
            mappings, changed = ports.add(port, listener_port)
            answer = {"changed": changed, "mappings": mappings}
            text = _added(port, answer) + (where if changed else "")
    print(json.dumps(answer, indent=1) if args.json else text)
    return 0


def parse_mapping(text: str) -> tuple[int, int | None]:
    """Read ``9081=10264`` or ``9081``; raises UsageError."""
    left, equals, right = text.partition("=")
    return _port(left, text), _port(right, text) if equals else None


def mapping_lines(mappings: Sequence[dict[str, Any]]) -> list[str]:
    """Return the mappings as a table."""
    rows = [(each["port"], each["listener_port"], each["source"]) for each in mappings]
    return table(("PORT", "LISTENER", "SOURCE"), rows)


def _added(port: int, answer: dict[str, Any]) -> str:
    target = next((each["listener_port"] for each in answer["mappings"] if each["port"] == port), None)
    if answer["changed"]:
        return f"port {port} is captured, to {target}"
    return f"port {port} was captured already, to {target}; nothing changed"


def _port(text: str, whole: str) -> int:
    text = text.strip()
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:6]) < 65536:
        raise UsageError(
            f"{whole!r} is no mapping: write PORT=LISTENER-PORT, like 9081=10264, ports 1 to 65535"
        )
    return int(text)
