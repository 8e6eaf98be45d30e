"""Routes: what the host's routing says of an address, and the routes of our own.

`connect()` asks the routing first and fails with "network unreachable" before any packet, and so before
nftables; therefore an edge address to which the host has no route at all gets one over `lo`, where the
packet is captured on its way out. Ours carry a routing protocol number of their own: that is how they are
recognised after a crash, by the kernel's own record of them and without a file that could disagree with it.
"""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import suppress
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from tunnel_server.intercept import messages as nl
from tunnel_server.intercept.config import Address, Refusal
from tunnel_server.intercept.messages import Attributes, Message, decode_route
from tunnel_server.intercept.netlink import NETLINK_ROUTE, SOL_NETLINK, NetlinkError, NetlinkSocket

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

PROTOCOL = 126  # in `ip route`: proto 126; unassigned in iproute2's rt_protos

_TABLE_MAIN = 254
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_UNICAST = 1
_RTA_DST = 1
_NETLINK_GET_STRICT_CHK = 12
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_LIMITED_BROADCAST = IPv4Address("255.255.255.255")


class Reach(StrEnum):
    """Where the host's routing leads."""

    ELSEWHERE = "elsewhere"
    LOCAL = "an address of this host"
    BROADCAST = "a broadcast address here"
    ANYCAST = "an anycast address of this host"
    MULTICAST = "multicast"
    NOWHERE = "nowhere"


_REACH = {1: Reach.ELSEWHERE, 2: Reach.LOCAL, 3: Reach.BROADCAST, 4: Reach.ANYCAST, 5: Reach.MULTICAST}


def never_capturable(address: Address) -> str | None:
    """Why no edge can have this address whatever the host, or None."""
    if isinstance(address, IPv6Address) and (address.ipv4_mapped or address.scope_id):
        return "not an address of its own (IPv4-mapped, or with a zone)"
    for true, reason in (
        (address.is_loopback, "loopback"),
        (address.is_link_local, "link-local"),
        (address.is_multicast, "multicast"),
        (address.is_unspecified or (address.version == 4 and address.packed[0] == 0), "unspecified"),
        (address == _LIMITED_BROADCAST, "broadcast"),
    ):
        if true:
            return reason
    return None


