"""One link with an agent, from the end of its TLS handshake to its own end."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

import trio

from certs.addresses import parse_endpoint
from certs.identity import Role
from tunnel_daemon.failure_log import FailureLog
from tunnel_daemon.logs import bind
from tunnel_server.agent_session import AgentLink
from tunnel_server.heap import note_link_ended
from tunnel_server.peers import Peer
from tunnel_server.registry import Refused
from tunnel_wire.hello import OPTIMISTIC, RESUME, DrainReason, Hello
from tunnel_wire.link import Link, LinkEnded
from tunnel_wire.opener import OpenerConnection
from tunnel_wire.rates import Allowance
from tunnel_wire.stream_state import EndCause

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from certs.addresses import IPAddress
    from tunnel_server.acceptance import Acceptance, Ending
    from tunnel_server.attempts import Attempts
    from tunnel_server.registry import Registry
    from tunnel_wire.limits import WireLimits
    from tunnel_wire.tls import TlsPump

log = logging.getLogger(__name__)

_REPLACING = 4
"""Links of one node beyond links-per-node: new ones come before old ones are known to be gone."""
_OFFENCES_AT_ONCE = 30
_OFFENCES_A_SECOND = 0.5
"""Links of one node that break the protocol, at once and in the long run; beyond that it gets none."""
_FAREWELL = 1.0
"""Seconds that an agent gets to read why it is refused, or its link ended."""
_CUT = 0.1
"""The same for one whose certificate was just revoked: until then its streams go on."""


@dataclass(frozen=True)
class _Agent:
    """Who is at the other end of a link."""

    name: str
    remote: str
    addresses: frozenset[IPAddress]
    peer: Peer
    refusal: Ending | None
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
        acceptance: Acceptance,
        attempts: Attempts | None = None,
    ) -> None:
        self._registry = registry
        self._domain = domain
        grace = int(limits.resume_grace)
        capabilities = frozenset({OPTIMISTIC, RESUME} if grace else {OPTIMISTIC})
        self._hello = Hello(
            version,
            instance=instance,
            capabilities=capabilities,
            grace=grace,
            grace_pooled=math.ceil(limits.resume_grace_pooled) if grace else None,
        )
        self._limits = limits
        self._acceptance = acceptance
        self._attempts = attempts
        self._running: set[Link] = set()
        self._leaving = ""
        """Why this server takes no more links."""
        self._links_of: Counter[str] = Counter()
        self._offences: dict[str, Allowance] = {}
        """By node; those that never broke the protocol have none."""
        self._offenders = FailureLog(log)
        acceptance.on_change.append(self._end_suspended)

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
                peer,
                self._acceptance.refusal(peer),
            )
        except ValueError as exc:
            log.warning("a link from %s was refused: %s", remote, exc)
            sock.close()
            return
        if self._links_of[agent.name] >= self._registry.links_per_node + _REPLACING:
            log.warning("a link of %s from %s was refused: it has too many", agent.name, remote)
            sock.close()
            return
        offences = self._offences.get(agent.name)
        if offences is not None and offences.left(trio.current_time()) < 1:
            why = f"too many of its links have broken the protocol; `tunnelctl revoke {agent.name}` ends that"
            text = f"a link of {agent.name} from {remote} was refused: {why}"
            self._offenders.failed(agent.name, text)
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

    async def _run(self, sock: socket.socket, pump: TlsPump, agent: _Agent) -> None:
        hellos: list[Hello | None] = []
        connection = OpenerConnection(self._hello, now=trio.current_time(), limits=self._limits)
        link = Link(sock, pump, connection, on_hello=hellos.append)
        self._running.add(link)
        try:
            async with trio.open_nursery() as nursery:
                with ExitStack() as stack:
                    watched = None
                    if agent.refusal is None:
                        watched = stack.enter_context(
                            self._acceptance.watch(
                                agent.peer,
                                lambda ending: nursery.start_soon(_end, link, ending),
                                lambda: self._vouched(agent.name, link),
                            )
                        )
                    held = AgentLink(link, connection, agent.remote, agent.addresses, watched)
                    nursery.start_soon(self._introduce, held, agent, hellos)
                    try:
                        await link.run()
                    except LinkEnded as ended:
                        level = logging.INFO if ended.clean else logging.WARNING
                        log.log(level, "the link ended: %s", ended)
                        if connection.violated:
                            self._note_offence(agent.name)
                        if self._attempts is not None:
                            self._attempts.ended(agent.name, parse_endpoint(agent.remote, 0)[0], str(ended))
                nursery.cancel_scope.cancel()
        finally:
            self._running.discard(link)
            note_link_ended(len(self._running))

    def _note_offence(self, name: str) -> None:
        now = trio.current_time()
        if name not in self._offences:
            self._offences[name] = Allowance(_OFFENCES_A_SECOND, _OFFENCES_AT_ONCE, now)
        self._offences[name].spend(now)

    def _vouched(self, name: str, link: Link) -> bool:
        """Whether a link with an accepted certificate is of the same session.

        Streams stay on the link that they began on: one of an old root lives on until they have ended.
        """
        node = self._registry.nodes.get(name)
        links = list(node.agent.links.values()) if node is not None and node.agent is not None else []
        return any(each.link is link for each in links) and any(
            each.link is not link and self.accepted(each) for each in links
        )

    def accepted(self, link: AgentLink) -> bool:
        """Whether the link stands, and by a certificate that is good by itself."""
        return not link.link.ended and link.watched is not None and self._acceptance.accepts(link.watched)

    async def _introduce(self, held: AgentLink, agent: _Agent, hellos: list[Hello | None]) -> None:
        """Wait for hello, register, and unregister when the link is over."""
        link = held.link
        with trio.move_on_after(self._limits.hello_timeout):
            await link.hello_received.wait()
        hello = hellos[0] if hellos else None
        if hello is not None and hello.time is not None:
            held.clock_ahead = hello.time - time.time()
        if hello is None or not hello.session or hello.node != agent.name:
            said = "no hello" if hello is None else f'hello as "{hello.node}"'
            log.warning("%s from a link with the certificate of %s", said, agent.name)
            self._note_offence(agent.name)
            link.close(f"refused: {said}")
            return
        try:
            if agent.refusal is not None:
                log.warning("a link is refused: %s", agent.refusal.why)
                raise Refused(agent.refusal.reason, agent.refusal.why)
            if held.ending:
                return  # it has been told, and is closed: what comes now makes nobody known again
            if self._leaving:
                raise Refused(DrainReason.SHUTDOWN, self._leaving)
            node = self._registry.node(agent.name)
            session = await self._registry.adopt(node, hello, held)
        except Refused as refused:
            if held.ending:
                return
            await _retire(link, refused.reason, refused.detail, _FAREWELL, f"refused: {refused.detail}")
            return
        log.info("connected", extra={"version": hello.version, "link": hello.link})
        try:
            await trio.sleep_forever()
        finally:
            self._registry.remove(node, session, held)

    def _end_suspended(self) -> None:
        """What waits for a link, and came on one with a certificate that is revoked now, waits in vain."""
        for node in self._registry.nodes.values():
            former = node.former
            if former is None or not former.session.suspended:
                continue
            whys = map(self._acceptance.revocation, former.suspended_by)
            if why := next(filter(None, whys), None):
                log.warning("streams that waited for a link end: %s", why)
                former.session.end_suspended(EndCause.REVOKED)

    def drain(self, detail: str) -> None:
        """Tell every agent that this server goes away, and take no more links. Open streams go on."""
        self._leaving = detail
        # A successor takes so many handshakes a second, and calls wait for them: first those that are called.
        for link in sorted(self._running, key=lambda each: -each.connection.load):
            connection = link.connection
            assert isinstance(connection, OpenerConnection)
            if link.hello_received.is_set() and not link.ended:
                connection.drain(DrainReason.SHUTDOWN, detail)
                link.pump()


async def _end(link: Link, ending: Ending) -> None:
    patience = _CUT if ending.reason is DrainReason.REVOKED else _FAREWELL
    await _retire(link, ending.reason, ending.why, patience, ending.why)


async def _retire(link: Link, reason: DrainReason, detail: str, patience: float, ending: str) -> None:
    """Say why, and end the link after `patience` seconds."""
    connection = link.connection
    assert isinstance(connection, OpenerConnection)
    if reason is not DrainReason.EXPIRED:
        # The agent, or the network, may end it sooner.
        link.be_last()
    connection.drain(reason, detail)
    link.pump()
    await trio.sleep(patience)
    link.close(ending)


def _addresses(certificate: Mapping[str, object]) -> frozenset[IPAddress]:
    names = certificate.get("subjectAltName", ())
    assert isinstance(names, tuple)
    return frozenset(ip_address(value) for kind, value in names if kind == "IP Address")
