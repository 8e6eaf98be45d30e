"""`tunnelctl cleanup`: take away what a killed server left in the kernel."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tunnelctl.errors import CommandError, RefusedError

if TYPE_CHECKING:
    import argparse


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `cleanup`; sets `run`."""
    parser = subparsers.add_parser(
        "cleanup",
        help="take away what a killed server left in this host's nftables and routes",
        description="Remove the nftables table and the routes of a server that is no more, in this network "
        "namespace. A server that is stopped, or started again, does so by itself.",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Remove, and say what; raises RefusedError while a server runs, CommandError without the privilege."""
    try:
        from tunnel_server.intercept.config import InterceptUnavailable, MissingPrivilege
        from tunnel_server.intercept.leftovers import ServerRunning, cleanup
    except ModuleNotFoundError as error:
        raise CommandError(
            f"{error.name} is not installed, so no server ever ran from here; to be sure, "
            "install edge-tunnel[server] and try again"
        ) from None
    try:
        removed = cleanup()
    except ServerRunning as error:
        raise RefusedError(f"{error}; nothing was removed") from None
    except MissingPrivilege:
        raise CommandError("changing nftables and routes needs CAP_NET_ADMIN: run it as root") from None
    except InterceptUnavailable as error:
        raise CommandError(str(error)) from None
    if args.json:
        print(json.dumps({"removed": removed}, indent=1))
    else:
        print("\n".join(f"removed {thing}" for thing in removed) or "nothing to remove")
    return 0
