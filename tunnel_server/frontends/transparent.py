"""The two listeners that nftables redirects to, `secure` (10263) and `insecure` (10264).

For a redirected connection the original destination decides, and nothing that the caller says: its address
names the node, and the agent dials that same address and port. A direct one, from a network that may, names
the edge itself: see `sni` and `host`.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from tunnel_server.asked import Asked
from tunnel_server.frontends.accepting import accept_callers
from tunnel_server.intercept.original_destination import original_destination
from tunnel_wire.causes import Cause, OpenFailed

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from typing import Protocol

    import trio

    from certs.addresses import IPAddress, IPNetwork
    from tunnel_server.calls import Calls, Target
    from tunnel_server.frontends.naming import Find, Naming
    from tunnel_wire.owner import Owner

    class ByName(Protocol):
        """Serves connections whose callers say where they want to go."""

        async def serve(self, sock: socket.socket, caller: str, find: Find) -> None:
            """Serve one to its end, and close it."""


class TransparentFrontend:
    """One of the two listeners: redirected connections are only spliced, direct ones are read for a name."""

    def __init__(
        self,
        name: str,
        naming: Naming,
        calls: Calls,
        by_name: ByName,
        *,
        mappings: Mapping[int, int],
        caller_networks: tuple[IPNetwork, ...],
        direct_networks: tuple[IPNetwork, ...],
    ) -> None:
        self.name = name
        self.mappings = mappings
        """Captured port to listener port: those in force. Replaced as a whole when they change."""
        self.localhost_ports: frozenset[int] = frozenset()
        """Ports on the edges' loopback: captured only if they are mapped too, but called by name as well."""
        self.direct_networks = direct_networks
        """Whose direct connections are served."""
        self.caller_networks = caller_networks
        self._naming = naming
        self._calls = calls
        self._by_name = by_name

    async def serve(self, listener: trio.SocketListener) -> None:
        """Serve callers until cancelled."""
        local = ip_address(listener.socket.getsockname()[0])

        def look(sock: socket.socket) -> tuple[IPAddress, tuple[IPAddress, int] | None, bool]:
            """Who calls, what was captured, and whether the caller is to say itself where it wants to go."""
            peer = ip_address(sock.getpeername()[0].partition("%")[0])
            captured = original_destination(sock)
            # Led here on its way to what is no edge's, by a Service of Kubernetes for one: it names the edge.
            direct = captured is None or not self._naming.is_edge(captured[0])
            return peer, captured, direct and _within(peer, self.direct_networks)

        def begin(owner: Owner, sock: socket.socket, caller: str) -> bool:
            try:
                peer, captured, by_name = look(sock)
            except OSError:
                sock.close()
                return True
            if by_name:
                return False
            asked = Asked(self.name, caller, _wanted(captured))
            return self._calls.begin(owner, sock, asked, lambda: self._find(captured, peer, local))

        async def serve(sock: socket.socket, caller: str) -> None:
            try:
                peer, captured, by_name = look(sock)
            except OSError:
                sock.close()
                return
            if by_name:
                await self._by_name.serve(sock, caller, self._find_named)
                return
            asked = Asked(self.name, caller, _wanted(captured))
            await self._calls.serve(sock, asked, lambda: self._find(captured, peer, local))

        await accept_callers(listener, serve, begin)

    def _find(self, captured: tuple[IPAddress, int] | None, peer: IPAddress, local: IPAddress) -> Target:
        if captured is None:
            raise OpenFailed(
                Cause.NOT_ALLOWED, f"a direct connection, and {peer} is in none of direct-networks"
            )
        address, port = captured
        # Redirected callers of this host arrive on loopback; others only where, and from whom, it is
        # configured.
        if not local.is_loopback and not _within(peer, self.caller_networks):
            raise self._naming.refused(str(address), port, f"{peer} is in none of caller-networks")
        if port not in self.mappings:
            raise self._unmapped(str(address), port)
        return self._naming.find_captured(address, port)

    def _find_named(self, host: str, port: int) -> Target:
        if port not in self.mappings and port not in self.localhost_ports:
            raise self._unmapped(host, port)
        return self._naming.find(host, port)

    def _unmapped(self, host: str, port: int) -> OpenFailed:
        return self._naming.refused(host, port, f"port {port} is not mapped; see `tunnelctl map-port --list`")


def _wanted(captured: tuple[IPAddress, int] | None) -> str:
    return "unknown" if captured is None else f"{captured[0]}:{captured[1]}"


def _within(address: IPAddress, networks: tuple[IPNetwork, ...]) -> bool:
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)
