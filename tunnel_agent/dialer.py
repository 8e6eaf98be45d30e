"""What the server asks for: each stream's target is resolved, checked, dialled and joined to the stream.

Every dial is a task of its own, begun by the link's reader and never waited for by it: a target that is slow
or dead holds up nobody else. How many dial at once is bounded, in all and for each target. Only where the
target is this machine itself, as it is for most agents, there is nothing to wait for, and no task. Nor is
there one once a target is joined to its stream.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import math
from typing import TYPE_CHECKING

import trio

from certs.addresses import IPAddress, format_endpoint, unmapped
from tunnel_agent.dial_places import DialPlaces
from tunnel_agent.own_addresses import OwnAddresses
from tunnel_agent.resolve import Lookup, Resolver, UnresolvableError
from tunnel_agent.tcp import connect_at_once, connect_tcp
from tunnel_daemon.descriptors import describe
from tunnel_daemon.failure_log import FailureLog
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.client_hello import Http2Offer
from tunnel_wire.owner import Owner
from tunnel_wire.sockets import close_with_reset
from tunnel_wire.splice import OwnedSplice

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from tunnel_agent.allow_list import AllowList
    from tunnel_agent.status import AgentStatus
    from tunnel_wire.splice import SpliceResult
    from tunnel_wire.stream import IncomingStream

log = logging.getLogger(__name__)


_CAUSES = {
    errno.ECONNREFUSED: Cause.REFUSED,
    errno.ECONNRESET: Cause.REFUSED,
    errno.ETIMEDOUT: Cause.TIMED_OUT,
    errno.EHOSTUNREACH: Cause.UNREACHABLE,
    errno.ENETUNREACH: Cause.UNREACHABLE,
    errno.EHOSTDOWN: Cause.UNREACHABLE,
    errno.ENETDOWN: Cause.UNREACHABLE,
    errno.EAFNOSUPPORT: Cause.UNREACHABLE,
    errno.EINVAL: Cause.UNREACHABLE,  # a link-local address without its zone
    errno.EACCES: Cause.NOT_ALLOWED,  # the machine's own firewall or policy
    errno.EPERM: Cause.NOT_ALLOWED,
    errno.EADDRNOTAVAIL: Cause.NO_ROOM,  # no local port is free
    errno.EAGAIN: Cause.NO_ROOM,
    errno.EMFILE: Cause.NO_ROOM,
    errno.ENFILE: Cause.NO_ROOM,
    errno.ENOBUFS: Cause.NO_ROOM,
    errno.ENOMEM: Cause.NO_ROOM,
}
# Which of several addresses' failures to report: the one that says most about the target.
_TELLING = (Cause.REFUSED, Cause.TIMED_OUT, Cause.NO_ROOM, Cause.UNREACHABLE)


class Dialer:
    """Serves the requests of all links; when the nursery given is cancelled, all that is open is reset."""

    def __init__(
        self,
        nursery: trio.Nursery,
        allow: AllowList,
        status: AgentStatus,
        *,
        dial_timeout: float,
        max_dials: int,
        by_machine: bool = False,
        own: OwnAddresses | None = None,
        lookup: Lookup | None = None,
    ) -> None:
        """Take `by_machine`: without an address in the certificate, `node` is whatever this machine has."""
        self._nursery = nursery
        self._owner = Owner(nursery)
        nursery.start_soon(self._owner.run)
        self._by_machine = by_machine
        self._allow = allow
        self._status = status
        self._timeout = dial_timeout
        self._places = DialPlaces(max_dials)
        self._own = own or OwnAddresses()
        self._lookup = lookup or Resolver()
        self._failures = FailureLog(log)
        self.node_addresses: frozenset[IPAddress] = frozenset()
        """The addresses in this agent's certificate; set with each link."""

    def configure(self, allow: AllowList, *, dial_timeout: float, max_dials: int) -> None:
        """Obey these from now on. What is open goes on; what is being dialled is held against `allow` too,
        unless it is past that.
        """
        self._allow = allow
        self._timeout = dial_timeout
        self._places.change(max_dials)
        # What is refused from here on is news.
        self._failures.over()

    def on_request(self, incoming: IncomingStream) -> None:
        """Start serving a request, or refuse it. Never waits, never raises: the link's reader calls it."""
        try:
            sock = self._dial_at_once(incoming.host, incoming.port)
            if sock is not None:
                self._join(incoming, sock)
                return
        except OpenFailed as failed:
            self._refuse(incoming, failed.cause, failed.detail)
            return
        except Exception:
            log.exception("a stream failed")
            self._fail(incoming)
            return
        self._status.dialling += 1
        self._nursery.start_soon(self._serve, incoming)

    async def _serve(self, incoming: IncomingStream) -> None:
        try:
            try:
                sock = await self._dial_unless_cancelled(incoming)
            finally:
                self._status.dialling -= 1
            if sock is not None:
                self._join(incoming, sock)
        except OpenFailed as failed:
            self._refuse(incoming, failed.cause, failed.detail)
        except Exception:
            log.exception("a stream failed")
            self._fail(incoming)

    def _fail(self, incoming: IncomingStream) -> None:
        # One stream's trouble must never become the agent's.
        incoming.refuse(Cause.FAILED, "internal error in the agent; its log has more")

    async def _dial_unless_cancelled(self, incoming: IncomingStream) -> socket.socket | None:
        with incoming.scope:
            return await self.dial(incoming.host, incoming.port)
        return None

    def _join(self, incoming: IncomingStream, sock: socket.socket) -> None:
        try:
            stream = incoming.answer()
        except OpenFailed:  # the server gave up at the last moment
            close_with_reset(sock)
            return
        self._status.opened += 1
        self._status.streams += 1
        OwnedSplice(
            self._owner, stream, sock, self._ended, is_pooled=Http2Offer(), caller_is_far=True
        ).start()

    def _ended(self, _result: SpliceResult) -> None:
        self._status.streams -= 1

    def _dial_at_once(self, host: str, port: int) -> socket.socket | None:
        """A connection to this machine itself, where the kernel answers at once; None if that takes time.

        Raises OpenFailed.
        """
        try:
            address = unmapped(ipaddress.ip_address(host))
        except ValueError:
            return None
        if not (address.is_loopback or self._own.knows(address)):
            return None
        self._permitted(host, [address], port)
        try:
            return connect_at_once(address, port)
        except OSError as error:
            raise _failure(address, port, error) from None

    async def dial(self, host: str, port: int) -> socket.socket:
        """Resolve, check and connect, within the dial timeout; a plain non-blocking socket.

        Raises OpenFailed. Cancelled, it leaves nothing behind.
        """
        target, timeout = format_endpoint(host, port), self._timeout
        cause, doing = Cause.NO_ROOM, f"waiting for other dials to {target}"
        with trio.move_on_after(timeout) as scope:
            async with self._places.take(host, port):
                cause, doing = Cause.UNRESOLVABLE, f"resolving {host}"
                try:
                    found = await self._lookup(host)
                except UnresolvableError as error:
                    raise OpenFailed(Cause.UNRESOLVABLE, str(error)) from None
                cause, doing = Cause.TIMED_OUT, f"dialling {target}"
                return await self._connect_any(self._permitted(host, found, port), port, scope.deadline)
        raise OpenFailed(cause, f"{doing}: no answer within {timeout:g} s")

    def _permitted(self, host: str, found: Iterable[IPAddress], port: int) -> list[IPAddress]:
        """Return the addresses that may be dialled; raises OpenFailed if there is none."""
        refusals: list[OpenFailed] = []
        permitted = []
        by_machine = self._by_machine and not self.node_addresses
        for address in found:
            nodes = self.node_addresses
            if by_machine and self._is_here(address):
                nodes = frozenset({address})
            text = self._allow.refusal(host, address, port, nodes)
            if text is not None and by_machine and not self._allow.refusal(host, address, port, {address}):
                text = f"{address} is to be dialled as this machine's, which does not have it now"
                refusals.append(OpenFailed(Cause.NOT_ON_THIS_NODE, text))
            elif text is not None:
                refusals.append(OpenFailed(Cause.NOT_ALLOWED, text))
            elif address in self.node_addresses and not self._is_here(address):
                text = f"{address} is in this node's certificate, but this machine does not have it now"
                refusals.append(OpenFailed(Cause.NOT_ON_THIS_NODE, text))
            else:
                permitted.append(address)
        if not permitted:
            raise refusals[0] if refusals else OpenFailed(Cause.UNRESOLVABLE, f"{host} has no address")
        return permitted

    def _is_here(self, address: IPAddress) -> bool:
        try:
            return self._own.has(address)
        except OSError as error:
            # Not knowing is no permission: after a DHCP change the address may be a neighbour's.
            cause = Cause.NO_ROOM if _CAUSES.get(error.errno or 0) is Cause.NO_ROOM else Cause.FAILED
            text = f"this machine's addresses can't be listed: {describe(error)}"
            raise OpenFailed(cause, text) from None

    async def _connect_any(self, addresses: list[IPAddress], port: int, deadline: float) -> socket.socket:
        """Connect to the first address that answers; each gets its share of the time that is left."""
        failures: list[OpenFailed] = []
        for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            target = format_endpoint(str(address), port)
            share = (deadline - trio.current_time()) / left
            with trio.move_on_after(share if left > 1 else math.inf):
                try:
                    return await connect_tcp(address, port)
                except OSError as error:
                    failures.append(_failure(address, port, error))
                    continue
            failures.append(OpenFailed(Cause.TIMED_OUT, f"{target}: no answer within {share:.0f} s"))
        raise min(failures, key=_rank)

    def _refuse(self, incoming: IncomingStream, cause: Cause, detail: str) -> None:
        self._status.refused[cause.value] += 1
        log.debug("refused a stream to %s:%d: %s: %s", incoming.host, incoming.port, cause.value, detail)
        # What a target does is its caller's business; these concern whoever runs the agent.
        if cause in {Cause.NOT_ALLOWED, Cause.NOT_ON_THIS_NODE, Cause.NO_ROOM, Cause.FAILED}:
            self._failures.failed(cause.value, f"a stream was refused: {detail}")
        incoming.refuse(cause, detail)


def _failure(address: IPAddress, port: int, error: OSError) -> OpenFailed:
    cause, text = _CAUSES.get(error.errno or 0, Cause.FAILED), describe(error)
    return OpenFailed(cause, f"{format_endpoint(str(address), port)}: {text[:1].lower()}{text[1:]}")


def _rank(failure: OpenFailed) -> int:
    return _TELLING.index(failure.cause) if failure.cause in _TELLING else len(_TELLING)
