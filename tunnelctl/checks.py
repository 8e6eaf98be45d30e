"""Judging what the server knows of a node: each step of the path, what fails in it, and its remedy.

Knows no server: takes what the admin API answered (`tunnel_server.admin.views`: DiagnosisView, ProbeView).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from tunnelctl.tables import ago, span

if TYPE_CHECKING:
    from collections.abc import Iterator

SILENT = 15.0
"""Seconds without a sign of life after which a link is dead (the server ends it by itself)."""
SLOW = 1000.0
"""Milliseconds of a round trip from which it is worth a word."""
EXPIRES_SOON = 7 * 24 * 3600.0
"""Seconds before the end of a certificate's life in which a renewal is overdue."""


class State(StrEnum):
    """What became of a check."""

    OK = "ok"
    FAILED = "failed"
    WARNING = "warning"
    """Works, or does not matter for the path that was asked for; still worth a word."""
    SKIPPED = "skipped"
    """An earlier step failed that this one needs."""


@dataclass(frozen=True, slots=True)
class Check:
    """One step of the path."""

    name: str
    state: State
    text: str
    remedy: str = ""


def check_node(known: dict[str, Any], port: int | None) -> Iterator[Check]:
    """Yield every step but the dial, in the order of the path."""
    yield Check("server", State.OK, f"version {known['server_version']}, up {span(known['uptime_seconds'])}")
    node = known["node"]
    if node is None:
        yield _unknown(known)
        yield from _token(known)
        return
    yield Check("name", State.OK, f"{known['name']} is known")
    yield from _token(known)
    yield from _certificate(known)
    yield from _link(known)
    for address in known["addresses"]:
        yield from _address(known, address)
    problem = node["problem"] or ""
    if " is refused: " in problem:
        yield Check("address", State.FAILED, problem, "see edge-networks, or join again with another --ip")
    elif not known["addresses"]:
        yield Check("address", State.WARNING, "it has none: it is reached by name only")
    if port is not None:
        yield from _port(known, port)


def _unknown(known: dict[str, Any]) -> Check:
    name = known["name"]
    close = difflib.get_close_matches(name, known["known_names"], n=1)
    token = known["tokens"][-1] if known["tokens"] else None
    if token is not None and token["state"] == "live":
        remedy = "run the join line of its token on the edge; for a new one"
    elif close:
        remedy = f"did you mean {close[0]}? For a new edge"
    else:
        remedy = "see `tunnelctl nodes`; for a new edge"
    return Check(
        "name",
        State.FAILED,
        f"no node {name} has joined",
        f"{remedy}tunnelctl token create --node {name} --ip IP",
    )


def _token(known: dict[str, Any]) -> Iterator[Check]:
    joined = known["node"] is not None
    if not known["tokens"]:
        if not joined:
            yield Check("token", State.FAILED, "none was made for this name", _new_token(known))
        return
    token = known["tokens"][-1]
    state = token["state"]
    if state == "used":
        yield Check("token", State.OK, f"used {_moment(token['used'])}")
    elif state == "live":
        text = f"made {_moment(token['created'])}, not used yet, good until {_moment(token['expires'])}"
        wait = State.WARNING if joined else State.FAILED
        yield Check("token", wait, text, "run its join line on the edge; a lost one is made again")
    elif not joined:
        when = f" {_moment(token['expires'])}" if state == "expired" else ""
        yield Check("token", State.FAILED, f"{state}{when} before it was used", _new_token(known))


def _new_token(known: dict[str, Any]) -> str:
    return f"tunnelctl token create --node {known['name']} --ip IP"


def _certificate(known: dict[str, Any]) -> Iterator[Check]:
    expires = known["certificate_expires"]
    if expires is None:
        return
    if known["certificate_revoked"]:
        remedy = f"if it is to come back, join again with a new token: {_new_token(known)}"
        yield Check("certificate", State.FAILED, known["certificate_revoked"], remedy)
        return
    left = (_read(expires) - _read(known["server_time"])).total_seconds()
    clock = f"the server's clock says {_moment(known['server_time'])}"
    if left <= 0:
        yield Check(
            "certificate",
            State.FAILED,
            f"expired {_moment(expires)}; {clock}",
            f"if that clock is right, join again with a new token: {_new_token(known)}",
        )
    elif left < EXPIRES_SOON:
        text = f"valid until {_moment(expires)}, {span(left)} only"
        yield Check("certificate", State.WARNING, text, "see the agent's log for why it is not renewed")
    else:
        yield Check("certificate", State.OK, f"valid until {_moment(expires)}; {clock}")


