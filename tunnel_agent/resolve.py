"""From the host that a stream names to the addresses to dial."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio

from certs.addresses import unmapped
from tunnel_agent.allow_list import normal_name

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Lookup: TypeAlias = Callable[[str], Awaitable[list[IPAddress]]]

MAX_ADDRESSES = 8  # of one name
MAX_LOOKUPS = 16  # threads that wait for DNS at once

_LOOPBACK: list[IPAddress] = [ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1")]


class UnresolvableError(Exception):
    """The name has no address, or nobody could say; the text says which."""


class Resolver:
    """Looks names up, in a bounded number of threads of its own: dead DNS takes none from anybody else."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(MAX_LOOKUPS)

    async def __call__(self, host: str) -> list[IPAddress]:
        """Return the addresses of `host`, best first, IPv4-mapped ones as IPv4; raises UnresolvableError.

        Literal addresses and `localhost` need no lookup. Cancelled, the thread finishes on its own.
        """
        try:
            return [unmapped(ipaddress.ip_address(host))]
        except ValueError:
            pass
        if normal_name(host) == "localhost":
            return list(_LOOPBACK)
        if not host.isascii():
            raise UnresolvableError(f"{host!r} is not ASCII: names travel in their xn-- form")
        try:
            # As bytes, which spares the process Python's IDNA tables.
            found = await trio.to_thread.run_sync(
                _getaddrinfo, host.encode("ascii"), abandon_on_cancel=True, limiter=self._limiter
            )
        except (OSError, ValueError) as error:
            text = getattr(error, "strerror", None) or str(error)
            raise UnresolvableError(f"{host}: {text}") from None
        return found[:MAX_ADDRESSES]


def _getaddrinfo(host: bytes) -> list[IPAddress]:
    addresses: dict[IPAddress, None] = {}
    for family, _type, _proto, _name, sockaddr in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
        if family == socket.AF_INET:
            addresses[ipaddress.IPv4Address(sockaddr[0])] = None
        elif family == socket.AF_INET6 and len(sockaddr) == 4:
            scope = f"%{sockaddr[3]}" if sockaddr[3] else ""
            addresses[unmapped(ipaddress.IPv6Address(f"{sockaddr[0]}{scope}"))] = None
    return list(addresses)
