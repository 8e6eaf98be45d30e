"""Health over HTTP, on loopback: whether the agent lives, whether it is linked, and the details."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import trio

from tunnel_daemon.descriptors import Shortage
from tunnel_daemon.listeners import open_tcp_listeners
from tunnel_daemon.program import ProgramError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tunnel_agent.status import AgentStatus

log = logging.getLogger(__name__)


async def serve_health(status: AgentStatus, address: str, port: int) -> None:
    """Serve until cancelled. Where the port can't be had, say so and return: the tunnel works without."""
    if port == 0:
        return
    try:
        listeners = await open_tcp_listeners([address], port, setting="health-port")
    except ProgramError as error:
        log.warning("no health checks are served: %s", error)
        return
    async with AsyncExitStack() as stack:
        for listener in listeners:
            await stack.enter_async_context(listener)
        shortage = Shortage("an HTTP connection")
        while True:
            await _first_caller(listeners)
            try:
                # Here, because HTTP takes 0.6 MiB, and most agents on small machines are never asked.
                from tunnel_agent.health_pages import Health
                from tunnel_daemon.http_service import serve_http
            except ImportError as error:
                log.warning(
                    "no health checks are served: has this agent been replaced? Restart it (%s)", error
                )
                return
            except OSError as error:
                await shortage.wait_out(error)
            else:
                break
        await serve_http(listeners, Health(status).router)


async def _first_caller(listeners: Iterable[trio.SocketListener]) -> None:
    """Wait until somebody has connected; accepts nobody."""

    async def wait(listener: trio.SocketListener) -> None:
        await trio.lowlevel.wait_readable(listener.socket)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(wait, listener)
