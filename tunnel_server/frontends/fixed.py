"""Fixed listeners: a local address and port for one port of one node. They need no privilege."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunnel_server.asked import Asked
from tunnel_server.calls import Target
from tunnel_server.frontends.accepting import accept_callers

if TYPE_CHECKING:
    import socket

    import trio

    from tunnel_server.calls import Calls
    from tunnel_server.endpoints import FixedListener
    from tunnel_server.registry import Registry
    from tunnel_wire.owner import Owner

FRONTEND = "fixed"
LOOPBACK = "127.0.0.1"
"""What the agent dials: the node's own loopback, where its services listen whatever its addresses are now."""


async def serve_fixed(
    listener: trio.SocketListener, entry: FixedListener, registry: Registry, calls: Calls
) -> None:
    """Serve callers of one configured listener until cancelled."""
    wanted = f"{entry.node}:{entry.target_port}"

    def find() -> Target:
        return Target(registry.by_name(entry.node), LOOPBACK, entry.target_port)

    def begin(owner: Owner, sock: socket.socket, caller: str) -> bool:
        return calls.begin(owner, sock, Asked(FRONTEND, caller, wanted), find)

    async def serve(sock: socket.socket, caller: str) -> None:
        await calls.serve(sock, Asked(FRONTEND, caller, wanted), find)

    await accept_callers(listener, serve, begin)
