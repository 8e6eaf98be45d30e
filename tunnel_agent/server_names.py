"""The names that this agent dials by itself, of servers and of a proxy: what DNS says, or said last.

When an uplink comes back, DNS is often the last to do so, and calls that wait for their link do not wait that
long. So a name of which DNS says nothing within a second, or that it cannot resolve, is dialled where it was:
wherever that leads, it is the server's certificate that decides. What DNS said last is kept however old
it is, until it says something else; `kept_names.py` has it outlive the process.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import math
import socket
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import trio

from tunnel_agent.lookups import Lookups
from tunnel_daemon.failure_log import FailureLog

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from certs.addresses import IPAddress

log = logging.getLogger(__name__)

PATIENCE = 1.0
"""Seconds for DNS, where it is known what it said last; once, as long as it stays silent and is asked. Half
of what the caller has, if that is less: the other half is for dialling.
"""
_ANEW = 60.0
"""Seconds without a question after which they count anew: its silence is old by then."""
_MAX_NAMES = 64


class _Name:
    def __init__(self) -> None:
        self.addresses: list[IPAddress] = []
        """What DNS said last."""
        self.silent_since = math.inf
        """When it was first asked without an answer since."""
        self.asked = -math.inf
        self.patient_until = 0.0
        self.failures = FailureLog(log)


class ServerNames(trio.abc.HostnameResolver):
    """Resolves for `trio.open_tcp_stream`, with `trio.socket.set_custom_hostname_resolver`."""

    def __init__(self, known: Mapping[str, Sequence[str]] = MappingProxyType({})) -> None:
        """Take `known`: what DNS said last to another process, as that one's `known` gives it."""
        self.lookups = Lookups(self._answered)
        self.learned = trio.Event()
        """Set when DNS has said something new, and replaced."""
        self._names: dict[str, _Name] = {}
        for host, addresses in known.items():
            self._name(host).addresses = [ipaddress.ip_address(address) for address in addresses]

    def known(self) -> dict[str, list[str]]:
        """The addresses of each name that has some."""
        return {
            host: [str(each) for each in name.addresses]
            for host, name in self._names.items()
            if name.addresses
        }

    def describe(self) -> dict[str, dict[str, Any]]:
        """For people: of each name that was asked for the addresses, and for how many seconds DNS has not
        given any.
        """
        now = trio.current_time()
        return {
            host: {
                "addresses": [str(each) for each in name.addresses],
                "unanswered_s": None if name.silent_since == math.inf else round(now - name.silent_since, 1),
            }
            for host, name in self._names.items()
            if name.asked > -math.inf
        }

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002 - named by trio
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """As `socket.getaddrinfo`, for a name; raises socket.gaierror."""
        assert host is not None
        found: list[Any] = []
        # Where to listen is no name to dial (trio.open_tcp_listeners).
        addresses = self.lookups if flags & socket.AI_PASSIVE else self._addresses
        for each in await addresses(host.decode("ascii")):
            with contextlib.suppress(socket.gaierror):  # of another family
                numeric = flags | socket.AI_NUMERICHOST
                found += socket.getaddrinfo(str(each).encode(), port, family, type, proto, numeric)
        if not found:
            raise socket.gaierror(socket.EAI_NODATA, "No address associated with hostname")
        return found

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:  # noqa: ANN401
        """Never: nobody here asks what an address is called."""
        raise socket.gaierror(socket.EAI_FAIL, "names of addresses are not looked up")

    async def _addresses(self, host: str) -> list[IPAddress]:
        name, why, failed, now = self._name(host), "DNS does not answer", None, trio.current_time()
        if name.silent_since == math.inf or now > name.asked + _ANEW:
            name.patient_until = now + min(PATIENCE, (trio.current_effective_deadline() - now) / 2)
        name.silent_since, name.asked = min(name.silent_since, now), now
        # Without an address nobody goes on before DNS answers: each call gives it a second of its own.
        with trio.move_on_at(name.patient_until if name.addresses else now + PATIENCE):
            try:
                return await self.lookups(host)
            except socket.gaierror as error:
                why, failed = str(error.strerror), error
        if name.addresses:
            text = ", ".join(map(str, name.addresses))
            name.failures.failed("known", f"{host}: {why}: dialling where it was last, {text}")
            return list(name.addresses)
        if failed is not None:
            raise failed
        name.failures.failed("unknown", f"{host}: {why}, and where it was is not known")
        return await self.lookups(host)

    def _name(self, host: str) -> _Name:
        if host not in self._names and len(self._names) >= _MAX_NAMES:
            del self._names[min(self._names, key=lambda each: self._names[each].asked)]
        return self._names.setdefault(host, _Name())

    def _answered(self, host: str, found: list[IPAddress]) -> None:
        name = self._names.get(host)
        if name is None:  # nobody dials it
            return
        if set(found) != set(name.addresses):
            self.learned.set()
            self.learned = trio.Event()
        name.addresses, name.silent_since = found, math.inf
        name.failures.over()
