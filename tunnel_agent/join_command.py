"""`tunnel-agent join` as a command: its flags, what it says, and the service behind it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tunnel_agent.config import DEFAULT_STATE
from tunnel_agent.join import FAILED, JoinError, join
from tunnel_agent.proxy import DIRECT

if TYPE_CHECKING:
    import argparse


def add_join_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `join` to the agent's command line; sets `run` to `run_join`."""
    parser = subparsers.add_parser(
        "join",
        help="join a server, with the line that `tunnelctl token create` prints",
        description="Make a key on this machine and exchange the token for a certificate.",
    )
    parser.add_argument("servers", nargs="+", metavar="SERVER:PORT", help="the first that answers is joined")
    parser.add_argument("--token", required=True, help="serves once")
    parser.add_argument("--ca-hash", required=True, metavar="sha256:HEX", help="of the server's authority")
    parser.add_argument("--state-dir", type=Path, default=DEFAULT_STATE, metavar="DIR")
    parser.add_argument(
        "--proxy",
        default="",
        metavar="URL",
        help="http://[USER:PASSWORD@]HOST:PORT, which the agent will use too; default: HTTPS_PROXY and "
        "NO_PROXY decide; `none`: no proxy",
    )
    parser.add_argument("--node", metavar="NAME", help="refuse a token that is for another node")
    parser.add_argument("--force", action="store_true", help="replace this machine's identity")
    parser.add_argument("--timeout", type=float, default=15.0, metavar="SECONDS", help="default: 15")
    parser.add_argument(
        "--install-service", action="store_true", help="run the agent as a systemd service from now on (root)"
    )
    parser.set_defaults(run=run_join)


def run_join(args: argparse.Namespace) -> int:
    """Join as the command line says; print one line, and return the exit code."""
    service = None
    if args.install_service:
        from tunnel_agent.service_install import ServiceStep

        service = ServiceStep(args.state_dir)
        if not service.is_possible():
            return FAILED
    try:
        joined = join(
            args.servers,
            args.token,
            args.ca_hash,
            state_dir=args.state_dir,
            proxy=args.proxy,
            keep_environment=args.install_service,  # a service has none of this shell's
            node=args.node,
            force=args.force,
            timeout=args.timeout,
        )
    except JoinError as error:
        sys.stderr.write(f"tunnel-agent join: {error}\n")
        return error.exit_code
    held = ", ".join(map(str, joined.addresses)) or "no address"
    sys.stdout.write(f"joined {joined.servers[0]} as {joined.identity.name} ({held}), see {args.state_dir}\n")
    if joined.proxy.text:
        how = "no proxy" if joined.proxy.text == DIRECT else f"the proxy {joined.proxy} too"
        sys.stdout.write(f"the agent will use {how}, unless its configuration says otherwise\n")
    return service.run() if service else 0
