"""Dialling from this host a target that belongs to no edge, for callers whose rights say `direct`.

kube-apiserver sends all of a cluster's traffic through its proxy, most of it for services and pods that are
nobody's edge. What would lead back into this host, or to a cloud's metadata, is dialled only where the
caller's rights name it; what is an edge's address is never dialled from here, whatever name led to it. Where
edges may be, an address that is none's today may have been a forgotten one's, and lead to a neighbour of this
host: rights must name that too.
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Protocol

import trio

from certs.addresses import (
    SPECIAL_ADDRESSES,
    IPAddress,
    IPNetwork,
    embedded_ipv4,
    format_endpoint,
    is_own_address,
    never_dialled,
    unmapped,
)
from tunnel_daemon.descriptors import describe
from tunnel_server.intercept.config import InterceptConfig
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.run_local import RunLocal
from tunnel_wire.sockets import prepare

MARK = InterceptConfig.mark
"""SO_MARK of these dials: interception leaves them alone."""
_ATTEMPT = 5.0
"""Seconds for one of several addresses, so that a dead one leaves time for the next."""
_MAX_ADDRESSES = 8
_MAX_LOOKUPS = 16

_CAUSES = {
    errno.ECONNREFUSED: Cause.REFUSED,
    errno.ECONNRESET: Cause.REFUSED,
    errno.ETIMEDOUT: Cause.TIMED_OUT,
    errno.EMFILE: Cause.NO_ROOM,
    errno.ENFILE: Cause.NO_ROOM,
    errno.EADDRNOTAVAIL: Cause.NO_ROOM,
    errno.EACCES: Cause.NOT_ALLOWED,
    errno.EPERM: Cause.NOT_ALLOWED,
}

_lookups_of_this_loop = RunLocal("direct lookups", lambda: trio.CapacityLimiter(_MAX_LOOKUPS))


class Edges(Protocol):
    """What is asked about the edges."""

    def is_edge(self, address: IPAddress) -> bool:
        """Whether an address is some edge's, or is recorded for one that was revoked."""

    def may_be_edge(self, address: IPAddress) -> bool:
        """Whether an edge could claim an address."""


@dataclass(frozen=True, slots=True)
class DirectTarget:
    """A target that this host dials itself."""

    host: str
    """A name or an address."""
    port: int
    special: tuple[IPNetwork, ...]
    """Networks that may be dialled although they are loopback, link-local, a metadata service's, or such as
    edges are in.
    """
    edges: Edges

    def __str__(self) -> str:
        return format_endpoint(self.host, self.port)

    async def dial(self) -> tuple[socket.socket, IPAddress]:
        """Connect; a prepared non-blocking socket, and the address that it is connected to.

        Raises OpenFailed; put a deadline around it. Cancelled, it leaves no socket behind.
        """
        failure = OpenFailed(Cause.UNRESOLVABLE, f"{self.host} has no address")
        for address in await _resolve(self.host):
            try:
                self._check(address)
                with trio.move_on_after(_ATTEMPT):
                    return await _connect(address, self.port), address
                failure = OpenFailed(Cause.TIMED_OUT, f"{address} does not answer")
            except OpenFailed as refused:
                failure = refused
            except OSError as error:
                cause = _CAUSES.get(error.errno or 0, Cause.UNREACHABLE)
                failure = OpenFailed(cause, f"{address}: {describe(error)}")
        raise failure

    def _check(self, address: IPAddress) -> None:
        if (why := never_dialled(address)) is not None:
            raise OpenFailed(Cause.NOT_ALLOWED, why)
        for form in (address, *embedded_ipv4(address)):
            if self.edges.is_edge(form):
                raise OpenFailed(
                    Cause.NOT_ALLOWED, f"{form} is an edge's: ask for it, or for the node's name"
                )
        special = any(address in named for named in self.special)
        for network, text in SPECIAL_ADDRESSES:
            if address in network and not special:
                raise OpenFailed(
                    Cause.NOT_ALLOWED,
                    f"{address} is {text}, and not in direct-special of the caller's rights",
                )
        for form in (address, *embedded_ipv4(address)):
            if any(form in named for named in self.special):
                continue
            # What listens here would take the caller for this host: another way in, with other rights.
            why = "this host's own" if is_own_address(form) else ""
            if not why and self.edges.may_be_edge(form):
                why = "no edge's, but inside edge-networks"
            if why:
                raise OpenFailed(
                    Cause.NOT_ALLOWED, f"{form} is {why}, and not in direct-special of the caller's rights"
                )


async def _resolve(host: str) -> list[IPAddress]:
    try:
        return [unmapped(ip_address(host))]
    except ValueError:
        pass
    try:
        found = await trio.to_thread.run_sync(
            lambda: socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM),
            abandon_on_cancel=True,
            limiter=_lookups_of_this_loop(),
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise OpenFailed(Cause.UNRESOLVABLE, f"{host}: {why}") from None
    addresses = dict.fromkeys(unmapped(ip_address(str(each[4][0]))) for each in found)
    return list(addresses)[:_MAX_ADDRESSES]


async def _connect(address: IPAddress, port: int) -> socket.socket:
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        prepare(sock)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        except PermissionError:
            pass  # without CAP_NET_ADMIN this server captures nothing that the mark would have to escape
        code = sock.connect_ex((str(address), port))
        if code == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock
