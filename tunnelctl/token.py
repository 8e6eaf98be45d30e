"""`tunnelctl token create|list|revoke`: what lets an edge join, once."""

from __future__ import annotations

import json
import shlex
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from certs.addresses import IPAddress, format_endpoint, is_own_address, parse_address, parse_endpoint
from tunnelctl.durations import parse_duration
from tunnelctl.errors import CommandError, RefusedError, UsageError
from tunnelctl.local_server import (
    LocalServer,
    add_arguments,
    find_server,
    open_state,
    state_errors,
    with_cluster_config,
)
from tunnelctl.tables import iso

if TYPE_CHECKING:
    import argparse

    from certs.enrolment import Enrolment
    from certs.state import State
    from certs.tokens import TokenRecord


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `token` and what is below it; each sets `run`."""
    parser = subparsers.add_parser("token", help="make, list and revoke the tokens by which edges join")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    create = actions.add_parser(
        "create",
        help="print the line that joins one edge",
        description="Print the line to run on the edge. The token serves that node, once, within its life.",
    )
    create.add_argument("--node", required=True, metavar="NAME", help="the edge's name from now on")
    create.add_argument(
        "--ip",
        action="append",
        default=[],
        metavar="IP",
        help="an address that the edge is called by; repeat it, or none: it is then reached by name only",
    )
    create.add_argument("--ttl", default="24h", metavar="TIME", help="30m, 24h, 7d; default: 24h")
    create.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="what the edge dials; default: server-addresses of the configuration, or else the first name in "
        "the server's certificate",
    )
    add_arguments(create)
    create.set_defaults(run=run_create)
    listing = actions.add_parser("list", help="list the tokens, without their secrets")
    add_arguments(listing)
    listing.set_defaults(run=run_list)
    revoke = actions.add_parser("revoke", help="make tokens useless that have not been used")
    revoke.add_argument("ids", nargs="+", metavar="ID", help="as `token list` prints it")
    add_arguments(revoke)
    revoke.set_defaults(run=run_revoke)


def run_create(args: argparse.Namespace) -> int:
    """Print the join line, and nothing else on stdout; raises CommandError."""
    with state_errors():
        enrolment, state, server = _enrolment(find_server(args))
        servers = _servers(args.server, server, state)
        try:
            life = parse_duration(args.ttl)
            addresses = tuple(parse_address(text) for text in _split(args.ip))
        except ValueError as error:
            raise UsageError(str(error)) from None
        _check(enrolment, args.node, addresses)
        try:
            token, record = enrolment.tokens.create(args.node, addresses, life)
        except ValueError as error:
            raise UsageError(str(error)) from None
    line = f"tunnel-agent join {shlex.join(servers)} --token {token} --ca-hash {enrolment.authority.hash}"
    if args.json:
        report = {
            **_report(record, datetime.now(UTC)),
            "token": token,
            "ca_hash": enrolment.authority.hash,
            "servers": servers,
            "command": line,
        }
        print(json.dumps(report, indent=1))
    else:
        print(line)
    return 0


def run_list(args: argparse.Namespace) -> int:
    """Print a table of all tokens that are remembered; raises CommandError."""
    now = datetime.now(UTC)
    with state_errors():
        enrolment, _, _ = _enrolment(find_server(args))
        records = enrolment.tokens.list()
    if args.json:
        print(json.dumps([_report(record, now) for record in records], indent=1))
        return 0
    rows = [("ID", "NODE", "ADDRESSES", "STATE", "EXPIRES")]
    rows += [
        (
            record.id,
            record.node,
            ",".join(map(str, record.addresses)) or "-",
            record.state(now).value,
            f"{record.expires:%Y-%m-%d %H:%M} UTC",
        )
        for record in records
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def run_revoke(args: argparse.Namespace) -> int:
    """Revoke what can be, and say of each what became of it; raises CommandError if any could not be."""
    revoked: list[TokenRecord] = []
    problems: list[str] = []
    refused = False
    with state_errors():
        enrolment, _, _ = _enrolment(find_server(args))
        for given in args.ids:
            token_id = given.partition(".")[0]  # a whole token will do
            try:
                revoked.append(enrolment.tokens.revoke(token_id))
            except KeyError:
                problems.append(f"there is no token {token_id}: see `tunnelctl token list`")
            except ValueError as error:
                refused = True
                problems.append(str(error))
    if args.json:
        print(json.dumps([_report(record, datetime.now(UTC)) for record in revoked], indent=1))
    else:
        for record in revoked:
            print(f"revoked token {record.id} of node {record.node}")
    if problems:
        raise (RefusedError if refused else CommandError)("; ".join(problems))
    return 0


def _enrolment(server: LocalServer) -> tuple[Enrolment, State, LocalServer]:
    from certs.authority import Authority
    from certs.enrolment import Enrolment

    state = open_state(server)
    authority = Authority.load(state)
    server = with_cluster_config(server, state)
    # This machine's addresses say nothing of those of a server elsewhere.
    is_own = is_own_address if server.cluster is None else lambda _address: False
    return Enrolment(state, authority, edge_networks=server.edge_networks, is_own=is_own), state, server


def _servers(given: list[str], server: LocalServer, state: State) -> list[str]:
    from certs.server_state import server_names

    hosts = server_names(state).hosts
    if not given and not server.addresses:
        return [format_endpoint(hosts[0], server.tunnel_port)]
    where = "--server" if given else "server-addresses"
    servers = []
    for text in _split(given) or server.addresses:
        try:
            host, port = parse_endpoint(text, server.tunnel_port)
        except ValueError as error:
            raise UsageError(f"{where}: {error}") from None
        if host not in hosts:
            raise UsageError(
                f"{where}: the server's certificate names {', '.join(hosts)} and not {host}, "
                "so no agent would trust it there: run `tunnelctl init` with it first"
            )
        servers.append(format_endpoint(host, port))
    return servers


def _check(enrolment: Enrolment, node: str, addresses: tuple[IPAddress, ...]) -> None:
    """Refuse addresses that no edge may hold, and warn of those that another node holds."""
    from certs.enrolment import AddressRefusedError
    from certs.tokens import TokenState

    now = datetime.now(UTC)
    live = [record for record in enrolment.tokens.list() if record.state(now) is TokenState.LIVE]
    for address in addresses:
        try:
            enrolment.check_address(address)
        except AddressRefusedError as error:
            raise UsageError(f"--ip: {error}") from None
        holders = {*enrolment.holders(address), *(r.node for r in live if address in r.addresses)}
        if others := sorted(holders - {node}):
            print(
                f"warning: {address} is also {', '.join(others)}'s: while nodes share an address, "
                "none of them is reached by it, only by name; see `tunnelctl nodes forget`, and `revoke`, if "
                "one will not come back",
                file=sys.stderr,
            )


def _split(texts: list[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def _report(record: TokenRecord, now: datetime) -> dict[str, object]:
    return {
        "id": record.id,
        "node": record.node,
        "addresses": [str(address) for address in record.addresses],
        "state": record.state(now).value,
        "created": iso(record.created),
        "expires": iso(record.expires),
        "used": record.used and iso(record.used),
    }
