"""`tunnelctl connect`: a port of a node on standard input and output, as ssh's ProxyCommand wants it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunnelctl.errors import FAILED, OK
from tunnelctl.ports import host_argument, port_argument
from tunnelctl.ways import add_arguments, find_way

if TYPE_CHECKING:
    import argparse

    from tunnelctl.ways import Way


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `connect`; sets `run`."""
    parser = subparsers.add_parser(
        "connect",
        help="join standard input and output to a port of an edge",
        description="Connect standard input and output to a port of an edge, by the edge's name, its "
        "address or one in a network behind it. Nothing but what the port sends is written to standard "
        "output. "
        "For ssh: ssh -o ProxyCommand='tunnelctl connect %%h %%p' user@edge-1",
    )
    parser.add_argument("node", metavar="NODE", type=host_argument)
    parser.add_argument("port", metavar="PORT", type=port_argument)
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry bytes to the end; 1 if the connection was reset. Raises CommandError."""
    way = find_way(args)
    import trio

    return trio.run(_connect, way, args.node, args.port)


async def _connect(way: Way, node: str, port: int) -> int:
    from tunnelctl.dialling import dial
    from tunnelctl.ends import StdioEnd
    from tunnelctl.relaying import relay
    from tunnelctl.standard_streams import tell

    failure = await relay(StdioEnd(), await dial(way, node, port))
    if failure:
        tell(f"tunnelctl: {node}:{port}: {failure}", error=True)
        return FAILED
    return OK
