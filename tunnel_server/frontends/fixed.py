"""Fixed listeners: a local address and port for one port of one node. They need no privilege."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunnel_server.calls import Asked, Target
from tunnel_server.frontends.accepting import accept_callers

if TYPE_CHECKING:
    import socket

    import trio

    from tunnel_server.calls import Calls
    from tunnel_server.endpoints import FixedListener
    from tunnel_server.registry import Registry

FRONTEND = "fixed"
LOOPBACK = "127.0.0.1"
"""What the agent dials: the node's own loopback, where its services listen whatever its addresses are now."""


async def serve_fixed(
    listener: trio.SocketListener, entry: FixedListener, registry: Registry, calls: Calls
) -> None:
    """Serve callers of one configured listener until cancelled."""

    async def serve(sock: socket.socket, caller: str) -> None:
        def find() -> Target:
            return Target(registry.by_name(entry.node), LOOPBACK, entry.target_port)

        await calls.serve(sock, Asked(FRONTEND, caller, f"{entry.node}:{entry.target_port}"), find)

    await accept_callers(listener, serve)
