"""How a server leaves: it opens no more calls, tells its agents, and gives the open calls time to end.

Where another server has taken over, callers and agents find that one at the same addresses. What has begun
here ends here.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from tunnel_wire.session import EndCause

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunnel_server.calls import Calls
    from tunnel_server.links import Links
    from tunnel_server.registry import Registry
    from tunnel_wire.session import Session

log = logging.getLogger(__name__)

_SETTLING = 0.05
"""Seconds for who was let in last to say what it wants."""
_OPENING = 2.0
"""Seconds at most for calls that are being opened: an agent that is told opens none any more."""
_FAREWELL = 0.2
"""Seconds at least between telling the agents that this server goes, and going."""
_POLL = 0.05


async def leave(calls: Calls, links: Links, registry: Registry, *, why: str, patience: float) -> None:
    """Return when the last call has ended, after `patience` seconds at most. Nobody is let in any more.

    A connection that many requests share (kube-apiserver's HTTP/2) is not waited for: it has no end of its
    own. Cancelled, what is open is open still.
    """
    await trio.sleep(_SETTLING)
    with trio.move_on_after(_OPENING):
        while calls.opening:  # noqa: ASYNC110 - an event would cost each call
            await trio.sleep(_POLL)
    calls.closed = why
    for session in _sessions(registry):
        # The agent goes to another server: it will not come back for them.
        session.suspended.grace = 0.0
        session.end_suspended(EndCause.SESSION_OVER)
    links.drain(why)
    if calls.open:
        log.info("%s: %d calls are open, they get %g s to end", why, calls.open, patience)
    with trio.move_on_after(patience):
        while calls.open > _pooled(registry):  # noqa: ASYNC110
            await trio.sleep(_POLL)
    await trio.sleep(_FAREWELL)


def _sessions(registry: Registry) -> Iterator[Session]:
    for node in registry.nodes.values():
        for agent in {each for each in (node.agent, node.former) if each is not None}:
            yield agent.session


def _pooled(registry: Registry) -> int:
    return sum(stream.is_pooled for session in _sessions(registry) for stream in session.streams.values())
