"""Judging the way from a caller to the target: address, mapped port, allow-list, the dial itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunnelctl.checks import Check, State, new_token, read
from tunnelctl.tables import ago

if TYPE_CHECKING:
    from collections.abc import Iterator

AWAY_LONG = 24 * 3600.0
"""Seconds after which a node that shares another's address may well be gone for good."""


def check_addresses(known: dict[str, Any], *, refused: bool) -> Iterator[Check]:
    """Whether callers at each address are captured for the node; not so once its certificate is `refused`."""
    for address in known["addresses"]:
        if refused and not address["held"]:
            text = f"{address['address']} is not captured for it: its certificate is refused"
            yield Check("address", State.SKIPPED, text)
        else:
            yield _address(known, address)
    if not known["addresses"]:
        yield Check("address", State.WARNING, "it has none", "callers reach it by name only")


def _address(known: dict[str, Any], address: dict[str, Any]) -> Check:
    what, interception = address["address"], known["interception"]
    if address["claimants"]:
        return _shared(known, address)
    if address["refusal"]:
        remedy = f"allow it in edge-networks, or give the edge another address: {_other_token(known)}"
        return Check("address", State.FAILED, f"{what} is not captured: {address['refusal']}", remedy)
    if interception["state"] == "off":
        return Check(
            "address",
            State.WARNING,
            f"{what} is not captured: intercept is off",
            "callers reach it by name only",
        )
    if interception["state"] == "failed":
        why = "; ".join(interception["problems"]) or "see the server's log"
        return Check(
            "address",
            State.FAILED,
            f"{what} is not captured, nothing is: {why}",
            "the server's log has more: journalctl -u tunnel-server",
        )
    if not address["captured"]:
        return Check(
            "address",
            State.FAILED,
            f"{what} is not captured",
            "the server's log says why: journalctl -u tunnel-server",
        )
    if not address["routed"]:
        return Check(
            "address",
            State.FAILED,
            f"{what} is captured, but this host has no route to it",
            f"ip route add {what} dev lo (the server does so by itself, unless another route forbids it)",
        )
    if interception["restored"]:
        times = "once" if interception["restored"] == 1 else f"{interception['restored']} times"
        return Check(
            "address",
            State.WARNING,
            f"{what} is captured, and routed; but somebody changed or removed the nftables table, and it was "
            f"put back {times}",
            "find out who flushes the rules of others (`nft flush ruleset`, in a firewall's script?)",
        )
    return Check("address", State.OK, f"{what} is captured, and routed")


def _shared(known: dict[str, Any], address: dict[str, Any]) -> Check:
    claimants = address["claimants"]
    others = ", ".join(f"{each['name']} ({_presence(each)})" for each in claimants)
    by_name = f"reach it by name (tunnelctl port-forward {known['name']} ...)"
    gone = [each["name"] for each in claimants if _gone(known, each)]
    if gone:
        commands = ", ".join(f"tunnelctl nodes forget {each}" for each in gone)
        remedy = f"if it is gone for good: {commands}; else {by_name}"
    else:
        remedy = f"{by_name}, or join one of them with another --ip"
    text = f"{address['address']} is claimed by {others} too: it is refused for all of them"
    return Check("address", State.FAILED, text, remedy)


def _presence(claimant: dict[str, Any]) -> str:
    if claimant["connected"]:
        return "connected"
    if claimant["away_since"] is None:
        return "not here since the server started"
    return f"away for {ago(claimant['away_since'])}"


def _gone(known: dict[str, Any], claimant: dict[str, Any]) -> bool:
    """Whether it has been away for so long that it may be gone for good."""
    if claimant["connected"]:
        return False
    if claimant["away_since"] is None:
        return bool(known["uptime_seconds"] >= AWAY_LONG)
    return (read(known["server_time"]) - read(claimant["away_since"])).total_seconds() >= AWAY_LONG


def _other_token(known: dict[str, Any]) -> str:
    return new_token({**known, "addresses": []})


def check_port(known: dict[str, Any], port: int) -> Iterator[Check]:
    """Whether the port is mapped, as it must be for what is captured, and for calls by Host and by SNI."""
    mapping = next((each for each in known["mappings"] if each["port"] == port), None)
    if known["interception"]["state"] == "off" or not known["addresses"]:
        return
    if mapping is None:
        yield Check(
            "port",
            State.FAILED,
            f"{port} is not mapped",
            f"tunnelctl map-port {port}=10264 (10263 for TLS); CONNECT, port-forward and connect need none",
        )
    else:
        text = f"{port} is mapped to listener {mapping['listener_port']} ({mapping['source']})"
        yield Check("port", State.OK, text)


_REMEDIES = {
    "refused": "nothing listens there on the edge: start the service, or see `ss -ltn` there for its address",
    "timed-out": "a firewall on the edge drops it, or the service hangs; see `nft list ruleset` there",
    "not-allowed": "add it to `allow` in the edge's agent.toml: the agent has the last word",
    "unreachable": "the edge itself has no route there",
    "no-room": "too much is open: see `tunnelctl status`, and the limits",
    "away": "it went away meanwhile: ask again",
    "link-lost": "the link ended meanwhile: ask again",
}


def check_dial(known: dict[str, Any], probe: dict[str, Any]) -> Check:
    """Judge a probe: the agent's allow-list and the target itself."""
    host = f"[{probe['host']}]" if ":" in probe["host"] else probe["host"]
    target = f"{host}:{probe['port']} on {known['name']}"
    if probe["ok"]:
        return Check("dial", State.OK, f"{target} answers, {probe['ms']:.0f} ms")
    detail = f" ({probe['detail']})" if probe["detail"] else ""
    text = f"{target}: {probe['cause']} after {probe['ms']:.0f} ms{detail}"
    name = "allow-list" if probe["cause"] == "not-allowed" else "dial"
    if probe["cause"] == "not-on-this-node":
        remedy = (
            f"the edge has another address now: give it this one again, or join anew: {_other_token(known)}"
        )
    else:
        remedy = _REMEDIES.get(probe["cause"], "see the agent's log: journalctl -u tunnel-agent on the edge")
    return Check(name, State.FAILED, text, remedy)
