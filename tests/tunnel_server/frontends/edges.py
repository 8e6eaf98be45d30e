"""Edges with services, behind a server's core: what the frontends reach, for tests."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import TYPE_CHECKING

import trio

from certs.addresses import DEFAULT_EDGE_NETWORKS
from tests.tunnel_server.core import Core, running
from tunnel_server.frontends.naming import Naming
from tunnel_server.frontends.transparent import TransparentFrontend
from tunnel_wire.causes import Cause
from tunnel_wire.sockets import from_trio
from tunnel_wire.splice import splice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tunnel_server.frontends.transparent import ByName
    from tunnel_wire.stream import IncomingStream


@dataclass
class Edges:
    """A core, and agents whose dials end at services of the test, by node and port."""

    core: Core
    naming: Naming
    services: dict[tuple[str, int], int] = field(default_factory=dict)
    """Node and port to a port on this machine's loopback."""
    dialled: list[tuple[str, str, int]] = field(default_factory=list)
    """Node, host and port."""
    nodes: dict[object, str] = field(default_factory=dict)

    async def add(self, name: str, *addresses: str) -> None:
        """An edge that is connected."""
        agent = await self.core.agent(self.core.node(name, addresses), node=name)
        self.nodes[agent.session] = name
        await self.core.wait_linked(name, agent.session)

    async def serve(
        self, node: str, port: int, service: Callable[[trio.SocketStream], Awaitable[None]]
    ) -> None:
        """A service that this node's agent reaches on `port`."""

        async def run(stream: trio.SocketStream) -> None:
            async with stream:
                try:
                    await service(stream)
                except trio.BrokenResourceError:
                    pass

        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.services[node, port] = listeners[0].socket.getsockname()[1]
        self.core.nursery.start_soon(trio.serve_listeners, run, listeners)

    async def listen(
        self, by_name: ByName, *ports: int, name: str = "insecure", host: str = "127.0.0.1"
    ) -> tuple[str, int]:
        """The listener that `by_name` serves direct callers on, with `ports` mapped."""
        frontend = TransparentFrontend(
            name,
            self.naming,
            self.core.calls,
            by_name,
            mappings=dict.fromkeys(ports, 10264),
            caller_networks=(),
            direct_networks=(ip_network("127.0.0.0/8"), ip_network("::1/128")),
        )
        (listener,) = await trio.open_tcp_listeners(0, host=host)
        self.core.nursery.start_soon(frontend.serve, listener)
        return host, listener.socket.getsockname()[1]

    async def _dial(self, incoming: IncomingStream) -> None:
        node = self.nodes[incoming._connection.session]
        self.dialled.append((node, incoming.host, incoming.port))
        port = self.services.get((node, incoming.port))
        if port is None:
            incoming.refuse(Cause.REFUSED, "nobody listens")
            return
        target = await trio.open_tcp_stream("127.0.0.1", port)
        await splice(incoming.accept(), from_trio(target.socket))


@asynccontextmanager
async def edges(**options: float) -> AsyncIterator[Edges]:
    """No edge yet."""
    async with running(**options) as core:  # type: ignore[arg-type]
        core.registry.claims.rules.networks = DEFAULT_EDGE_NETWORKS
        made = Edges(core, Naming(core.registry))
        core.on_request = lambda incoming: core.nursery.start_soon(made._dial, incoming)
        yield made


async def curl(*arguments: str) -> tuple[int, str]:
    """Run curl; its exit status, and what it wrote to both its outputs."""
    command = ["curl", "--silent", "--show-error", "--max-time", "20", *arguments]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    return done.returncode, (done.stdout + done.stderr).decode()
