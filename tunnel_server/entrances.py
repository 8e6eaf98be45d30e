"""Every way in for callers: which listeners are open, and which frontend serves each."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from tunnel_daemon.listeners import open_tcp_listeners
from tunnel_server.fixed_listeners import FixedListeners, listener_view
from tunnel_server.frontends.transparent import TransparentFrontend

if TYPE_CHECKING:
    import trio

    from tunnel_server.admin.views import ListenerView
    from tunnel_server.calls import Calls
    from tunnel_server.config import ServerConfig
    from tunnel_server.fixed_listeners import Opened
    from tunnel_server.registry import Registry

_LOOPBACKS = ("127.0.0.1", "::1")


class Entrances:
    """The frontends of one server."""

    def __init__(self, config: ServerConfig, registry: Registry, calls: Calls) -> None:
        self._config = config
        self._registry = registry
        self._calls = calls
        self.transparent = [
            TransparentFrontend(name, registry, calls, {}, config.caller_networks)
            for name in ("secure", "insecure")
        ]
        self._views: list[ListenerView] = []
        self._fixed: FixedListeners | None = None

    async def open(self, nursery: trio.Nursery) -> None:
        """Open what is configured, and serve it in tasks of `nursery`. Raises ProgramError."""
        config = self._config
        self._fixed = FixedListeners(nursery, self._registry, self._calls)
        self._fixed.serve(config.listen, await self._fixed.open(config.listen))
        if not config.intercept:
            return
        hosts = [*_LOOPBACKS, *map(str, config.prerouting_address)]
        for frontend, port in zip(self.transparent, (config.secure_port, config.insecure_port), strict=True):
            for listener in await open_tcp_listeners(
                filter(_speaks, hosts), port, setting=f"{frontend.name}-port"
            ):
                self._views.append(listener_view(frontend.name, listener))
                nursery.start_soon(frontend.serve, listener)

    async def prepare(self, config: ServerConfig) -> Opened:
        """Open what a new configuration needs beside what is open. Raises ProgramError, nothing opened."""
        assert self._fixed is not None
        return await self._fixed.open(config.listen)

    def change(self, config: ServerConfig, opened: Opened) -> None:
        """Serve what the new configuration names, and nothing else. Connections that stand go on."""
        assert self._fixed is not None
        self._fixed.serve(config.listen, opened)

    def views(self) -> list[ListenerView]:
        """For the status."""
        return [*(self._fixed.views() if self._fixed else ()), *self._views]


def _speaks(host: str) -> bool:
    """Whether this host has the address: a container may lack ::1."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.bind((host, 0))
        except OSError:
            return False
    return True
