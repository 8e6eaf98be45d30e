"""`tunnelctl caller create|list`: certificates for who calls by HTTP CONNECT, or with tunnelctl.

`caller renew`, which asks the server, is in `caller_renew.py`.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tunnelctl import caller_renew
from tunnelctl.durations import parse_duration
from tunnelctl.errors import RefusedError, UsageError
from tunnelctl.local_server import add_arguments, find_server, open_state, state_errors
from tunnelctl.tables import iso, table

if TYPE_CHECKING:
    import argparse

KEY, CERTIFICATE, AUTHORITY = "caller.key", "caller.crt", "ca.crt"
"""The files of a bundle; what takes a bundle reads these names."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `caller` and what is below it; each sets `run`."""
    parser = subparsers.add_parser("caller", help="make, renew and list certificates for callers")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    create = actions.add_parser(
        "create",
        help="make a key and a certificate for a caller",
        description=f"Write {KEY}, {CERTIFICATE} and {AUTHORITY} to a directory. What the caller "
        "may reach stands in the server's configuration, [callers.NAME]; without that, nothing.",
    )
    create.add_argument("name", metavar="NAME", help="what the configuration and the audit log call it")
    create.add_argument("--ttl", default="365d", metavar="TIME", help="30d, 12h; default: 365d")
    create.add_argument(
        "--out", type=Path, metavar="DIR", help="default: ./NAME; must not have such files yet"
    )
    create.add_argument(
        "--renew",
        action="store_true",
        help="make another for a name that has one, with a new key; files in DIR are replaced",
    )
    add_arguments(create)
    create.set_defaults(run=run_create)
    caller_renew.add_parser(actions)
    listing = actions.add_parser("list", help="list the callers")
    add_arguments(listing)
    listing.set_defaults(run=run_list)


def run_create(args: argparse.Namespace) -> int:
    """Make a bundle; raises CommandError, and then there is neither a record nor a file of it."""
    from certs.authority import Authority
    from certs.files import StateDirectory
    from certs.identity import check_name
    from certs.renewal import CallerExistsError, create_caller
    from certs.requests import key_pem, new_key

    try:
        life = parse_duration(args.ttl)
        check_name(args.name)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if args.name == "local":
        raise UsageError(
            "local is who uses the server's Unix sockets, and needs no certificate: take another"
        )
    out: Path = args.out or Path(args.name)
    with state_errors():
        state = open_state(find_server(args))
        authority = Authority.load(state)
        if str(out.absolute()) == str(state):
            raise UsageError(f"--out: {out} is the server's own state: name another directory")
        with StateDirectory.prepared(out) as bundle, bundle.transaction() as transaction:
            present = [name for name in (KEY, CERTIFICATE, AUTHORITY) if bundle.exists(name)]
            if present and not args.renew:
                raise RefusedError(
                    f"{out / present[0]} exists: name another --out, or replace it with --renew"
                )
            transaction.check_room(64 * 1024)
            key = new_key()
            try:
                made = create_caller(
                    state, authority, args.name, key.public_key(), life=life, again=args.renew
                )
            except CallerExistsError as error:
                raise RefusedError(f"{error}: replace it with --renew, or revoke it first") from None
            except ValueError as error:
                raise UsageError(str(error)) from None
            transaction.write({
                KEY: key_pem(key),
                CERTIFICATE: made.certificate.encode(),
                AUTHORITY: made.ca.encode(),
            })  # fmt: skip
    paths = {"key": out / KEY, "certificate": out / CERTIFICATE, "ca": out / AUTHORITY}
    if args.json:
        print(json.dumps({"name": args.name, **{name: str(path) for name, path in paths.items()}}, indent=1))
        return 0
    until = f"{datetime.now(UTC) + life:%Y-%m-%d %H:%M} UTC"
    print(f"caller {args.name}, until {until}, in {out}{os.sep}")
    options = (
        f"--proxy-{option} {path}"
        for option, path in zip(("key", "cert", "cacert"), paths.values(), strict=True)
    )
    print(f"curl {' '.join(options)} ...")
    return 0


def run_list(args: argparse.Namespace) -> int:
    """Print the callers; raises CommandError."""
    from certs.callers import CallerStore
    from certs.identity import Role
    from certs.revocations import RevocationStore

    with state_errors():
        state = open_state(find_server(args))
        callers = CallerStore(state).load().values()
        revoked = RevocationStore(state).load()
    now = datetime.now(UTC)
    report = []
    for each in callers:
        state_now = "expired" if each.expires <= now else "valid"
        if revoked.find_recorded(Role.CALLER, each):
            state_now = "revoked"
        report.append((each.name, state_now, each.expires, each.serial))
    if args.json:
        found = [
            {"name": name, "state": what, "expires": iso(until), "serial": serial}
            for name, what, until, serial in report
        ]
        print(json.dumps(found, indent=1))
    elif not report:
        print("no caller has a certificate yet: see `tunnelctl caller create --help`")
    else:
        rows = [(name, what, f"{until:%Y-%m-%d %H:%M} UTC", serial) for name, what, until, serial in report]
        print("\n".join(table(("NAME", "STATE", "EXPIRES", "SERIAL"), rows)))
    return 0
