"""The transparent frontend: the original destination decides; who may call directly names the edge.

Where connections are really redirected, tests/e2e tries it; here the kernel's answer stands for the redirect.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import trio

from tests.tunnel_server.core import ADDRESS, Core, meets_reset, running
from tests.tunnel_server.test_calls import echo
from tunnel_server.frontends.naming import Naming
from tunnel_server.frontends.transparent import TransparentFrontend
from tunnel_server.node_networks import NO_NETWORKS, NodeNetworks, NodeSettings
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.sockets import from_trio
from tunnel_wire.splice import splice

if TYPE_CHECKING:
    import socket

    import pytest

    from tunnel_server.frontends.naming import Find
    from tunnel_wire.stream import IncomingStream


class Direct:
    """Says whom it was given, and which target each wanted."""

    def __init__(self, *wanted: tuple[str, int]) -> None:
        self.wanted = wanted
        self.found: list[str] = []

    async def serve(self, sock: socket.socket, caller: str, find: Find) -> None:
        for host, port in self.wanted:
            try:
                self.found.append(str(find(host, port)))
            except OpenFailed as failed:
                self.found.append(str(failed))
        sock.close()


async def frontend(
    core: Core,
    *,
    mappings: dict[int, int],
    callers: str = "10.0.0.0/8",
    host: str = "127.0.0.1",
    direct: Direct | None = None,
    networks: str = "10.0.0.0/8",
    networks_behind: NodeNetworks = NO_NETWORKS,
) -> tuple[str, int]:
    made = TransparentFrontend(
        "insecure",
        Naming(core.registry, networks=networks_behind),
        core.calls,
        direct or Direct(),
        mappings=mappings,
        caller_networks=(ip_network(callers),),
        direct_networks=(ip_network(networks),),
    )
    made.localhost_ports = frozenset({10266})
    listener = (await trio.open_tcp_listeners(0, host=host))[0]
    core.nursery.start_soon(made.serve, listener)
    return listener.socket.getsockname()[:2]


def captured(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    def destination(sock: socket.socket) -> tuple[object, int]:
        return ip_address(ADDRESS), port

    monkeypatch.setattr("tunnel_server.frontends.transparent.original_destination", destination)


async def refused(core: Core, address: tuple[str, int]) -> tuple[Cause, str, str]:
    await meets_reset(address)
    failure = core.calls.failures[-1]
    return failure.cause, failure.target, failure.detail


async def test_a_direct_call_from_nowhere_listed() -> None:
    async with running() as core:
        cause, target, detail = await refused(core, await frontend(core, mappings={80: 10264}))
        assert (cause, target) == (Cause.NOT_ALLOWED, "unknown")
        assert detail == "a direct connection, and 127.0.0.1 is in none of direct-networks"


async def test_a_direct_call_names_its_target() -> None:
    direct = Direct(("edge-1", 80), (ADDRESS, 80), ("edge-1", 10266), ("edge-1", 22), ("edge-9", 80))
    async with running() as core:
        core.registry.learn("edge-1", [ip_address(ADDRESS)])
        address = await frontend(core, mappings={80: 10264}, direct=direct, networks="127.0.0.0/8")
        async with await trio.open_tcp_stream(*address) as caller:
            with trio.fail_after(5):
                assert await caller.receive_some() == b""
    assert direct.found[:3] == [f"{ADDRESS}:80", f"{ADDRESS}:80", f"{ADDRESS}:10266"]
    assert "port 22 is not mapped" in direct.found[3]
    assert "no node is called edge-9" in direct.found[4]


async def test_a_port_that_is_not_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    captured(monkeypatch, 22)
    async with running() as core:
        cause, target, detail = await refused(core, await frontend(core, mappings={80: 10264}))
        assert (cause, target) == (Cause.NOT_ALLOWED, f"{ADDRESS}:22")
        assert "port 22 is not mapped" in detail
        assert core.calls.failures[-1].node == "", "no node has that address"
        core.registry.learn("edge-1", [ip_address(ADDRESS)])
        await refused(core, await frontend(core, mappings={80: 10264}))
        assert core.calls.failures[-1].node == "edge-1"


async def test_an_address_that_no_node_has(monkeypatch: pytest.MonkeyPatch) -> None:
    captured(monkeypatch, 80)
    async with running() as core:
        cause, _, detail = await refused(core, await frontend(core, mappings={80: 10264}))
        assert cause is Cause.NO_SUCH_NODE
        assert ADDRESS in detail


async def test_a_routed_caller_from_nowhere_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    captured(monkeypatch, 80)
    # On an address of this machine that is not loopback to the frontend.
    monkeypatch.setattr(
        "tunnel_server.frontends.transparent.ip_address",
        lambda text: ip_address("192.0.2.1" if text == "127.0.0.1" else text),
    )
    async with running() as core:
        cause, _, detail = await refused(core, await frontend(core, mappings={80: 10264}))
        assert cause is Cause.NOT_ALLOWED
        assert "in none of caller-networks" in detail


async def test_the_agent_dials_what_the_caller_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    dialled: list[tuple[str, int]] = []
    async with running() as core, echo() as port:
        captured(monkeypatch, 80)

        async def serve(incoming: IncomingStream) -> None:
            dialled.append((incoming.host, incoming.port))
            target = await trio.open_tcp_stream("127.0.0.1", port)
            await splice(incoming.accept(), from_trio(target.socket))

        core.on_request = lambda incoming: core.nursery.start_soon(serve, incoming)
        agent = await core.agent()
        await core.wait_linked("edge-1", agent.session)
        address = await frontend(core, mappings={80: 10264})
        async with await trio.open_tcp_stream(*address) as caller:
            await caller.send_all(b"through")
            with trio.fail_after(5):
                assert await caller.receive_some() == b"through"
    assert dialled == [(ADDRESS, 80)]


async def test_what_was_captured_is_for_an_edges_own_address_only(monkeypatch: pytest.MonkeyPatch) -> None:
    captured(monkeypatch, 80)
    behind = NodeNetworks({"edge-1": NodeSettings(networks=(ip_network(f"{ADDRESS}/32"),))})
    async with running() as core:
        core.registry.node("edge-1")
        made = await frontend(core, mappings={80: 10264}, networks_behind=behind)
        assert (await refused(core, made))[0] is Cause.NO_SUCH_NODE
        direct = Direct((ADDRESS, 80))
        made = await frontend(
            core, mappings={80: 10264}, networks="127.0.0.0/8", direct=direct, networks_behind=behind
        )
        monkeypatch.setattr("tunnel_server.frontends.transparent.original_destination", lambda _: None)
        async with await trio.open_tcp_stream(*made) as caller:
            with trio.fail_after(5):
                assert await caller.receive_some() == b""
        assert direct.found == [f"{ADDRESS}:80"]
