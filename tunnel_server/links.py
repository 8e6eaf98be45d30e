"""One link with an agent, from the end of its TLS handshake to its own end."""

from __future__ import annotations

import logging
import ssl
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING

import trio

from certs.identity import Identity, Role
from tunnel_daemon.logs import bind
from tunnel_server.registry import AgentLink, Refused
from tunnel_wire.hello import DrainReason, Hello
from tunnel_wire.link import Link, LinkEnded
from tunnel_wire.opener import OpenerConnection

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from certs.addresses import IPAddress
    from tunnel_server.registry import Registry
    from tunnel_wire.limits import WireLimits
    from tunnel_wire.tls import TlsPump

log = logging.getLogger(__name__)

_CLOCK_CHECK = 60.0
"""Seconds between two looks at the clock on the wall."""
_FAREWELL = 1.0
"""Seconds that a refused agent gets to read why."""


class Links:
    """Runs the links of one server process."""

    def __init__(
        self, registry: Registry, *, domain: str, instance: str, version: str, limits: WireLimits
    ) -> None:
        self._registry = registry
        self._domain = domain
        self._hello = Hello(version, instance=instance)
        self._limits = limits
        self._running: set[Link] = set()

    async def serve(self, sock: socket.socket, pump: TlsPump, remote: str) -> None:
        """Carry one link until it ends; closes the socket. Raises nothing of ours.

        A peer without a verified node certificate is cut off at once.
        """
        certificate = pump.peer_certificate
        try:
            identity = Identity.from_peer_certificate(certificate)
            if identity.role is not Role.NODE or identity.domain != self._domain:
                raise ValueError(f"{identity} is no node of spiffe://{self._domain}")
            assert certificate is not None
            addresses = _addresses(certificate)
            expires = ssl.cert_time_to_seconds(certificate["notAfter"])
        except ValueError as exc:
            log.warning("a link from %s was refused: %s", remote, exc)
            sock.close()
            return
        with bind(node=identity.name, remote=remote):
            await self._run(sock, pump, identity.name, remote, addresses, expires)

    async def _run(
        self,
        sock: socket.socket,
        pump: TlsPump,
        name: str,
        remote: str,
        addresses: frozenset[IPAddress],
        expires: float,
    ) -> None:
        hellos: list[Hello | None] = []
        connection = OpenerConnection(self._hello, now=trio.current_time(), limits=self._limits)
        link = Link(sock, pump, connection, on_hello=hellos.append)
        self._running.add(link)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_end_at, link, expires)
                nursery.start_soon(self._introduce, link, connection, name, remote, addresses, hellos)
                try:
                    await link.run()
                except LinkEnded as ended:
                    log.log(logging.INFO if ended.clean else logging.WARNING, "the link ended: %s", ended)
                nursery.cancel_scope.cancel()
        finally:
            self._running.discard(link)

    async def _introduce(
        self,
        link: Link,
        connection: OpenerConnection,
        name: str,
        remote: str,
        addresses: frozenset[IPAddress],
        hellos: list[Hello | None],
    ) -> None:
        """Wait for hello, register, and unregister when the link is over."""
        with trio.move_on_after(self._limits.hello_timeout):
            await link.hello_received.wait()
        hello = hellos[0] if hellos else None
        if hello is None or not hello.session or hello.node != name:
            said = "no hello" if hello is None else f'hello as "{hello.node}"'
            log.warning("%s from a link with the certificate of %s", said, name)
            link.close(f"refused: {said}")
            return
        node = self._registry.node(name)
        held = AgentLink(link, connection, remote, addresses)
        try:
            agent = await self._registry.adopt(node, hello, held)
        except Refused as refused:
            connection.drain(refused.reason, refused.detail)
            link.pump()
            await trio.sleep(_FAREWELL)
            link.close(f"refused: {refused.detail}")
            return
        log.info("connected", extra={"version": hello.version, "link": hello.link})
        try:
            await trio.sleep_forever()
        finally:
            self._registry.remove(node, agent, held)

    def drain(self, detail: str) -> None:
        """Tell every agent that this server goes away."""
        for link in list(self._running):
            connection = link.connection
            assert isinstance(connection, OpenerConnection)
            if link.hello_received.is_set() and not link.ended:
                connection.drain(DrainReason.SHUTDOWN, detail)
                link.pump()


async def _end_at(link: Link, expires: float) -> None:
    """A link does not outlive its certificate: the clock on the wall decides, which may be set meanwhile."""
    while (left := expires - time.time()) > 0:  # noqa: ASYNC110 - no event comes when a clock is set
        await trio.sleep(min(left, _CLOCK_CHECK))
    connection = link.connection
    assert isinstance(connection, OpenerConnection)
    connection.drain(DrainReason.EXPIRED, "the node's certificate has expired")
    link.pump()
    await trio.sleep(_FAREWELL)
    link.close("the node's certificate has expired")


def _addresses(certificate: Mapping[str, object]) -> frozenset[IPAddress]:
    names = certificate.get("subjectAltName", ())
    assert isinstance(names, tuple)
    return frozenset(ip_address(value) for kind, value in names if kind == "IP Address")
