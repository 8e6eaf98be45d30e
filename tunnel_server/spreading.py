"""Which of a node's links carries which stream, where it has several: bulk apart from the rest, and nothing
on one that may be dead.

A keystroke that shares a connection with a download waits behind what the kernel has of it already, and for
each lost packet of it. What is bulk shows only once a stream runs. Then the others are moved off its link,
which is cheap, since nearly nothing of theirs is on its way; bulk itself only from where it is beside others
while another link has bulk, too.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import trio

from tunnel_wire.stream_state import State
from tunnel_wire.timers import Timer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunnel_server.agent_session import AgentLink, AgentSession
    from tunnel_wire.carrier import Carrier
    from tunnel_wire.session import Stream

_LOOK = 1.0
"""Seconds between two looks."""
_BUSY = 64 * 1024
"""Bytes of a stream, both ways, between two looks, which nobody types or reads."""
_VERY_BUSY = 1 << 20
"""So many are bulk at once; of the others it shows at the second look."""
_BULK, _CALM = 2, 8
"""Looks at which a stream was busy, for it to be bulk; at which it was not, for it to be bulk no longer."""
_DOUBT = 1.0
"""Seconds of silence while something is asked, after which a link gets nothing new. It may merely be slow."""
_SILENT = 3.0
"""The same, after which another link goes on with its streams: it is given up only after 12, and a link that
a NAT has forgotten looks like the emptiest until then.
"""
_QUIET = 1.0
"""Seconds after which a link is asked for a sign of life when it is given a stream."""


class Spreading:
    """Watches the streams of a session for as long as it has several links; `over` then."""

    def __init__(self, session: AgentSession) -> None:
        self.over = False
        self._session = session
        self._moved: dict[Stream, int] = {}
        """Bytes that each had sent and received at the last look."""
        self._busy: dict[Stream, int] = {}
        """At how many looks each was busy, less those at which it was not."""
        self._bulk: set[Stream] = set()
        self._timer = Timer(self._on_time, self._end)
        self._timer.set(trio.current_time() + _LOOK)

    def emptiest(self, links: Sequence[AgentLink]) -> AgentLink:
        """The one of these links for a new stream."""
        now = trio.current_time()
        bulk = {stream.connection for stream in self._bulk}
        link = min(
            links,
            key=lambda link: (
                link.connection.unanswered(now) > _DOUBT,
                link.connection in bulk,
                link.connection.load,
            ),
        )
        if now - link.connection.last_received > _QUIET:
            link.connection.probe(now)
        return link

    def _end(self) -> None:
        self.over = True
        self._timer.close()

    def _on_time(self) -> None:
        links = self._session.usable
        if len(links) < 2:
            self._end()
            return
        self._timer.set(trio.current_time() + _LOOK)
        self._look()
        now = trio.current_time()
        links = [link for link in links if link.connection.resumes]
        sound = [link for link in links if link.connection.unanswered(now) <= _DOUBT]
        if sound and len(sound) < len(links):
            self._leave([link for link in links if link.connection.unanswered(now) > _SILENT], sound)
        if len(sound) > 1 and self._bulk:
            self._part(sound)

    def _leave(self, silent: Sequence[AgentLink], sound: Sequence[AgentLink]) -> None:
        """Have a sound link go on with what silent ones carry."""
        left = {link.connection for link in silent}
        streams = [
            stream
            for stream in self._session.session.streams.values()
            if stream.connection in left and stream.resumable
        ]
        if streams:
            self._session.move(streams, self.emptiest(sound))

    def _look(self) -> None:
        """Find out which streams are bulk."""
        moved, busy = self._moved, self._busy
        self._moved, self._busy = {}, {}
        for stream in self._session.session.streams.values():
            if not stream.resumable:
                continue
            self._moved[stream] = so_far = stream.outgoing.sent + stream.incoming.received
            size = so_far - moved.get(stream, so_far)
            looks = busy.get(stream, 0) + (1 if size >= _BUSY else -1)
            if size >= _VERY_BUSY:
                looks = _CALM
            if looks > 0:
                self._busy[stream] = min(looks, _CALM)
        self._bulk = {
            stream for stream, looks in self._busy.items() if looks >= _BULK or stream in self._bulk
        }

    def _part(self, links: Sequence[AgentLink]) -> None:
        """Move what shares a link with bulk."""
        carried: dict[Carrier | None, list[Stream]] = {}
        for stream in self._moved:
            if stream.state is State.OPEN:
                carried.setdefault(stream.connection, []).append(stream)
        bulk = Counter(stream.connection for stream in self._bulk)
        of_bulk = max(links, key=lambda link: bulk[link.connection])
        if not bulk[of_bulk.connection]:
            return
        others = [link for link in links if link is not of_bulk]
        moving: dict[AgentLink, list[Stream]] = {link: [] for link in links}
        for stream in carried.get(of_bulk.connection, ()):
            if stream not in self._bulk:
                to = min(others, key=lambda link: link.connection.load + len(moving[link]))
                moving[to].append(stream)
        for link in others:
            here = carried.get(link.connection, [])
            if moving[link] or not self._bulk.issuperset(here):
                moving[of_bulk] += [stream for stream in here if stream in self._bulk]
        for link, streams in moving.items():
            if streams:
                self._session.move(streams, link)
