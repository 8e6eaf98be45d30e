"""`tunnelctl demo`: a real server, real agents and a network in which nobody can dial in, on this machine."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction

HELP = "an edge behind NAT answers at its own address, here and now, on this machine alone"


def add_parser(subparsers: "_SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `demo` to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help=HELP,
        description="Build a cloud, a NAT router and two edges out of network namespaces, run the real "
        "programs in them, and show a request from the cloud reach an edge that nobody can dial. As root; "
        "anybody else sees the same on loopback, through a fixed listener. Stays until Ctrl-C, after which "
        "nothing remains.",
    )
    parser.add_argument(
        "--once", action="store_true", help="check that it works, and end: exit status 0 if it does"
    )
    parser.add_argument("--loopback", action="store_true", help="do as for somebody who is not root")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from tunnelctl.demo.run import run_demo

    return run_demo(once=args.once, loopback=args.loopback)
