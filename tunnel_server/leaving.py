"""How a server leaves: it opens no more calls, tells its agents, and gives what is open time to end.

Where another server has taken over, callers and agents find that one at the same addresses. What has begun
here ends here.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from tunnel_wire.stream_state import EndCause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tunnel_server.calls import Calls
    from tunnel_server.links import Links
    from tunnel_server.registry import Registry
    from tunnel_wire.session import Session

log = logging.getLogger(__name__)

_SETTLING = 0.05
"""Seconds for who was let in last to say what it wants."""
_ANSWERING = 10.0
"""Seconds at most for requests to the HTTPS API: a token is used up, and its certificate not delivered."""
_FAREWELL = 0.2
"""Seconds at least between telling the agents that this server goes, and going."""
_POLL = 0.05


async def leave(
    calls: Calls,
    links: Links,
    registry: Registry,
    requests: Callable[[], int],
    *,
    why: str,
    patience: float,
    quiet: float,
) -> None:
    """Return when the last call has ended and its bytes have arrived, after `patience` seconds at most.

    Nobody is let in any more.

    A connection that many requests share (kube-apiserver's HTTP/2) has no end of its own: it is waited for
    as long as it is not alone with its like and no byte moves on any for `quiet` seconds. `requests` says how
    many are to be answered beside the calls. Cancelled, what is open is open still.
    """
    await trio.sleep(_SETTLING)
    calls.closed = why
    for session in _sessions(registry):
        # The agent goes to another server: it will not come back for them.
        session.suspended.grace = 0.0
        session.end_suspended(EndCause.SERVER_LEFT)
    # What was asked of them before is answered on the same links.
    links.drain(why)
    if calls.open:
        log.info("%s: %d calls are open, they get %g s to end", why, calls.open, patience)
    with trio.move_on_after(patience):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_answered, requests)
            await _ended(calls, quiet)
            await _delivered(registry)
    await trio.sleep(_FAREWELL)


async def _ended(calls: Calls, quiet: float) -> None:
    carried, since = calls.carried(), trio.current_time()
    while calls.open:
        await trio.sleep(_POLL)
        now = trio.current_time()
        if calls.lasting:
            since = now
        elif (moved := calls.carried()) != carried:
            carried, since = moved, now
        elif now - since >= quiet:
            return


async def _delivered(registry: Registry) -> None:
    """Callers that have ended, and been told the end, have left something to be sent."""
    while any(  # noqa: ASYNC110 - as below
        stream.abandoned and not stream.outgoing.end_acknowledged
        for session in _sessions(registry)
        for stream in session.streams.values()
    ):
        await trio.sleep(_POLL)


async def _answered(requests: Callable[[], int]) -> None:
    with trio.move_on_after(_ANSWERING):
        while requests():  # noqa: ASYNC110 - an event would cost each request
            await trio.sleep(_POLL)


def _sessions(registry: Registry) -> Iterator[Session]:
    for node in registry.nodes.values():
        for agent in {each for each in (node.agent, node.former) if each is not None}:
            yield agent.session
