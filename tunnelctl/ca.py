"""`tunnelctl ca roll start|status|switch|finish`: another root for the authority, and nobody is cut off."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tunnelctl.errors import RefusedError
from tunnelctl.local_server import add_arguments, find_server, open_state, state_errors
from tunnelctl.tables import show

if TYPE_CHECKING:
    import argparse

    from certs.roll import RollStatus

STEPS = {
    "start": "make a new root, and have everybody trust it too",
    "status": "show how far the roll is, and whom it waits for",
    "switch": "issue from the new root",
    "finish": "trust the old root no longer",
}
_SHOWN = 50


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `ca` and what is below it; each sets `run`."""
    parser = subparsers.add_parser("ca", help="look after the authority: roll it over to a new root")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    roll = actions.add_parser(
        "roll",
        help="replace the authority's root",
        description="start; wait until `status` names nobody; switch; wait again; finish. Linked agents look "
        "every hour, so each wait takes about that long. A running server follows each step by itself.",
    )
    steps = roll.add_subparsers(required=True, metavar="STEP")
    for name, line in STEPS.items():
        step = steps.add_parser(name, help=line)
        if name in {"switch", "finish"}:
            step.add_argument(
                "--force", action="store_true", help="cut off whom `status` names; they must join again"
            )
        add_arguments(step)
        step.set_defaults(run=run, step=name)


def run(args: argparse.Namespace) -> int:
    """Take one step, or show where it stands; raises CommandError."""
    from certs.roll import Roll, RollError

    with state_errors():
        roll = Roll(open_state(find_server(args)))
        try:
            match args.step:
                case "start":
                    status = roll.start()
                case "switch":
                    status = roll.switch(force=args.force)
                case "finish":
                    status = roll.finish(force=args.force)
                case _:
                    status = roll.status()
        except RollError as error:
            raise RefusedError(str(error)) from None
    print(json.dumps(_report(status), indent=1) if args.json else "\n".join(status_lines(status)))
    return 0


def status_lines(status: RollStatus) -> list[str]:
    """Return where a roll stands, for people, and what to do next."""
    from certs.roll import Phase

    lines = [f"issuing root: {status.issuing}"]
    if status.phase is Phase.NONE:
        return [*lines, "no roll is on; `tunnelctl ca roll start` begins one"]
    if status.phase is Phase.DISTRIBUTING:
        lines += [f"new root:     {status.other}", "both are trusted; the old one issues still"]
        missing, then = "does not trust the new root yet", "tunnelctl ca roll switch"
    else:
        lines += [f"old root:     {status.other}", "both are trusted; the new one issues"]
        missing, then = "still shows a certificate of the old root", "tunnelctl ca roll finish"
    lines += _named("node", status.nodes, missing)
    lines += _named("caller", status.callers, f"{missing}: `tunnelctl caller renew` there")
    for token, node in status.tokens[:_SHOWN]:
        lines.append(f"token {token} (node {node}): its join line stops working at the switch")
    lines.append(f"next: {then}" if status.ready else f"when nobody is named here any more: {then}")
    return lines


def _named(kind: str, names: tuple[str, ...], what: str) -> list[str]:
    lines = [f"{kind} {show(name)} {what}" for name in names[:_SHOWN]]
    if len(names) > _SHOWN:
        lines.append(f"... and {len(names) - _SHOWN} more")
    return lines


def _report(status: RollStatus) -> dict[str, object]:
    return {
        "phase": status.phase.value,
        "issuing": status.issuing,
        "other": status.other or None,
        "nodes": list(status.nodes),
        "callers": list(status.callers),
        "tokens": [token for token, _ in status.tokens],
        "ready": status.ready,
    }
