"""A real admin API for the commands that ask one, with a core that lives in memory."""

from __future__ import annotations

import dataclasses
import datetime
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tunnel_server.admin.api import AdminSources
from tunnel_server.admin.server import serve_admin
from tunnel_server.admin.views import InterceptionView, ListenerView, MappingView, NodeView, StatusView
from tunnelctl.cli import main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


class MemoryCore:
    """Nodes and mappings as a test wants them."""

    def __init__(self) -> None:
        self.nodes: list[NodeView] = []
        self.fixed = {10250: 10263}
        self.ports: dict[int, int] = {}
        self.in_effect: dict[int, int] = {}
        self.differently: dict[str, Any] = {}

    def add(self, port: int, listener_port: int) -> None:
        if port in self.fixed:
            raise ValueError(f"{port} is built in")
        self.ports[port] = listener_port

    def remove(self, port: int) -> None:
        self.ports.pop(port, None)

    async def changed(self) -> None:
        self.in_effect = self.fixed | self.ports

    def views(self) -> list[MappingView]:
        return [
            MappingView(port=port, listener_port=to, source="tunnelctl" if port in self.ports else "built in")
            for port, to in sorted((self.fixed | self.ports).items())
        ]

    def status(self) -> StatusView:
        status = StatusView(
            version="1.2.3", instance="i", started=datetime.datetime.now(datetime.UTC), uptime_seconds=7500,
            listeners=(ListenerView(name="tunnel", address="0.0.0.0:10262"),),
            interception=InterceptionView(state="active", addresses=3),
            nodes_known=2, nodes_connected=1, calls_open=4, memory_used_bytes=1536, memory_budget_bytes=2**30,
            mappings=tuple(self.views()),
        )  # fmt: skip
        return dataclasses.replace(status, **self.differently)


@pytest.fixture
def core() -> MemoryCore:
    return MemoryCore()


@pytest.fixture
async def tunnelctl(core: MemoryCore, tmp_path: Path, capsys) -> AsyncIterator[Callable]:
    """Run `tunnelctl ARGS --admin-socket ...` against the real API; returns (exit code, stdout, stderr)."""
    path = tmp_path / "admin.sock"
    sources = AdminSources(
        nodes=lambda: core.nodes, status=core.status, mappings=core, mapping_views=core.views,
        changed=core.changed, default_listener_port=10264,
    )  # fmt: skip

    async def run(*argv: str) -> tuple[int, str, str]:
        code = await trio.to_thread.run_sync(main, [*argv, "--admin-socket", str(path)])
        return (code, *capsys.readouterr())

    async with trio.open_nursery() as nursery:
        await nursery.start(serve_admin, path, sources)
        yield run
        nursery.cancel_scope.cancel()
