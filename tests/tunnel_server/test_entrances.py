"""The ways in are open as configured, listed, and follow a changed configuration."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.tunnel_server.core import DOMAIN, meets_reset, running
from tunnel_daemon.program import ProgramError
from tunnel_server.config import ServerConfig
from tunnel_server.endpoints import FixedListener
from tunnel_server.entrances import Entrances
from tunnel_server.node_networks import NodeSettings
from tunnel_server.rights import CallerRights, NodeGlob, PortRange
from tunnel_wire.causes import Cause


@asynccontextmanager
async def opened(tmp_path: Path, **settings: Any) -> AsyncIterator[tuple[Entrances, ServerConfig, Any]]:
    config = ServerConfig(
        admin_socket=tmp_path / "admin.sock", intercept=False, secure_port=0, insecure_port=0, **settings
    )
    async with running() as core:
        entrances = Entrances(config, core.registry, core.calls, DOMAIN, core.acceptance)
        await entrances.open(core.nursery)
        yield entrances, config, core
        core.nursery.cancel_scope.cancel()


def place(entrances: Entrances, name: str) -> str:
    return next(view.address for view in entrances.views() if view.name == name)


async def say(stream: trio.abc.Stream, text: str) -> bytes:
    async with stream:
        await stream.send_all(text.encode())
        with trio.fail_after(10):
            return await stream.receive_some() or b""


def insecure_port(entrances: Entrances) -> int:
    return int(place(entrances, "insecure").rpartition(":")[2])


async def by_host(entrances: Entrances) -> bytes:
    stream = await trio.open_tcp_stream("127.0.0.1", insecure_port(entrances))
    return await say(stream, "GET / HTTP/1.1\r\nHost: edge-1:9081\r\n\r\n")


async def test_by_name_needs_no_privilege_and_every_listener_is_listed(tmp_path: Path) -> None:
    async with opened(tmp_path, limits=replace(ServerConfig().limits)) as (entrances, _, core):
        names = [view.name for view in entrances.views()]
        assert {"secure", "insecure", "connect"} == set(names)
        assert place(entrances, "connect") == str(tmp_path / "connect.sock")
        assert (await by_host(entrances)).startswith(b"HTTP/1.1 4")
        assert core.calls.failures[-1].frontend == "host"


async def test_connect_can_be_left_out(tmp_path: Path) -> None:
    async with opened(tmp_path, connect_socket=None) as (entrances, _, _core):
        assert {view.name for view in entrances.views()} == {"secure", "insecure"}


async def test_networks_that_may_come_directly_change(tmp_path: Path) -> None:
    async with opened(tmp_path) as (entrances, config, core):
        other = replace(config, direct_networks=(ip_network("192.0.2.0/24"),))
        entrances.change(other, await entrances.prepare(other))
        await meets_reset(("127.0.0.1", insecure_port(entrances)))
        assert core.calls.failures[-1].cause is Cause.NOT_ALLOWED


async def test_networks_behind_nodes_change(tmp_path: Path) -> None:
    network = NodeSettings(networks=(ip_network("10.42.1.0/24"),))
    async with opened(tmp_path, nodes={"edge-8": network}) as (entrances, config, _core):

        async def ask() -> bytes:
            stream = await trio.open_unix_socket(str(tmp_path / "connect.sock"))
            return await say(stream, "CONNECT 10.42.1.7:80 HTTP/1.1\r\nHost: x\r\n\r\n")

        assert b"is in a network of edge-8" in await ask()
        other = replace(config, nodes={"edge-9": network})
        entrances.change(other, await entrances.prepare(other))
        assert b"is in a network of edge-9" in await ask()


async def test_rights_change(tmp_path: Path) -> None:
    async with opened(tmp_path) as (entrances, config, core):
        core.registry.node("edge-1")
        request = "CONNECT edge-1:80 HTTP/1.1\r\nHost: edge-1:80\r\n\r\n"

        async def ask() -> bytes:
            stream = await trio.open_unix_socket(str(tmp_path / "connect.sock"))
            return (await say(stream, request)).partition(b"\r\n")[0]

        assert b"away" in await ask()
        rights = CallerRights(nodes=(NodeGlob("edge-2"),), ports=(PortRange(1, 65535),))
        other = replace(config, callers={"local": rights})
        entrances.change(other, await entrances.prepare(other))
        assert b"not-allowed" in await ask()


async def test_a_listener_that_cannot_be_had_leaves_all_as_it_was(tmp_path: Path) -> None:
    async with opened(tmp_path) as (entrances, config, _):
        before = entrances.views()
        taken = int(place(entrances, "insecure").rpartition(":")[2])
        with pytest.raises(ProgramError, match="this program has the port already"):
            await entrances.prepare(replace(config, listen=(FixedListener("127.0.0.1", taken, "edge-1", 1),)))
        assert entrances.views() == before


async def test_callers_of_both_configurations_are_let_in_while_the_kernel_turns(tmp_path: Path) -> None:
    networks = (ip_network("10.0.0.0/24"),), (ip_network("10.0.1.0/24"),)
    async with opened(tmp_path, caller_networks=networks[0]) as (entrances, config, _):
        before = entrances.views()

        def let_in() -> set[object]:
            return {frontend.caller_networks for frontend in entrances.transparent}

        other = replace(config, caller_networks=networks[1], direct_address=(ip_address("127.0.0.2"),))
        prepared = await entrances.prepare(other)
        assert let_in() == {networks[0] + networks[1]}
        entrances.give_up(prepared)
        assert let_in() == {networks[0]}
        assert entrances.views() == before
        entrances.change(other, await entrances.prepare(other))
        assert let_in() == {networks[1]}
        assert place_at(entrances, "127.0.0.2") == {"secure", "insecure"}
        entrances.give_up(await entrances.prepare(config))
        assert let_in() == {networks[1]}


async def test_an_address_that_cannot_be_had_leaves_all_as_it_was(tmp_path: Path) -> None:
    entry = FixedListener("127.0.0.1", 0, "edge-1", 80)
    async with opened(tmp_path) as (entrances, config, _):
        before = entrances.views()
        other = replace(config, listen=(entry,), direct_address=(ip_address("192.0.2.1"),))
        with pytest.raises(ProgramError, match=r"direct-address: can't listen on 192\.0\.2\.1"):
            await entrances.prepare(other)
        assert entrances.views() == before


def place_at(entrances: Entrances, host: str) -> set[str]:
    return {view.name for view in entrances.views() if view.address.startswith(f"{host}:")}
