"""The ways in are open as configured, listed, and follow a changed configuration."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import trio

from certs.files import StateDirectory
from tests.tunnel_server.core import DOMAIN, running
from tunnel_daemon.program import ProgramError
from tunnel_server.config import FixedListener, ServerConfig
from tunnel_server.entrances import Entrances
from tunnel_server.revocation import Revocations
from tunnel_server.rights import CallerRights, NodeGlob, PortRange
from tunnel_wire.causes import Cause


@asynccontextmanager
async def opened(tmp_path: Path, **settings: Any) -> AsyncIterator[tuple[Entrances, ServerConfig, Any]]:
    config = ServerConfig(
        admin_socket=tmp_path / "admin.sock", intercept=False, secure_port=0, insecure_port=0, **settings
    )
    async with running() as core:
        revocations = Revocations(StateDirectory.create(tmp_path / "state"))
        entrances = Entrances(config, core.registry, core.calls, DOMAIN, revocations)
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


async def by_host(entrances: Entrances) -> bytes:
    port = int(place(entrances, "insecure").rpartition(":")[2])
    stream = await trio.open_tcp_stream("127.0.0.1", port)
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
        with pytest.raises(trio.BrokenResourceError):
            await by_host(entrances)
        assert core.calls.failures[-1].cause is Cause.NOT_ALLOWED


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
        with pytest.raises(ProgramError, match="another program has the port"):
            await entrances.prepare(replace(config, listen=(FixedListener("127.0.0.1", taken, "edge-1", 1),)))
        assert entrances.views() == before
