"""`tunnelctl init`: the authority and the server's certificate, made once and changed only where asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from certs.addresses import IPAddress, parse_address
from tunnelctl.errors import UsageError
from tunnelctl.local_server import add_arguments, find_server, prepared_state, state_errors
from tunnelctl.tables import iso

if TYPE_CHECKING:
    import argparse


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `init`; sets `run`."""
    parser = subparsers.add_parser(
        "init",
        help="make the authority and the server's certificate",
        description="Make the authority and the server's certificate. Again, it changes nothing and says so; "
        "with other names it issues the server's certificate anew, and nothing else.",
    )
    parser.add_argument(
        "--cert-ips",
        metavar="IP,...",
        help="addresses that agents dial, all of them; behind NAT, the public one",
    )
    parser.add_argument("--cert-dns-names", metavar="NAME,...", help="names that agents dial, all of them")
    parser.add_argument(
        "--server-name", metavar="NAME", help="this server's own name; default: tunnel-server"
    )
    parser.add_argument("--trust-domain", metavar="DOMAIN", help="fixed once made; default: edge-tunnel")
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Initialise and report; raises CommandError, and then nothing was changed."""
    from certs.server_state import initialise

    server = find_server(args, make=True)
    addresses = None if args.cert_ips is None else _addresses(args.cert_ips)
    dns_names = None if args.cert_dns_names is None else tuple(map(str.lower, _parts(args.cert_dns_names)))
    with state_errors(), prepared_state(server) as state:
        try:
            done = initialise(
                state,
                addresses=addresses,
                dns_names=dns_names,
                domain=args.trust_domain,
                server_name=args.server_name,
            )
        except ValueError as error:
            raise UsageError(str(error)) from None
    until = f"{done.expires:%Y-%m-%d}"
    if args.json:
        report = {
            "state_dir": str(state),
            "trust_domain": done.authority.domain,
            "ca_hash": done.authority.hash,
            "names": list(done.names.hosts),
            "made_authority": done.made_authority,
            "issued_server_certificate": bool(done.issued),
            "reason": done.issued,
            "server_certificate_expires": iso(done.expires),
        }
        print(json.dumps(report, indent=1))
        return 0
    if not done.issued:
        print(
            f"nothing was changed: {state} has an authority, and a server certificate for {done.names} "
            f"until {until}"
        )
        return 0
    if done.made_authority:
        print(f"made the authority of {done.authority.domain} in {state}, {done.authority.hash}")
    why = "" if done.made_authority else f": {done.issued}"
    print(f"issued the server's certificate for {done.names} until {until}{why}")
    if done.made_authority:
        print("next, for each edge: tunnelctl token create --node NAME --ip ADDRESS")
    else:
        print("a running server uses it for new connections from now on")
    return 0


def _addresses(text: str) -> tuple[IPAddress, ...]:
    addresses = []
    for part in _parts(text):
        try:
            address = parse_address(part)
        except ValueError as error:
            raise UsageError(f"--cert-ips: {error}") from None
        if address.is_unspecified or address.is_multicast:
            raise UsageError(f"--cert-ips: nobody can dial {address}: give the address that agents dial")
        addresses.append(address)
    return tuple(dict.fromkeys(addresses))


def _parts(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