class _LookUp:
    """Which route leads there: GETROUTE, packed by hand, since pyroute2 takes 60 us for each of thousands."""

    flags = 0
    _LAYOUT = struct.Struct("=IHHII BBBBBBBBI HH")  # struct nlmsghdr, rtmsg, rtattr

    def __init__(self, address: Address) -> None:
        self._address = address

    @property
    def label(self) -> str:
        """What it is, for an error."""
        return f"look-up of the route to {self._address}"

    def encode(self, sequence: int) -> bytes:
        """The request as bytes."""
        packed = self._address.packed
        header = (self._LAYOUT.size + len(packed), nl.RTM_GETROUTE, nl.NLM_F_REQUEST, sequence, 0)
        family = _FAMILY[self._address.version]
        route = (family, self._address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
        return self._LAYOUT.pack(*header, *route, 4 + len(packed), _RTA_DST) + packed


class Routes:
    """The host's routing, through one socket. Synchronous; one user at a time."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._socket = NetlinkSocket(NETLINK_ROUTE)
        with suppress(OSError):  # Linux 4.20: a dump is filtered by the kernel; without, by `leftovers`
            self._socket.socket.setsockopt(SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        self.added: set[Address] = set()
        """Addresses whose route is ours."""

    def close(self) -> None:
        """Close the socket; routes stay."""
        self._socket.close()

    def look_up(self, addresses: Collection[Address]) -> dict[Address, Reach]:
        """Where each leads."""
        answers = self._socket.request_each([_LookUp(address) for address in addresses])
        return {address: _reach(answer) for address, answer in zip(addresses, answers, strict=True)}

    def add(self, addresses: Collection[Address]) -> list[Refusal]:
        """Route each over `lo`, and see that it works; what did not, and why."""
        if not addresses:
            return []
        loopback = socket.if_nametoindex("lo")
        answers = self._socket.request_each([_over_loopback(address, loopback) for address in addresses])
        failed: dict[Address, str] = {}
        made = []
        for address, answer in zip(addresses, answers, strict=True):
            if isinstance(answer, NetlinkError):
                failed[address] = _explain(answer)
            else:
                made.append(address)
        useless = [address for address, reach in self.look_up(made).items() if reach is Reach.NOWHERE]
        self.added |= set(made)
        self.remove(useless)
        for address in useless:
            failed[address] = "no route leads there, and this kernel does not use one over lo"
        return [Refusal(address, reason) for address, reason in failed.items()]

    def remove(self, addresses: Iterable[Address]) -> list[Address]:
        """Remove our routes to these, where there are any; those that were there."""
        mine = sorted(self.added.intersection(addresses), key=lambda address: (address.version, address))
        answers = self._socket.request_each([_deletion(address) for address in mine])
        self.added -= set(mine)
        return [a for a, answer in zip(mine, answers, strict=True) if not isinstance(answer, NetlinkError)]

    def leftovers(self) -> set[Address]:
        """The addresses of all routes with our protocol number, whoever added them. Raises NetlinkError."""
        found: set[Address] = set()
        for family in _FAMILY.values():
            question = Message(
                nl.RTM_GETROUTE, nl.NLM_F_DUMP, {"family": family, "proto": PROTOCOL}, [], "list of routes"
            )
            for reply in self._socket.request(question):
                if reply[21] != PROTOCOL:  # rtm_protocol; decoding a full Internet table would take minutes
                    continue
                fields, attributes = decode_route(reply)
                if fields["table"] == _TABLE_MAIN and fields["dst_len"] in {32, 128}:
                    found.add(ip_address(attributes["RTA_DST"]))
        return found


def _route(kind: int, address: Address, more: Attributes | None = None, **fields: int) -> Message:
    attributes: Attributes = [("RTA_DST", str(address)), *(more or [])]
    flags = nl.NLM_F_ACK | (nl.NLM_F_CREATE | nl.NLM_F_EXCL if kind == nl.RTM_NEWROUTE else 0)
    whole = {
        "family": _FAMILY[address.version],
        "dst_len": address.max_prefixlen,
        "table": _TABLE_MAIN,
        "proto": PROTOCOL,
        **fields,
    }
    return Message(kind, flags, whole, attributes, f"route to {address}")


def _over_loopback(address: Address, loopback: int) -> Message:
    more: Attributes = [("RTA_OIF", loopback)]
    if address.version == 4:
        # On a host with no address but lo's the kernel would send from 0.0.0.0; IPv6 chooses well by itself.
        more.append(("RTA_PREFSRC", "127.0.0.1"))
    return _route(
        nl.RTM_NEWROUTE,
        address,
        more,
        scope=_SCOPE_LINK if address.version == 4 else _SCOPE_UNIVERSE,
        type=_UNICAST,
    )


def _deletion(address: Address) -> Message:
    scope = 255 if address.version == 4 else _SCOPE_UNIVERSE  # 255, RT_SCOPE_NOWHERE: whichever
    return _route(nl.RTM_DELROUTE, address, scope=scope)


def _reach(answer: list[bytes] | NetlinkError) -> Reach:
    if isinstance(answer, NetlinkError):
        return Reach.NOWHERE
    return _REACH.get(answer[0][23], Reach.NOWHERE)  # rtm_type; the others are blackhole, prohibit and so on


def _explain(error: NetlinkError) -> str:
    if error.errno == errno.EEXIST:
        return (
            "a route that is there already refuses it (unreachable, prohibit or blackhole): remove that route"
        )
    if error.errno == errno.ENETDOWN:
        return "no route leads there, and none can be added while lo is down: `ip link set lo up`"
    return f"no route leads there, and none could be added: {error.strerror}"
