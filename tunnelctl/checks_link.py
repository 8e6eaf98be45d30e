"""Judging a node's link: whether there is one, what became of the last one, and whether it is alive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunnelctl.checks import Check, State
from tunnelctl.tables import ago, span

if TYPE_CHECKING:
    from collections.abc import Iterator

SLOW = 1000.0
"""Milliseconds of a round trip from which it is worth a word."""

SKEWED = 60.0
"""Seconds between an agent's clock and the server's from which it is worth a word."""

_LOOK = (
    "on the edge: systemctl status tunnel-agent, and curl http://127.0.0.1:10266/status, which says why it "
    "does not get through"
)
_ALERTS: dict[str, tuple[str, str]] = {
    "bad-certificate": (
        "finds the server's certificate not valid yet, or without the address that it dials",
        "set the edge's clock (NTP), it may be behind; if it is right, see the addresses of tunnelctl init",
    ),
    "certificate-expired": (
        "finds the server's certificate expired",
        "set the edge's clock (NTP), it may be ahead; if it is right: tunnelctl init issues a new one",
    ),
    "unknown-ca": (
        "does not know the authority of the server's certificate",
        "if this server was set up anew: tunnelctl restore, or the edge joins again; else TLS is intercepted",
    ),
}
"""By what an agent has against the server's certificate: how to say it, and what to do."""


def check_link(known: dict[str, Any], *, refused: bool) -> Iterator[Check]:
    """Judge link and heartbeat. `refused`: the certificate's step says already why there is no link."""
    node = known["node"]
    if not node["connected"]:
        if refused:
            yield Check("link", State.SKIPPED, f"{_gone(known)}: its certificate is refused")
        else:
            yield _away(known)
        yield Check("heartbeat", State.SKIPPED, "needs the link")
        return
    if node["problem"] and "certificate" in node["problem"]:
        remedy = "give the other machine a name and a token of its own, and join it again"
        yield Check("link", State.FAILED, node["problem"], remedy)
    else:
        where = f"from {node['remote_address']}, agent {node['agent_version'] or 'unknown'}"
        text = f"connected for {ago(node['since'])} {where}"
        ahead = known.get("clock_ahead_seconds") or 0.0
        if abs(ahead) > SKEWED:
            side = "ahead of" if ahead > 0 else "behind"
            text += f"; its clock was {span(abs(ahead))} {side} the server's when it linked"
            remedy = "set the clock (NTP) that is wrong: the edge would renew its certificate at a wrong time"
            yield Check("link", State.WARNING, text, remedy)
        else:
            yield Check("link", State.OK, text)
    yield _heartbeat(known)


def _gone(known: dict[str, Any]) -> str:
    since = known["node"]["since"]
    return f"no connection from its agent {f'for {ago(since)}' if since else 'since the server started'}"


def _away(known: dict[str, Any]) -> Check:
    """What was seen of it last, and what to do."""
    end, broken = known["last_end"], known["broken_handshake"]
    text, remedy = _gone(known), f"{_LOOK} (power, network, firewall, clock)"
    if broken is not None:
        finds, remedy = _ALERTS[broken["alert"]]
        whose = "where it was linked from" if end is not None else "which may be this one"
        text += f"; {ago(broken['time'])} ago an agent at {broken['host']}, {whose}, {finds}"
    elif end is not None:
        text += f"; its link from {end['host']} ended: {end['reason']}"
        if "nothing received" in end["reason"]:
            remedy = f"the network fell silent, or the machine lost its power: look at its uplink; {_LOOK}"
    return Check("link", State.FAILED, text, remedy)


def _heartbeat(known: dict[str, Any]) -> Check:
    trip, silent = known["node"]["rtt_ms"], known["silent_seconds"]
    if not known["answers"]:
        left = span(known["gives_up_seconds"])
        return Check(
            "heartbeat",
            State.FAILED,
            f"no answer to a PING within {known['patience_seconds']:g} s, last heard {silent:.1f} s ago; the "
            f"server gives the link up in {left}",
            "something between swallows the packets: the edge's uplink, or a firewall or NAT that forgot the "
            f'connection. Ask again in {left}: the agent finds out by itself (its journal then says "nothing '
            'received"), and dials anew',
        )
    heard = f"round trip {trip:.1f} ms" if trip is not None else "it sends"
    if trip is not None and trip > SLOW:
        return Check("heartbeat", State.WARNING, heard, "the network between is slow, or full")
    return Check("heartbeat", State.OK, heard)
