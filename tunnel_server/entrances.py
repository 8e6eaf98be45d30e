"""Every way in for callers: which listeners are open, and which frontend serves each."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunnel_server import transparent_listeners
from tunnel_server.admin.unix_socket import SocketUsers
from tunnel_server.admin.views import ListenerView
from tunnel_server.fixed_listeners import FixedListeners
from tunnel_server.frontends.connect import ConnectFrontend
from tunnel_server.frontends.connect_socket import ConnectSocket
from tunnel_server.frontends.host import HostFrontend
from tunnel_server.frontends.naming import Naming
from tunnel_server.frontends.sni import SniFrontend
from tunnel_server.frontends.transparent import TransparentFrontend
from tunnel_server.node_networks import NodeNetworks
from tunnel_server.rights import Rights
from tunnel_server.transparent_listeners import TransparentListeners

if TYPE_CHECKING:
    import trio

    from tunnel_daemon.settings_values import Network
    from tunnel_server.acceptance import Acceptance
    from tunnel_server.calls import Calls
    from tunnel_server.config import ServerConfig
    from tunnel_server.fixed_listeners import Opened
    from tunnel_server.registry import Registry

_LOOPBACKS = ("127.0.0.1", "::1")


@dataclass(frozen=True)
class Prepared:
    """What a new configuration needs beside what is open: open too, and not served yet."""

    fixed: Opened
    transparent: transparent_listeners.Opened


class Entrances:
    """The frontends of one server."""

    def __init__(
        self, config: ServerConfig, registry: Registry, calls: Calls, domain: str, acceptance: Acceptance
    ) -> None:
        self._config = config
        self._registry = registry
        self._calls = calls
        self._naming = Naming(registry, name_suffix=config.name_suffix, networks=NodeNetworks(config.nodes))
        self._sni = SniFrontend(calls, self._naming, default_port=config.secure_target_port)
        self.transparent = [
            TransparentFrontend(
                name,
                self._naming,
                calls,
                by_name,
                mappings={},
                caller_networks=config.caller_networks,
                direct_networks=config.direct_networks,
            )
            for name, by_name in (("secure", self._sni), ("insecure", HostFrontend(calls)))
        ]
        self._rights = Rights(config.callers)
        self.connect = ConnectFrontend(
            calls, self._naming, self._rights, domain=domain, acceptance=acceptance
        )
        self._connect_users = SocketUsers(config.connect_uids)
        self._connect_socket = ConnectSocket(self.connect, self._connect_users)
        self._fixed: FixedListeners | None = None
        self._transparent: TransparentListeners | None = None
        self._views: list[ListenerView] = []

    async def open(self, nursery: trio.Nursery) -> None:
        """Open what is configured, and serve it in tasks of `nursery`. Raises ProgramError."""
        config = self._config
        self._fixed = FixedListeners(nursery, self._registry, self._calls)
        self._fixed.serve(config.listen, await self._fixed.open(config.listen))
        ports = zip(self.transparent, (config.secure_port, config.insecure_port), strict=True)
        self._transparent = TransparentListeners(nursery, list(ports))
        self._transparent.serve(_hosts(config), await self._transparent.open(_hosts(config)))
        if path := config.connect_path():
            await nursery.start(self._connect_socket.serve, path)
            self._views.append(ListenerView(name="connect", address=str(path)))

    async def prepare(self, config: ServerConfig) -> Prepared:
        """Open what a new configuration needs beside what is open. Raises ProgramError, nothing opened.

        Callers of both configurations are let in from then on, until `change` or `give_up`: in between,
        nftables turns from the one's to the other's.
        """
        assert self._fixed is not None
        assert self._transparent is not None
        fixed = await self._fixed.open(config.listen)
        try:
            prepared = Prepared(fixed, await self._transparent.open(_hosts(config)))
        except BaseException:
            fixed.close()
            raise
        self._let_in((*self._config.caller_networks, *config.caller_networks))
        return prepared

    def give_up(self, prepared: Prepared) -> None:
        """Close what was prepared, and go on as before."""
        prepared.fixed.close()
        transparent_listeners.close(prepared.transparent)
        self._let_in(self._config.caller_networks)

    def change(self, config: ServerConfig, prepared: Prepared) -> None:
        """Serve as the new configuration says. Connections that stand go on."""
        assert self._fixed is not None
        assert self._transparent is not None
        self._config = config
        self._fixed.serve(config.listen, prepared.fixed)
        self._transparent.serve(_hosts(config), prepared.transparent)
        self._let_in(config.caller_networks)
        self._naming.name_suffix = config.name_suffix
        self._naming.networks = NodeNetworks(config.nodes)
        self._sni.default_port = config.secure_target_port
        self._rights.callers = config.callers
        self._connect_users.change(config.connect_uids)
        for frontend in self.transparent:
            frontend.direct_networks = config.direct_networks

    def _let_in(self, caller_networks: tuple[Network, ...]) -> None:
        for frontend in self.transparent:
            frontend.caller_networks = caller_networks

    def views(self) -> list[ListenerView]:
        """For the status."""
        listeners = [each.views() for each in (self._fixed, self._transparent) if each]
        return [*(view for views in listeners for view in views), *self._views]


def _hosts(config: ServerConfig) -> transparent_listeners.Hosts:
    """Captured connections of this host land on loopback, those of other hosts at prerouting-address."""
    hosts = dict.fromkeys(filter(_speaks, _LOOPBACKS), "")
    for key, addresses in (
        ("prerouting-address", config.prerouting_address if config.intercept else ()),
        ("direct-address", config.direct_address),
    ):
        for address in addresses:
            hosts.setdefault(str(address), key)
    return hosts


def _speaks(host: str) -> bool:
    """Whether this host has the address: a container may lack ::1."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.bind((host, 0))
        except OSError:
            return False
    return True
