"""From the host that a stream names to the addresses to dial."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from certs.addresses import IPAddress, unmapped
from tunnel_agent.allow_list import normal_name
from tunnel_agent.lookups import Lookups

Lookup: TypeAlias = Callable[[str], Awaitable[list[IPAddress]]]

_LOOPBACK: list[IPAddress] = [ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1")]


class UnresolvableError(Exception):
    """The name has no address, or nobody could say; the text says which."""


class Resolver:
    """Looks names up, in a bounded number of threads of its own: dead DNS takes none from anybody else."""

    def __init__(self) -> None:
        self.lookups = Lookups()

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
            return await self.lookups(host)
        except socket.gaierror as error:
            raise UnresolvableError(f"{host}: {error.strerror}") from None
