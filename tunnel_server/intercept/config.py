"""What interception is configured with, what it reports, and how it says that it cannot."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class InterceptUnavailable(Exception):
    """The host does not let us intercept; the text is one line with the cause and the remedy."""


class MissingPrivilege(InterceptUnavailable):
    """The process lacks CAP_NET_ADMIN."""


@dataclass(frozen=True)
class InterceptConfig:
    """Raises ValueError, in one line, for settings that could never work."""

    caller_networks: tuple[Network, ...] = ()
    """Sources, other than this host, whose packets to edge addresses are captured. None by default."""
    prerouting_address4: IPv4Address | None = None
    """The address of this host, never loopback, at which the listeners serve `caller_networks`."""
    prerouting_address6: IPv6Address | None = None
    mark: int = 0x7E7E
    """SO_MARK of the server's own dials, which are never captured."""
    restore_interval: float = 2.0
    """Seconds between two looks at the table, should a notification have been lost."""
    max_addresses: int = 16_384
    """Addresses captured at most; those beyond are refused and reported."""

    def __post_init__(self) -> None:
        for version, address in self._prerouting():
            networks = [network for network in self.caller_networks if network.version == version]
            if networks and address is None:
                raise ValueError(
                    f"caller-networks names {networks[0]}, but there is no "
                    f"prerouting-address for IPv{version}: give an IPv{version} address of this host "
                    "at which these callers are served"
                )
            if address is not None and (
                address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local
            ):
                raise ValueError(
                    f"prerouting-address {address} cannot be reached by callers in caller-networks: "
                    "give an ordinary address of this host"
                )
        if not 0 < self.mark < 1 << 32:
            raise ValueError(f"mark {self.mark} is not a packet mark: give a number from 1 to 4294967295")

    def prerouting(self) -> Iterator[tuple[Address, tuple[Network, ...]]]:
        """The address to serve at and the callers it is for, for each family that has callers."""
        for version, address in self._prerouting():
            networks = tuple(network for network in self.caller_networks if network.version == version)
            if networks and address is not None:
                yield address, networks

    def _prerouting(self) -> tuple[tuple[int, Address | None], ...]:
        return (4, self.prerouting_address4), (6, self.prerouting_address6)


@dataclass(frozen=True)
class Refusal:
    """An address that is not as it was asked for, and why, in words for an operator."""

    address: Address
    reason: str

    def __str__(self) -> str:
        return f"{self.address}: {self.reason}"


@dataclass(frozen=True)
class Change:
    """What one `Interception.apply` did."""

    added: tuple[Address, ...] = ()
    removed: tuple[Address, ...] = ()
    ports_set: Mapping[int, int] = field(default_factory=dict)
    ports_removed: tuple[int, ...] = ()
    refused: tuple[Refusal, ...] = ()
    """Not captured."""
    unrouted: tuple[Refusal, ...] = ()
    """Captured, but callers on this host get "network unreachable" before the packet can be."""


@dataclass(frozen=True)
class Statistics:
    """What `tunnelctl status` shows of interception."""

    active: bool
    owned: bool
    """The kernel removes the table by itself when the server dies."""
    addresses: tuple[Address, ...]
    ports: Mapping[int, int]
    routes: tuple[Address, ...]
    """Addresses for which a route was added, for want of any."""
    refused: tuple[Refusal, ...]
    restored: int
    """How often the table had to be put back after somebody had removed it."""
    problem: str | None
    """Why capture does not work at present, or None."""
