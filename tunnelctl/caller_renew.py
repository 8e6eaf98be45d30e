"""`tunnelctl caller renew`: a caller exchanges its certificate for a new one, from wherever it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tunnelctl.errors import CommandError, NotReachableError, RefusedError
from tunnelctl.tables import iso
from tunnelctl.ways import AUTHORITY, CERTIFICATE, KEY, SERVER_PORT, remote_way

if TYPE_CHECKING:
    import argparse

TIMEOUT = 15.0
"""Seconds for connecting, and for each piece of the answer."""
_ROOM = 64 * 1024
"""Bytes; what is written is a tenth."""
_TOO_LATE = {"certificate-time", "revoked"}
"""What the server says of a certificate that cannot be exchanged any more."""


def add_parser(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `renew`; sets `run`."""
    parser = actions.add_parser(
        "renew",
        help="exchange a caller's certificate for a new one, from anywhere",
        description="Ask the server, with the certificate in DIR, for another of the same name and length of "
        f"life, with a new key, and replace {KEY}, {CERTIFICATE} and {AUTHORITY}. The former certificate "
        "stays good until it ends. One that has ended, or was revoked, is replaced by "
        "`tunnelctl caller create --renew` on the server's host only.",
    )
    parser.add_argument(
        "--server",
        metavar="HOST[:PORT]",
        required=True,
        help=f"the server's public address (port: {SERVER_PORT})",
    )
    parser.add_argument(
        "--identity",
        type=Path,
        metavar="DIR",
        required=True,
        help="a caller's files, as `tunnelctl caller create` makes them",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Renew; raises CommandError, and then the files are as they were."""
    from certs.files import StateDirectory
    from certs.requests import key_pem, make_request, new_key
    from certs.subjects import check_replacement, read_subject
    from tunnel_agent.endpoint import Endpoint
    from tunnel_agent.join_client import Client, UnreachableError
    from tunnel_agent.renew import RenewError, ask_server
    from tunnel_agent.tls_errors import TlsFailedError
    from tunnelctl.local_server import state_errors

    directory: Path = args.identity
    with state_errors(), StateDirectory(directory).transaction() as transaction:
        # Whoever renews at the same time waits, and shows what this one has got.
        way = remote_way(args.server, directory)
        try:
            own = read_subject((directory / CERTIFICATE).read_bytes()).identity
        except ValueError as error:
            raise CommandError(f"{directory / CERTIFICATE} can't be used: {error}") from None
        transaction.check_room(_ROOM)
        key = new_key()
        client = Client(Endpoint(way.host, way.port), None, TIMEOUT)
        try:
            body = {"csr": make_request(key).decode()}
            answer = ask_server(client, way.context, own.domain, "/v1/renew", body)
        except (UnreachableError, TlsFailedError) as error:
            raise NotReachableError(str(error)) from None
        except RenewError as error:
            again = f": make another with `tunnelctl caller create {own.name} --renew` on the server's host"
            raise RefusedError(f"{error}{again if error.code in _TOO_LATE else ''}") from None
        certificate, bundle = str(answer.get("certificate")), str(answer.get("ca"))
        try:
            subject = check_replacement(certificate, bundle, own, key.public_key())
        except ValueError as error:
            raise CommandError(f"{way}: its answer can't be used: {error}; nothing was changed") from None
        transaction.write({
            KEY: key_pem(key),
            CERTIFICATE: certificate.encode(),
            AUTHORITY: bundle.encode(),
        })  # fmt: skip
    expires = subject.certificate.not_valid_after_utc
    if args.json:
        serial = f"{subject.certificate.serial_number:x}"
        print(json.dumps({"name": own.name, "expires": iso(expires), "serial": serial}, indent=1))
    else:
        print(f"caller {own.name}, until {expires:%Y-%m-%d %H:%M} UTC, in {directory}")
    return 0