def _link(known: dict[str, Any]) -> Iterator[Check]:
    node, silent = known["node"], known["silent_seconds"]
    if not node["connected"]:
        seen = f", last seen {ago(node['since'])} ago" if node["since"] else " since the server started"
        yield Check(
            "link",
            State.FAILED,
            f"no connection from its agent{seen}",
            "on the edge: systemctl status tunnel-agent, and curl http://127.0.0.1:10266/status, which says "
            "why it does not get through (power, network, firewall, clock, certificate)",
        )
        yield Check("heartbeat", State.SKIPPED, "needs the link")
        return
    text = f"connected for {ago(node['since'])} from {node['remote_address']}, agent {node['agent_version']}"
    if node["problem"] and "certificate" in node["problem"]:
        remedy = "give the other machine a name and a token of its own, and join it again"
        yield Check("link", State.FAILED, node["problem"], remedy)
    else:
        yield Check("link", State.OK, text)
    trip = node["rtt_ms"]
    heard = f"last heard {silent:.1f} s ago" if silent is not None else "nothing heard yet"
    heard += f", round trip {trip:.1f} ms" if trip is not None else ", no round trip measured yet"
    if silent is not None and silent > SILENT:
        yield Check("heartbeat", State.FAILED, heard, "the network between is cut: the agent will dial again")
    elif trip is not None and trip > SLOW:
        yield Check("heartbeat", State.WARNING, heard, "the network between is slow, or full")
    else:
        yield Check("heartbeat", State.OK, heard)


def _address(known: dict[str, Any], address: dict[str, Any]) -> Iterator[Check]:
    what, interception = address["address"], known["interception"]
    others = ", ".join(address["also_claimed_by"])
    if others:
        yield Check(
            "address",
            State.FAILED,
            f"{what} is claimed by {others} too: it is refused for all of them",
            f"reach it by name (tunnelctl port-forward {known['name']} ...), or join one with another --ip",
        )
    elif interception["state"] == "off":
        yield Check(
            "address",
            State.WARNING,
            f"{what} is not captured: intercept is off",
            "callers reach it by name only",
        )
    elif interception["state"] == "failed":
        why = "; ".join(interception["problems"]) or "see the server's log"
        yield Check("address", State.FAILED, f"nothing is captured: {why}", "see `tunnelctl status`")
    elif not address["captured"]:
        why = address["refusal"] or "see the server's log"
        yield Check(
            "address", State.FAILED, f"{what} is not captured: {why}", "check edge-networks, and --ip"
        )
    elif not address["routed"]:
        yield Check(
            "address",
            State.FAILED,
            f"{what} is captured, but this host has no route to it",
            f"ip route add {what} dev lo (the server does so by itself, unless another route forbids it)",
        )
    else:
        yield Check("address", State.OK, f"{what} is captured, and routed")


def _port(known: dict[str, Any], port: int) -> Iterator[Check]:
    mapping = next((each for each in known["mappings"] if each["port"] == port), None)
    if known["interception"]["state"] == "off" or not known["addresses"]:
        return
    if mapping is None:
        yield Check(
            "port",
            State.FAILED,
            f"{port} is not captured",
            f"tunnelctl map-port {port}=10264 (10263 for TLS); by name it needs no mapping",
        )
    else:
        text = f"{port} is captured, to listener {mapping['listener_port']} ({mapping['source']})"
        yield Check("port", State.OK, text)


_REMEDIES = {
    "refused": "nothing listens there on the edge: start the service, or see `ss -ltn` there for its address",
    "timed-out": "a firewall on the edge drops it, or the service hangs; see `nft list ruleset` there",
    "not-allowed": "add it to `allow` in the edge's agent.toml: the agent has the last word",
    "not-on-this-node": "the edge has another address now: join it again with its present --ip",
    "unreachable": "the edge itself has no route there",
    "no-room": "too much is open: see `tunnelctl status`, and the limits",
    "away": "see the link above",
    "link-lost": "see the link above; try again",
}


def check_dial(node: dict[str, Any], probe: dict[str, Any]) -> Check:
    """Judge a probe: the agent's allow-list and the target itself."""
    host = f"[{probe['host']}]" if ":" in probe["host"] else probe["host"]
    target = f"{host}:{probe['port']}"
    if probe["ok"]:
        return Check("dial", State.OK, f"{target} on {node['name']} answers, {probe['ms']:.0f} ms")
    detail = f" ({probe['detail']})" if probe["detail"] else ""
    text = f"{target} on {node['name']}: {probe['cause']} after {probe['ms']:.0f} ms{detail}"
    name = "allow-list" if probe["cause"] == "not-allowed" else "dial"
    return Check(name, State.FAILED, text, _REMEDIES.get(probe["cause"], "see the agent's log on the edge"))


def _read(moment: str) -> datetime:
    return datetime.fromisoformat(moment)


def _moment(moment: str) -> str:
    return _read(moment).strftime("%Y-%m-%d %H:%M:%S UTC")
