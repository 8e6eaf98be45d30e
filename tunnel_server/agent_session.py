"""What one agent process and this server share, and the links that carry it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from tunnel_server.spreading import Spreading
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.stream import TunnelStream, open_stream

if TYPE_CHECKING:
    from collections.abc import Iterable

    from certs.addresses import IPAddress
    from tunnel_server.acceptance import Watched
    from tunnel_wire.link import Link
    from tunnel_wire.opener import OpenerConnection
    from tunnel_wire.session import Session, Stream

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
    since: float = field(default_factory=trio.current_time)
    """The end of its TLS handshake."""

    @property
    def ending(self) -> bool:
        """Its certificate is accepted no longer, and the agent is being told."""
        return self.watched is not None and self.watched.ended

    @property
    def serial(self) -> str:
        """Of its certificate."""
        return self.watched.serial if self.watched is not None else ""


@dataclass(eq=False)
class AgentSession:
    """What one agent process and this server share."""

    session: Session
    links: dict[int, AgentLink] = field(default_factory=dict)
    suspended_by: list[Watched] = field(default_factory=list)
    """The certificates of the links that its streams were on before they were suspended."""

    spreading: Spreading | None = None
    """Where there have been several links."""

    @property
    def usable(self) -> list[AgentLink]:
        """The links on which streams are opened.

        Those with a certificate that was renewed are not among them: they stay, and go when they are idle.
        """
        links = [each for each in self.links.values() if not each.connection.draining and not each.link.ended]
        return [link for link in links if link.serial == links[-1].serial]

    def emptiest(self) -> AgentLink | None:
        """The link for a new stream."""
        links = self.usable
        if len(links) > 1 and self.spreading is not None:
            return self.spreading.emptiest(links)
        return links[-1] if links else None

    def spread(self) -> None:
        """There is one more link: where there are several, see to it that each carries its part."""
        if len(self.links) > 1 and (self.spreading is None or self.spreading.over):
            self.spreading = Spreading(self)

    def resume(self, link: AgentLink) -> None:
        """Have `link` go on with the streams of links that have ended."""
        if not link.connection.resumes:
            return
        alive = [
            each.connection
            for each in self.links.values()
            if not each.link.ended or each.link.is_last  # whose streams end with it
        ]
        self.move(
            [stream for stream in self.session.streams.values() if stream.connection not in alive], link
        )

    def move(self, streams: Iterable[Stream], link: AgentLink) -> None:
        """Have `link` go on with these streams, which have another link, or none."""
        link.connection.resume(
            streams,
            trio.current_time(),
            [index for index, each in self.links.items() if not each.link.ended],
        )
        link.link.pump()

    async def open(self, host: str, port: int) -> TunnelStream:
        """Have the agent dial `host`:`port`. Raises OpenFailed; put a deadline around it."""
        if (link := self.emptiest()) is not None:
            return await open_stream(link.connection, self.session, host, port)
        raise OpenFailed(Cause.AWAY, "the agent's link is being retired")

    def ask(self, host: str, port: int) -> Stream | None:
        """The same without waiting: a stream that is to have a face, and to be flushed; None without a link.

        Raises OpenFailed.
        """
        if (link := self.emptiest()) is not None:
            return link.connection.open_stream(self.session, host, port)
        return None

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
