"""Names to addresses by the system's resolver, which blocks: in threads, one a name at a time, and so many at
most, counting those that nobody waits for any more.

A lookup while DNS is dead takes half a minute, and nothing ends it sooner. Who asks for the same name again
meanwhile joins it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from functools import partial
from typing import TYPE_CHECKING

import trio

from certs.addresses import IPAddress, unmapped

if TYPE_CHECKING:
    from collections.abc import Callable

    from outcome import Outcome


MAX_LOOKUPS = 16  # at once
MAX_ADDRESSES = 8  # of one name


class _Lookup:
    def __init__(self) -> None:
        self.over = trio.Event()
        self.found: list[IPAddress] = []
        self.failure: tuple[int, str] = (socket.EAI_NODATA, "No address associated with hostname")


class Lookups:
    """Those that are under way."""

    def __init__(self, answered: Callable[[str, list[IPAddress]], None] = lambda _host, _found: None) -> None:
        """Take `answered`: called with what was found, also if nobody waits for it any more."""
        self._answered = answered
        self._under_way: dict[str, _Lookup] = {}
        self._room = trio.Event()

    def __len__(self) -> int:
        return len(self._under_way)

    async def __call__(self, host: str) -> list[IPAddress]:
        """Return the addresses of `host`, at least one, best first, IPv4-mapped ones as IPv4.

        Raises socket.gaierror with the reason. Cancelled, the thread goes on, and takes its place until then.
        """
        while (lookup := self._under_way.get(host)) is None:
            if len(self._under_way) < MAX_LOOKUPS:
                lookup = self._begin(host)
                break
            await self._room.wait()
        await lookup.over.wait()
        if not lookup.found:
            raise socket.gaierror(*lookup.failure)
        return list(lookup.found)

    def _begin(self, host: str) -> _Lookup:
        lookup = _Lookup()
        token = trio.lowlevel.current_trio_token()

        def deliver(outcome: Outcome[list[IPAddress] | Exception]) -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(self._end, host, lookup, outcome.unwrap())

        try:
            trio.lowlevel.start_thread_soon(partial(_look_up, host), deliver, f"lookup of {host}")
        except RuntimeError as error:  # the machine has no thread left
            raise socket.gaierror(socket.EAI_MEMORY, str(error)) from None
        self._under_way[host] = lookup
        return lookup

    def _end(self, host: str, lookup: _Lookup, found: list[IPAddress] | Exception) -> None:
        del self._under_way[host]
        if isinstance(found, Exception):
            number = found.errno if isinstance(found, OSError) else None
            text = getattr(found, "strerror", None) or str(found)
            lookup.failure = (number or socket.EAI_FAIL, text)
        elif found:
            lookup.found = found[:MAX_ADDRESSES]
            self._answered(host, lookup.found)
        lookup.over.set()
        self._room.set()
        self._room = trio.Event()


def _look_up(host: str) -> list[IPAddress] | Exception:
    try:
        # As bytes, which spares the process Python's IDNA tables.
        return getaddrinfo(host.encode("ascii"))
    except Exception as error:  # noqa: BLE001 - whatever it is, who waits must hear of it
        return error


def getaddrinfo(host: bytes) -> list[IPAddress]:
    """Ask the system; blocks. Raises what socket.getaddrinfo does."""
    addresses: dict[IPAddress, None] = {}
    for family, _type, _proto, _name, sockaddr in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
        if family == socket.AF_INET:
            addresses[ipaddress.IPv4Address(sockaddr[0])] = None
        elif family == socket.AF_INET6 and len(sockaddr) == 4:
            scope = f"%{sockaddr[3]}" if sockaddr[3] else ""
            addresses[unmapped(ipaddress.IPv6Address(f"{sockaddr[0]}{scope}"))] = None
    return list(addresses)
