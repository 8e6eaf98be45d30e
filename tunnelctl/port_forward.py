"""`tunnelctl port-forward`: ports of this machine that lead to ports of a node, until it is interrupted."""

from __future__ import annotations

import argparse
import ipaddress

from tunnelctl.ports import Forward, host_argument
from tunnelctl.ways import add_arguments, find_way

DEFAULT_ADDRESS = "127.0.0.1"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `port-forward`; sets `run`."""
    parser = subparsers.add_parser(
        "port-forward",
        help="open ports here that lead to ports of an edge",
        description="Listen on ports of this machine; what connects there reaches the port of the edge, by "
        "the edge's name, its address or one in a network behind it. Goes on until it is interrupted, also "
        "while the edge is away: calls made then fail, later ones work again.",
    )
    parser.add_argument("node", metavar="NODE", type=host_argument)
    parser.add_argument(
        "ports",
        metavar="LOCAL:REMOTE",
        nargs="+",
        type=Forward.parse,
        help="8888:80; 80 for the same port here; :80 for any free one",
    )
    parser.add_argument(
        "--address",
        metavar="ADDRESS",
        type=_addresses,
        default=(DEFAULT_ADDRESS,),
        help=f"where to listen, several with commas (default: {DEFAULT_ADDRESS}, for programs here only)",
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Forward until a signal comes; the exit code is 128 + its number. Raises CommandError."""
    way = find_way(args)
    import trio

    from tunnelctl.forwarding import forward_until_signal

    return trio.run(forward_until_signal, way, args.node, args.ports, args.address)


def _addresses(text: str) -> tuple[str, ...]:
    found = []
    for each in text.split(","):
        try:
            found.append(
                str(ipaddress.ip_address(DEFAULT_ADDRESS if each == "localhost" else each.strip("[] ")))
            )
        except ValueError:
            raise argparse.ArgumentTypeError(f"{each!r} is not an IP address") from None
    return tuple(dict.fromkeys(found))
