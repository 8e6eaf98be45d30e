"""Where the two transparent listeners are open: loopback always, other addresses as configured."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import trio

from tunnel_daemon.listeners import open_tcp_listeners
from tunnel_daemon.program import ProgramError
from tunnel_server.fixed_listeners import listener_view

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tunnel_server.admin.views import ListenerView
    from tunnel_server.frontends.transparent import TransparentFrontend

_LINGER = 2.0
"""Seconds that a listener stays open after its address has left the configuration: whose first packet was
translated to it before, still finds it."""

Hosts: TypeAlias = "Mapping[str, str]"
"""Addresses to listen at, and the key that asked for each, or "" for none."""
Opened: TypeAlias = "dict[tuple[str, str], trio.SocketListener]"
"""By address and the frontend's name."""


class TransparentListeners:
    """Serves both frontends at each address, in tasks of the nursery given."""

    def __init__(self, nursery: trio.Nursery, frontends: Sequence[tuple[TransparentFrontend, int]]) -> None:
        """Take the frontends, and the port of each."""
        self._nursery = nursery
        self._frontends = frontends
        self._serving: Opened = {}
        self._wanted: Hosts = {}

    async def open(self, hosts: Hosts) -> Opened:
        """Open what these need and is not there yet; all, or none: ProgramError says which cannot be had."""
        opened: Opened = {}
        try:
            for host, key in hosts.items():
                for frontend, port in self._frontends:
                    if (host, frontend.name) not in self._serving:
                        opened[host, frontend.name] = await _open(host, port, key, frontend.name)
        except BaseException:
            close(opened)
            raise
        return opened

    def serve(self, hosts: Hosts, opened: Opened) -> None:
        """Serve at these from now on, and soon at no others. Connections that stand go on."""
        self._wanted = hosts
        for host, name in self._serving:
            if host not in hosts:
                self._nursery.start_soon(self._leave, host, name)
        self._serving |= opened
        for frontend, _port in self._frontends:
            for (_host, name), listener in opened.items():
                if name == frontend.name:
                    self._nursery.start_soon(frontend.serve, listener)

    def views(self) -> list[ListenerView]:
        """For the status."""
        return [
            listener_view(name, listener)
            for (_host, name), listener in self._serving.items()
            if listener.socket.fileno() >= 0
        ]

    async def _leave(self, host: str, name: str) -> None:
        await trio.sleep(_LINGER)
        if host not in self._wanted and (listener := self._serving.pop((host, name), None)):
            listener.socket.close()


def close(opened: Opened) -> None:
    """Give up listeners that are not served yet."""
    for listener in opened.values():
        listener.socket.close()


async def _open(host: str, port: int, key: str, name: str) -> trio.SocketListener:
    try:
        (listener,) = await open_tcp_listeners([host], port, setting=f"{name}-port")
    except ProgramError as error:
        raise ProgramError(f"{key}: {error}" if key else str(error)) from None
    return listener
