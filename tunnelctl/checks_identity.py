"""Judging who a node is: its name, its join token, its certificate by the server's clock."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from tunnelctl.checks import Check, State, new_token, read, told
from tunnelctl.tables import span

if TYPE_CHECKING:
    from collections.abc import Iterator

EXPIRES_SOON = 7 * 24 * 3600.0
"""Seconds before the end of a certificate's life in which a renewal is overdue."""


def check_name(known: dict[str, Any]) -> Check:
    """Whether the server knows the name, be it by a join token."""
    name = known["name"]
    if known["node"] is not None:
        return Check("name", State.OK, f"{name} is known")
    if known["tokens"]:
        return Check("name", State.OK, f"{name} is known by its join token")
    close = difflib.get_close_matches(name, known["known_names"], n=1)
    remedy = f"did you mean {close[0]}?" if close else "`tunnelctl nodes` lists those there are."
    return Check("name", State.FAILED, f"there is no node {name}", f"{remedy} A new one: {new_token(known)}")


def check_token(known: dict[str, Any]) -> Check:
    """Whether the last token made for the name was used."""
    joined = known["node"] is not None
    if not known["tokens"]:
        return Check("token", State.SKIPPED, "forgotten by now" if joined else "none was made for this name")
    token = known["tokens"][-1]
    if token["state"] == "used" and joined:
        return Check("token", State.OK, f"used {told(token['used'])}")
    if token["state"] == "used":
        text = f"used {told(token['used'])}, and the node was forgotten since"
        remedy = f"it is known again once its agent links; if its certificate was revoked: {new_token(known)}"
    elif token["state"] == "live":
        text = f"made {told(token['created'])}, not used yet, good until {told(token['expires'])}"
        remedy = f"run its join line on the edge; if the line is lost: {new_token(known)}"
    else:
        when = f" {told(token['expires'])}" if token["state"] == "expired" else ""
        text, remedy = f"{token['state']}{when} before it was used", new_token(known)
    # Who has joined needs none.
    return Check("token", State.WARNING if joined else State.FAILED, text, remedy)


def check_certificate(known: dict[str, Any]) -> Iterator[Check]:
    """Whether the certificate that was issued last is accepted now."""
    expires, begins = known["certificate_expires"], known["certificate_begins"]
    if expires is None:
        return
    now = read(known["server_time"])
    left = (read(expires) - now).total_seconds()
    clock = f"the server's clock says {told(known['server_time'])}"
    if known["certificate_revoked"]:
        remedy = f"if it is to come back, join again with a new token: {new_token(known)}"
        yield Check("certificate", State.FAILED, known["certificate_revoked"], remedy)
    elif begins is not None and now < read(begins):
        text = f"valid from {told(begins)} only; {clock}"
        yield Check(
            "certificate", State.FAILED, text, "that clock is behind: set it (NTP) on the server's host"
        )
    elif left <= 0:
        remedy = f"if that clock is wrong, set it (NTP); else join again with a new token: {new_token(known)}"
        yield Check("certificate", State.FAILED, f"expired {told(expires)}; {clock}", remedy)
    elif left < EXPIRES_SOON:
        text = f"valid until {told(expires)}, {span(left)} only; {clock}"
        remedy = "its agent should have renewed it: journalctl -u tunnel-agent on the edge says why not"
        yield Check("certificate", State.WARNING, text, remedy)
    else:
        yield Check("certificate", State.OK, f"valid until {told(expires)}; {clock}")
