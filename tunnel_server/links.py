"""One link with an agent, from the end of its TLS handshake to its own end."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

import trio

from certs.identity import Role
from certs.validity import Validity
from tunnel_daemon.logs import bind
from tunnel_server.peers import Peer
from tunnel_server.registry import AgentLink, Refused
from tunnel_wire.hello import DrainReason, Hello
from tunnel_wire.link import Link, LinkEnded
from tunnel_wire.opener import OpenerConnection

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from certs.addresses import IPAddress
    from tunnel_server.registry import Registry
    from tunnel_server.revocation import Revocations
    from tunnel_wire.limits import WireLimits
    from tunnel_wire.tls import TlsPump

log = logging.getLogger(__name__)

_CLOCK_CHECK = 60.0
"""Seconds between two looks at the clock on the wall."""
_REPLACING = 4
"""Links of one node beyond links-per-node: new ones come before old ones are known to be gone."""
_FAREWELL = 1.0
"""Seconds that a refused agent gets to read why."""
_CUT = 0.1
"""The same for one whose certificate was just revoked: until then its streams go on."""


@dataclass(frozen=True)
class _Agent:
    """Who is at the other end of a link."""

    name: str
    remote: str
    addresses: frozenset[IPAddress]
    certificate: Mapping[str, object]
    expires: float
    """Seconds since the epoch."""
    refusal: Refused | None
    """Why its certificate, although ours, is not accepted."""


class Links:
    """Runs the links of one server process."""

    def __init__(
        self,
        registry: Registry,
        *,
        domain: str,
        instance: str,
        version: str,
        limits: WireLimits,
        revocations: Revocations | None = None,
    ) -> None:
        self._registry = registry
        self._domain = domain
        self._hello = Hello(version, instance=instance)
        self._limits = limits
        self._revocations = revocations
        self._running: set[Link] = set()
        self._links_of: Counter[str] = Counter()

    async def serve(self, sock: socket.socket, pump: TlsPump, remote: str) -> None:
        """Carry one link until it ends; closes the socket. Raises nothing of ours.

        A peer without a verified node certificate is cut off at once. One whose certificate is revoked, or
        refused by this host's clock, is told so.
        """
        peer = Peer.of(pump, (remote, 0))
        try:
            identity = peer.identity
            if identity.role is not Role.NODE or identity.domain != self._domain:
                raise ValueError(f"{identity} is no node of spiffe://{self._domain}")
            assert peer.certificate is not None
            agent = _Agent(
                identity.name,
                remote,
                _addresses(peer.certificate),
                peer.certificate,
                Validity.from_peer_certificate(peer.certificate).not_after,
                self._refusal(peer),
            )
        except ValueError as exc:
            log.warning("a link from %s was refused: %s", remote, exc)
            sock.close()
            return
        if self._links_of[agent.name] >= self._registry.links_per_node + _REPLACING:
            log.warning("a link of %s from %s was refused: it has too many", agent.name, remote)
            sock.close()
            return
        self._links_of[agent.name] += 1
        try:
            with bind(node=identity.name, remote=remote):
                await self._run(sock, pump, agent)
        finally:
            self._links_of[agent.name] -= 1
            if not self._links_of[agent.name]:
                del self._links_of[agent.name]

    def _refusal(self, peer: Peer) -> Refused | None:
        if problem := peer.time_problem():
            return Refused(DrainReason.EXPIRED, problem)
        if self._revocations is not None and peer.certificate is not None:
            why = self._revocations.check_certificate(peer.certificate)
            if why is not None:
                return Refused(DrainReason.REVOKED, why)
        return None

    async def _run(self, sock: socket.socket, pump: TlsPump, agent: _Agent) -> None:
        hellos: list[Hello | None] = []
        connection = OpenerConnection(self._hello, now=trio.current_time(), limits=self._limits)
        link = Link(sock, pump, connection, on_hello=hellos.append)
        self._running.add(link)
        try:
            async with trio.open_nursery() as nursery:
                if agent.refusal is None:
                    nursery.start_soon(_end_at, link, agent.expires)
                    nursery.start_soon(self._end_when_revoked, link, agent)
                nursery.start_soon(self._introduce, link, connection, agent, hellos)
                try:
                    await link.run()
                except LinkEnded as ended:
                    log.log(logging.INFO if ended.clean else logging.WARNING, "the link ended: %s", ended)
                nursery.cancel_scope.cancel()
        finally:
            self._running.discard(link)

    async def _introduce(
        self, link: Link, connection: OpenerConnection, agent: _Agent, hellos: list[Hello | None]
    ) -> None:
        """Wait for hello, register, and unregister when the link is over."""
        with trio.move_on_after(self._limits.hello_timeout):
            await link.hello_received.wait()
        hello = hellos[0] if hellos else None
        if hello is None or not hello.session or hello.node != agent.name:
            said = "no hello" if hello is None else f'hello as "{hello.node}"'
            log.warning("%s from a link with the certificate of %s", said, agent.name)
            link.close(f"refused: {said}")
            return
        try:
            if agent.refusal is not None:
                log.warning("a link is refused: %s", agent.refusal)
                raise agent.refusal
            node = self._registry.node(agent.name)
            held = AgentLink(link, connection, agent.remote, agent.addresses)
            session = await self._registry.adopt(node, hello, held)
        except Refused as refused:
            await _retire(link, refused.reason, refused.detail, _FAREWELL, f"refused: {refused.detail}")
            return
        log.info("connected", extra={"version": hello.version, "link": hello.link})
        try:
            await trio.sleep_forever()
        finally:
            self._registry.remove(node, session, held)

    async def _end_when_revoked(self, link: Link, agent: _Agent) -> None:
        if self._revocations is None:
            return
        reasons: list[str] = []
        revoked = trio.Event()

        def end(why: str) -> None:
            reasons.append(why)
            revoked.set()

        with self._revocations.watch(agent.certificate, end):
            await revoked.wait()
        await _retire(link, DrainReason.REVOKED, reasons[0], _CUT, reasons[0])

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
    expired = "the node's certificate has expired"
    await _retire(link, DrainReason.EXPIRED, expired, _FAREWELL, expired)


async def _retire(link: Link, reason: DrainReason, detail: str, patience: float, ending: str) -> None:
    """Say why, and end the link after `patience` seconds."""
    connection = link.connection
    assert isinstance(connection, OpenerConnection)
    connection.drain(reason, detail)
    link.pump()
    await trio.sleep(patience)
    link.close(ending)


def _addresses(certificate: Mapping[str, object]) -> frozenset[IPAddress]:
    names = certificate.get("subjectAltName", ())
    assert isinstance(names, tuple)
    return frozenset(ip_address(value) for kind, value in names if kind == "IP Address")
