"""A connection that somebody asks for, before anything is known of what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Asked:
    """Who wants what, as it stands in the log, the status and the audit log."""

    frontend: str
    caller: str
    """`ADDRESS:PORT`, or `uid 1000` over a Unix socket."""
    wanted: str
    identity: str = ""
    """SPIFFE URI of the caller's certificate, or `local` over a Unix socket."""
