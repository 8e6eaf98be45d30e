"""The table as one server leaves it to the next: the socket that owns it, and what it holds.

The kernel knows a table's owner by its socket. While any process has that open the table stays, and whoever
has it may change it: so nothing is built anew, and no packet goes by.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any, cast

from tunnel_server.intercept import table
from tunnel_server.intercept.config import Address, InterceptConfig

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address


def layout() -> str:
    """A fingerprint of the tables that this release makes: it changes only in place what it would make."""
    return hashlib.sha256(repr(table.build(InterceptConfig(), port=0, owned=True)).encode()).hexdigest()


@dataclass(frozen=True)
class HeldTable:
    """What stands in the kernel."""

    layout: str
    handle: int
    owned: bool
    addresses: frozenset[Address]
    ports: dict[int, int]
    callers: InterceptConfig
    """Of which only the callers count."""
    caller_changes: int

    def to_json(self) -> dict[str, Any]:
        """For `from_json`."""
        callers = self.callers
        return {
            "layout": self.layout,
            "handle": self.handle,
            "owned": self.owned,
            "addresses": sorted(map(str, self.addresses)),
            "ports": {str(port): to for port, to in self.ports.items()},
            "caller_networks": [str(network) for network in callers.caller_networks],
            "prerouting": [
                str(address) if address else None
                for address in (callers.prerouting_address4, callers.prerouting_address6)
            ],
            "caller_changes": self.caller_changes,
        }

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> HeldTable:
        """Raises ValueError, KeyError, TypeError: another release says it otherwise."""
        four, six = (ip_address(each) if each else None for each in said["prerouting"])
        return cls(
            str(said["layout"]),
            int(said["handle"]),
            bool(said["owned"]),
            frozenset(map(ip_address, said["addresses"])),
            {int(port): int(to) for port, to in said["ports"].items()},
            InterceptConfig(
                caller_networks=tuple(map(ip_network, said["caller_networks"])),
                prerouting_address4=cast("IPv4Address | None", four),
                prerouting_address6=cast("IPv6Address | None", six),
            ),
            int(said["caller_changes"]),
        )


@dataclass(frozen=True)
class Predecessor:
    """What the server that goes before this one lends: nothing of it is removed until it is ours."""

    owner: int
    """Descriptor of the socket that owns the table."""
    held: HeldTable | None
    """None if it did not say what we understand: then the table stays as it is until it is made anew, in one
    transaction, with what is wanted."""
