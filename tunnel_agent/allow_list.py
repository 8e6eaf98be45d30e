"""What this agent may dial: the rules, how they are written, and the last word on each address.

Rules are matched against the address that will be dialled, after name resolution, so that no name can lead
past them. Nothing that is not named may be dialled. Some addresses are named only by a rule that is itself
inside their range: `0.0.0.0/0` opens neither the loopback, nor link-local addresses, nor a cloud's metadata
service; and `::/0` none of these in an IPv6 form.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from certs.addresses import (
    SPECIAL_ADDRESSES,
    IPAddress,
    IPNetwork,
    format_endpoint,
    never_dialled,
    parse_endpoint,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


def normal_name(host: str) -> str:
    """Return a host name as names are compared: lower case, no final dot."""
    return host.lower().removesuffix(".")


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of the allow-list: exactly one of network, name and keyword, and ranges of ports."""

    FORM: ClassVar[str] = 'a target like "node:9081", "192.168.2.0/24:8000-8100" or "loopback:*"'

    text: str
    ports: tuple[tuple[int, int], ...]
    network: IPNetwork | None = None
    name: str = ""
    keyword: str = ""

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read `WHERE:PORTS`; ValueError names the text and the remedy.

        WHERE is `loopback` (or `localhost`), `node` (the addresses in this agent's certificate), a host
        name, an address, or a network as `192.168.2.0/24`; a single IPv6 address stands in brackets. PORTS
        is `*`, a port, a range as `8000-8100`, or several of them with commas.
        """
        where, colon, ports_text = text.strip().rpartition(":")
        if not colon:
            raise ValueError(
                f"{text!r} names no port: write {text.strip()}:* for any, or {text.strip()}:PORT"
            )
        try:
            network, name, keyword = _parse_where(where)
            return cls(text, _parse_ports(ports_text), network, name, keyword)
        except ValueError as error:
            raise ValueError(f"{text!r}: {error}") from None

    def __str__(self) -> str:
        return self.text

    def covers(self, host: str, address: IPAddress, port: int, node_addresses: Collection[IPAddress]) -> bool:
        """Whether this rule lets `address` be dialled on `port` for a stream that named `host`."""
        if not any(low <= port <= high for low, high in self.ports):
            return False
        if self.keyword == "loopback":
            return address.is_loopback
        ranges = [network for network, _text in SPECIAL_ADDRESSES if address in network]
        if self.network is not None:
            return address in self.network and all(_inside(self.network, outer) for outer in ranges)
        if ranges:
            return False
        return address in node_addresses if self.keyword == "node" else normal_name(host) == self.name


class AllowList:
    """All rules together; none means that nothing may be dialled."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)

    def refusal(
        self, host: str, address: IPAddress, port: int, node_addresses: Collection[IPAddress]
    ) -> str | None:
        """Return why `address` (unmapped) may not be dialled for a stream to `host`, or None if it may."""
        if (why := never_dialled(address)) is not None:
            return why
        if any(rule.covers(host, address, port, node_addresses) for rule in self.rules):
            return None
        target = format_endpoint(str(address), port)
        special = [f" is {text} and" for network, text in SPECIAL_ADDRESSES if address in network]
        return f"{target}{special[0] if special else ''} is not on the agent's allow-list"


def _parse_where(where: str) -> tuple[IPNetwork | None, str, str]:
    if where.startswith("[") and where.endswith("]"):
        return ipaddress.IPv6Network(where[1:-1]), "", ""
    if "/" in where or _is_ipv4(where):
        return ipaddress.ip_network(where), "", ""
    if ":" in where:
        raise ValueError("an IPv6 address stands in brackets, as in [2001:db8::1]:80")
    name = normal_name(where)
    if name in {"loopback", "localhost"}:
        return None, "", "loopback"
    if name == "node":
        return None, "", "node"
    return None, parse_endpoint(name, 1)[0], ""


def _parse_ports(text: str) -> tuple[tuple[int, int], ...]:
    if text.strip() == "*":
        return ((1, 65535),)
    ranges = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        ranges.append((_parse_port(low), _parse_port(high if dash else low)))
        if ranges[-1][0] > ranges[-1][1]:
            raise ValueError(f"{part.strip()!r} is no range of ports")
    return tuple(ranges)


def _parse_port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 65535):
        raise ValueError(f"{text!r} is not a port (1 to 65535)")
    return int(text)


def _is_ipv4(text: str) -> bool:
    # All digits and dots: meant as an address, so that a mistyped one is an error and not a host name.
    return bool(text) and all(character in "0123456789." for character in text)


def _inside(inner: IPNetwork, outer: IPNetwork) -> bool:
    return inner.prefixlen >= outer.prefixlen and inner.network_address in outer
