"""The fixed listeners that are open: which, and how they change while the server runs."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from certs.addresses import format_endpoint
from tunnel_daemon import inheritance
from tunnel_daemon.listeners import open_tcp_listeners
from tunnel_server.admin.views import ListenerView
from tunnel_server.frontends.fixed import serve_fixed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tunnel_server.calls import Calls
    from tunnel_server.endpoints import FixedListener
    from tunnel_server.registry import Registry


@dataclass(frozen=True)
class Opened:
    """Listeners that are open and not served yet."""

    listeners: dict[FixedListener, trio.SocketListener]

    def close(self) -> None:
        """Give them up."""
        for listener in self.listeners.values():
            listener.socket.close()


class FixedListeners:
    """Serves the configured listeners, in tasks of the nursery given."""

    def __init__(self, nursery: trio.Nursery, registry: Registry, calls: Calls) -> None:
        self._nursery = nursery
        self._registry = registry
        self._calls = calls
        self._serving: dict[FixedListener, trio.SocketListener] = {}

    async def open(self, entries: Iterable[FixedListener]) -> Opened:
        """Open what these need and is not there yet; all, or none: ProgramError says which cannot be had."""
        places = {(entry.host, entry.port): listener for entry, listener in self._serving.items()}
        opened = Opened({})
        try:
            for entry in entries:
                if entry in self._serving:
                    continue
                standing = places.get((entry.host, entry.port))
                if standing is not None:  # the same address leads elsewhere: nobody shall find it closed
                    opened.listeners[entry] = _twin(standing)
                    inheritance.note(opened.listeners[entry], "listen")
                else:
                    (opened.listeners[entry],) = await open_tcp_listeners(
                        [entry.host], entry.port, setting="listen"
                    )
        except BaseException:
            opened.close()
            raise
        return opened

    def serve(self, entries: Iterable[FixedListener], opened: Opened) -> None:
        """Serve these from now on, and no others. Connections that stand go on, whatever led to them."""
        for entry in self._serving.keys() - set(entries):
            self._serving.pop(entry).socket.close()
        for entry, listener in opened.listeners.items():
            self._serving[entry] = listener
            self._nursery.start_soon(serve_fixed, listener, entry, self._registry, self._calls)

    def views(self) -> list[ListenerView]:
        """For the status."""
        return [
            listener_view("fixed", listener, f"{entry.node}:{entry.target_port}")
            for entry, listener in self._serving.items()
            if listener.socket.fileno() >= 0
        ]


def listener_view(name: str, listener: trio.SocketListener, target: str | None = None) -> ListenerView:
    """One listening TCP socket, for the status."""
    host, port = listener.socket.getsockname()[:2]
    return ListenerView(name=name, address=format_endpoint(host, port), target=target)


def _twin(listener: trio.SocketListener) -> trio.SocketListener:
    sock = socket.socket(fileno=socket.dup(listener.socket.fileno()))
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))
