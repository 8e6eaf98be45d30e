"""A server's parts that know who is who, wired as in its process, over a real state directory on loopback."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING

import trio

from certs.authority import NODE_LIFE
from certs.enrolment import Enrolment
from certs.files import StateDirectory
from certs.renewal import Renewals
from certs.server_state import initialise
from tunnel_daemon.router import Router
from tunnel_server.identity import ServerIdentity
from tunnel_server.identity_api import IdentityApi
from tunnel_server.join_api import JoinApi
from tunnel_server.links import Links
from tunnel_server.listener import TunnelListener
from tunnel_server.metrics import Metrics
from tunnel_server.registry import Registry
from tunnel_wire.flow import Budget, SegmentPool
from tunnel_wire.hello import new_id
from tunnel_wire.limits import WireLimits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import timedelta
    from pathlib import Path

    from certs.addresses import IPAddress
    from tunnel_server.attestor import Attestor
    from tunnel_wire.stream import TunnelStream


@dataclass
class Identified:
    """A running server's part that deals with identities."""

    state: StateDirectory
    identity: ServerIdentity
    enrolment: Enrolment
    renewals: Renewals
    registry: Registry
    listener: TunnelListener
    port: int
    servers: list[str]

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def join_line(self, node: str, *addresses: str, life: timedelta) -> tuple[str, str]:
        """A token, and the hash of the authority that goes with it."""
        held: list[IPAddress] = [ip_address(each) for each in addresses]
        return self.enrolment.tokens.create(node, held, life)[0], self.enrolment.authority.hash

    async def open(self, node: str, port: int) -> TunnelStream:
        with trio.fail_after(10):
            agent = self.registry.nodes[node].agent
            assert agent is not None
            return await agent.open("127.0.0.1", port)

    def links(self, node: str) -> list[int]:
        known = self.registry.nodes.get(node)
        return list(known.agent.links) if known and known.agent else []

    async def until_linked(self, node: str, *links: int) -> None:
        """Wait for exactly these links (indices, the oldest first)."""
        with trio.fail_after(20):
            while self.links(node) != list(links):
                await trio.sleep(0.02)


def prepare(path: Path) -> StateDirectory:
    """An initialised state directory for a server on loopback."""
    state = StateDirectory.create(path)
    initialise(state, addresses=(IPv4Address("127.0.0.1"),))
    return state


@asynccontextmanager
async def identified(
    path: Path, *, port: int = 0, node_life: timedelta = NODE_LIFE, attestor: Attestor | None = None
) -> AsyncIterator[Identified]:
    """Serve links and the HTTPS API with what is in `path`."""
    state = StateDirectory(path)
    identity = ServerIdentity(state)
    enrolment = Enrolment(state, identity.authority, node_life=node_life, is_own=lambda _: False)
    renewals = Renewals(state, identity.authority, node_life=node_life)
    registry = Registry(
        edge_networks=(),
        budget=Budget(1 << 30),
        pool=SegmentPool(),
        limits=WireLimits(),
        links_per_node=4,
        on_addresses=lambda: None,
    )
    links = Links(
        registry,
        domain=identity.authority.domain,
        instance=new_id(),
        version="test",
        limits=WireLimits(),
        acceptance=identity.acceptance,
    )
    servers: list[str] = []
    join_api = JoinApi(enrolment, servers=lambda: servers, attestor=attestor)
    identity_api = IdentityApi(renewals, identity.revocations, servers=lambda: servers)
    listener = TunnelListener(
        identity.context,
        links,
        Router({**join_api.routes, **identity_api.routes}),
        Metrics("test"),
        handshakes=16,
        handshake_timeout=10,
    )

    def changed() -> None:
        enrolment.authority = renewals.authority = identity.authority
        listener.context = identity.context

    identity.on_change.append(changed)
    accepting = await trio.open_tcp_listeners(port, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.serve, accepting)
        nursery.start_soon(identity.watch)
        port = accepting[0].socket.getsockname()[1]
        servers.append(f"127.0.0.1:{port}")
        yield Identified(state, identity, enrolment, renewals, registry, listener, port, servers)
        nursery.cancel_scope.cancel()
