"""`tunnelctl revoke`: who is let in no longer, from this second on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tunnelctl.errors import CommandError, RefusedError, UsageError
from tunnelctl.local_server import add_arguments, find_server, open_state, state_errors
from tunnelctl.tables import iso, table

if TYPE_CHECKING:
    import argparse
    from datetime import datetime

    from certs.revocations import Kind, Revocation
    from certs.state import Change, State


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `revoke`; sets `run`."""
    parser = subparsers.add_parser(
        "revoke",
        help="let a node, a caller or one certificate in no longer",
        description="Refuse every certificate that a node or a caller was issued until now, and its unused "
        "join tokens; or one certificate by its serial. A running server ends their connections within "
        "a second, and a node's addresses may be another's. A node comes back with a token made later, one "
        "whose agent is a pod of the cluster once it is readmitted, a caller with `caller create --renew`.",
    )
    parser.add_argument("node", nargs="?", metavar="NODE", help="a node's name")
    parser.add_argument("--caller", metavar="NAME", help="a caller's name")
    parser.add_argument("--serial", metavar="HEX", help="of one certificate, as openssl prints it")
    parser.add_argument(
        "--reason", default="", metavar="TEXT", help="kept, logged, and told to who is refused"
    )
    parser.add_argument("--list", action="store_true", help="list what is revoked")
    parser.add_argument(
        "--readmit",
        action="store_true",
        help="revoke all that NODE was issued until now, and let the cluster's agent there have another "
        "certificate",
    )
    parser.add_argument(
        "--undo", action="store_true", help="take a revocation back: all its certificates are good again"
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Revoke, undo or list; raises CommandError."""
    from certs.revocations import Kind

    asked = [
        (kind, value)
        for kind, value in ((Kind.NODE, args.node), (Kind.CALLER, args.caller), (Kind.SERIAL, args.serial))
        if value is not None
    ]
    if args.list and (asked or args.undo or args.readmit):
        raise UsageError("--list takes nothing else")
    if args.readmit and (args.undo or args.node is None):
        raise UsageError("--readmit is for a NODE, and not with --undo: see `tunnelctl revoke --help`")
    if not args.list and len(asked) != 1:
        raise UsageError("name one of NODE, --caller NAME, --serial HEX; or --list")
    with state_errors():
        state = open_state(find_server(args))
        if args.list:
            return _list(state, as_json=args.json)
        ((kind, value),) = asked
        try:
            if args.undo:
                entry = _undo(state, kind, value)
            else:
                entry = _revoke(state, kind, value, args.reason, readmit=args.readmit)
        except ValueError as error:
            raise UsageError(str(error)) from None
    if args.json:
        print(json.dumps({**_report(entry), "revoked": not args.undo}, indent=1))
    elif args.undo:
        print(f"{kind.value} {entry.value} is let in again with the certificates it has")
    elif args.readmit:
        print(
            f"revoked node {entry.value}, all that it was issued until now; its agent in the cluster is let "
            "in again, with a new certificate"
        )
    else:
        print(f"revoked {kind.value} {entry.value}: a running server ends its connections within a second")
    return 0


def _revoke(state: State, kind: Kind, value: str, reason: str, *, readmit: bool) -> Revocation:
    from certs.callers import CallerStore
    from certs.nodes import NodeStore
    from certs.revocations import Kind, RevocationStore
    from certs.tokens import TokenStore

    if len(reason) > 200 or not reason.isprintable():
        raise UsageError("--reason: one printable line of at most 200 characters")

    def revoke(change: Change) -> Revocation:
        before = RevocationStore(state).load().of(kind, value) if readmit else None
        others: dict[str, bytes] = {}
        issued: datetime | None = None
        if kind is Kind.NODE:
            others = TokenStore(state).without_node(value)
            node = NodeStore(state).load().get(value)
            if node is None and not others and before is None:
                raise RefusedError(f"no node and no unused token is called {value}: see `tunnelctl nodes`")
            issued = node.issued if node else None
        if kind is Kind.CALLER:
            caller = CallerStore(state).load().get(value)
            if caller is None:
                raise RefusedError(f"no caller is called {value}: see `tunnelctl caller list`")
            issued = caller.issued
        why = reason or (before.reason if before else "")
        return RevocationStore(state).add(change, kind, value, why, others, issued=issued, readmitted=readmit)

    return state.change(revoke)


def _undo(state: State, kind: Kind, value: str) -> Revocation:
    from certs.revocations import RevocationStore

    try:
        return RevocationStore(state).remove(kind, value)
    except KeyError:
        raise CommandError(f"{kind.value} {value} is not revoked: see `tunnelctl revoke --list`") from None


def _list(state: State, *, as_json: bool) -> int:
    from certs.revocations import RevocationStore

    entries = list(RevocationStore(state).load())
    if as_json:
        print(json.dumps([_report(entry) for entry in entries], indent=1))
    elif not entries:
        print("nothing is revoked")
    else:
        rows = [
            (
                each.kind.value,
                each.value,
                f"{each.at:%Y-%m-%d %H:%M:%S} UTC",
                "yes" if each.readmitted else "",
                each.reason,
            )
            for each in entries
        ]
        print("\n".join(table(("KIND", "WHAT", "SINCE", "READMITTED", "REASON"), rows)))
    return 0


def _report(entry: Revocation) -> dict[str, object]:
    return {
        "kind": entry.kind.value,
        "value": entry.value,
        "at": iso(entry.at),
        "reason": entry.reason,
        "readmitted": entry.readmitted,
    }
