"""The transparent frontends: connections that nftables has redirected here, spliced to where they were going.

The original destination decides, and nothing that the caller says: its address names the node, and the agent
dials that same address and port. Bytes are not looked at.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from tunnel_server.calls import Target
from tunnel_server.frontends.accepting import accept_callers
from tunnel_server.intercept.original_destination import original_destination
from tunnel_wire.causes import Cause, OpenFailed

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    import trio

    from certs.addresses import IPAddress, IPNetwork
    from tunnel_server.calls import Calls
    from tunnel_server.registry import Registry


class TransparentFrontend:
    """One of the two listeners, `secure` (10263) or `insecure` (10264): both only splice."""

    def __init__(
        self,
        name: str,
        registry: Registry,
        calls: Calls,
        mappings: Mapping[int, int],
        caller_networks: tuple[IPNetwork, ...],
    ) -> None:
        self.name = name
        self.mappings = mappings
        """Captured port to listener port: those in force. Replaced as a whole when they change."""
        self._registry = registry
        self._calls = calls
        self._caller_networks = caller_networks

    async def serve(self, listener: trio.SocketListener) -> None:
        """Serve redirected callers until cancelled."""
        local = ip_address(listener.socket.getsockname()[0])

        async def serve(sock: socket.socket, caller: str) -> None:
            wanted = "unknown"

            def find() -> Target:
                return self._find(sock, local)

            try:
                captured = original_destination(sock)
            except OSError:
                sock.close()
                return
            if captured is not None:
                wanted = f"{captured[0]}:{captured[1]}"
            await self._calls.serve(sock, self.name, caller, wanted, find)

        await accept_callers(listener, serve)

    def _find(self, sock: socket.socket, local: IPAddress) -> Target:
        try:
            captured = original_destination(sock)
            peer = ip_address(sock.getpeername()[0].partition("%")[0])
        except OSError as exc:
            raise OpenFailed(Cause.CANCELLED, "the caller has gone") from exc
        if captured is None:
            raise OpenFailed(
                Cause.NOT_ALLOWED, "a direct connection: this port serves what nftables redirects to it"
            )
        address, port = captured
        # Redirected callers of this host arrive on loopback; others only where, and from whom, it is
        # configured.
        if not local.is_loopback and not any(peer in network for network in self._caller_networks):
            raise OpenFailed(Cause.NOT_ALLOWED, f"{peer} is in none of caller-networks")
        if port not in self.mappings:
            raise OpenFailed(Cause.NOT_ALLOWED, f"port {port} is not mapped; see `tunnelctl map-port --list`")
        return Target(self._registry.by_address(address), str(address), port)
