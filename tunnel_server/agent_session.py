"""What one agent process and this server share, and the links that carry it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.stream import TunnelStream, open_stream

if TYPE_CHECKING:
    from certs.addresses import IPAddress
    from tunnel_server.acceptance import Watched
    from tunnel_wire.link import Link
    from tunnel_wire.opener import OpenerConnection
    from tunnel_wire.session import Session

_PROBE_TIME = 2.0
"""Seconds that an old session's link gets to show life before a new session of the same node replaces it."""
_PROBE_POLL = 0.05


@dataclass(eq=False)
class AgentLink:
    """One link of a session, as the server holds it."""

    link: Link
    connection: OpenerConnection
    remote: str
    """The agent's address as seen from here, `host:port`: its NAT's, usually."""
    addresses: frozenset[IPAddress]
    """From the certificate."""
    watched: Watched | None = None
    """Its certificate; None if that was refused."""
    version: str = ""
    clock_ahead: float | None = None
    """Seconds by which the agent's clock was ahead of ours when it said hello; None if it did not say."""


@dataclass(eq=False)
class AgentSession:
    """What one agent process and this server share."""

    session: Session
    links: dict[int, AgentLink] = field(default_factory=dict)
    suspended_by: list[Watched] = field(default_factory=list)
    """The certificates of the links that its streams were on before they were suspended."""

    @property
    def usable(self) -> bool:
        """Whether a stream can be opened: some link is neither ended nor being retired."""
        return any(not each.connection.draining and not each.link.ended for each in self.links.values())

    def newest(self) -> AgentLink | None:
        """The link for new streams: others stay with a certificate that was renewed, and go when idle."""
        for link in reversed(self.links.values()):
            if not link.connection.draining and not link.link.ended:
                return link
        return None

    def resume(self, link: AgentLink) -> None:
        """Have `link` go on with the streams of links that have ended."""
        if not link.connection.resumes:
            return
        alive = [
            each.connection
            for each in self.links.values()
            if not each.link.ended or each.link.is_last  # whose streams end with it
        ]
        link.connection.resume(
            [stream for stream in self.session.streams.values() if stream.connection not in alive],
            trio.current_time(),
            [index for index, each in self.links.items() if not each.link.ended],
        )
        link.link.pump()

    async def open(self, host: str, port: int) -> TunnelStream:
        """Have the agent dial `host`:`port`. Raises OpenFailed; put a deadline around it."""
        if (link := self.newest()) is not None:
            return await open_stream(link.connection, self.session, host, port)
        raise OpenFailed(Cause.AWAY, "the agent's link is being retired")

    async def answers(self, patience: float = _PROBE_TIME) -> bool:
        """Whether any link shows life, asked by PING, within `patience` seconds."""
        asked = trio.current_time()
        for link in self.links.values():
            link.connection.probe(asked)
            link.link.pump()
        with trio.move_on_after(patience):
            while self.links:
                if any(link.connection.last_received > asked for link in self.links.values()):
                    return True
                await trio.sleep(_PROBE_POLL)
        return False
