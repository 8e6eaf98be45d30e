"""A real admin API for the commands that ask one, with real port mappings."""

from __future__ import annotations

import dataclasses
import datetime
from typing import TYPE_CHECKING, Any

import pytest
import trio

from certs.files import StateDirectory
from tunnel_server.admin.api import AdminSources
from tunnel_server.admin.server import serve_admin
from tunnel_server.admin.views import (
    ForgottenView,
    InterceptionView,
    ListenerView,
    MappingView,
    NodeView,
    StatusView,
)
from tunnel_server.mappings import PortMappings
from tunnelctl.cli import main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tunnel_server.admin.diagnosis_views import DiagnosisView, ProbeView


@pytest.fixture
def local_tunnelctl(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Run a command on a server's state that was made by `init`: its output, or its one line of error."""
    monkeypatch.setattr("tunnelctl.local_server.DEFAULT_CONFIG", tmp_path / "server.toml")

    def run(*words: str, state: str = "state", code: int = 0) -> str:
        assert main([*words, "--state-dir", str(tmp_path / state)]) == code
        said = capsys.readouterr()
        assert len(said.err.splitlines()) == (1 if code else 0)
        return said.err if code else said.out

    run("init", "--cert-ips", "127.0.0.1")
    return run


@pytest.fixture
def passphrase(tmp_path: Path) -> tuple[str, str]:
    """The flag that names a file with a passphrase."""
    path = tmp_path / "passphrase"
    path.write_text("correct horse battery\nsecond line\n")
    return ("--passphrase-file", str(path))


class Core:
    """Nodes as a test wants them, and mappings."""

    def __init__(self, state: Path) -> None:
        self.nodes: list[NodeView] = []
        self.forgotten: dict[str, ForgottenView | Exception] = {}
        self.mappings = PortMappings(StateDirectory.create(state), {9443: 10263})
        self.in_effect: dict[int, int] = {}
        self.differently: dict[str, Any] = {}
        self.diagnosis: DiagnosisView | None = None
        self.probes: dict[str, ProbeView] = {}

    async def forget(self, name: str) -> ForgottenView:
        answer = self.forgotten.get(name, LookupError(f"no node is called {name}"))
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def changed(self) -> None:
        self.in_effect = self.mappings.effective()

    def views(self) -> list[MappingView]:
        return [
            MappingView(port=each.port, listener_port=each.listener_port, source=each.origin.value)
            for each in self.mappings.describe()
        ]

    async def diagnose(self, name: str) -> DiagnosisView:
        assert self.diagnosis is not None
        assert self.diagnosis.name == name
        return self.diagnosis

    async def probe(self, name: str, host: str, port: int) -> ProbeView:
        return self.probes[host]

    def status(self) -> StatusView:
        status = StatusView(
            version="1.2.3", build="interpreted", instance="i",
            started=datetime.datetime.now(datetime.UTC), uptime_seconds=7500,
            listeners=(ListenerView(name="tunnel", address="0.0.0.0:10262"),),
            interception=InterceptionView(state="active", addresses=3),
            nodes_known=2, nodes_connected=1, calls_open=4, memory_used_bytes=1536, memory_budget_bytes=2**30,
            mappings=tuple(self.views()),
        )  # fmt: skip
        return dataclasses.replace(status, **self.differently)


@pytest.fixture
def core(tmp_path: Path) -> Core:
    return Core(tmp_path / "state")


@pytest.fixture
async def tunnelctl(core: Core, tmp_path: Path, capsys) -> AsyncIterator[Callable]:
    """Run `tunnelctl ARGS --admin-socket ...` against the real API; returns (exit code, stdout, stderr)."""
    path = tmp_path / "admin.sock"
    sources = AdminSources(
        nodes=lambda: core.nodes, status=core.status, mappings=core.mappings, mapping_views=core.views,
        changed=core.changed, default_listener_port=10264, doctor=core,
        forget=core.forget,
    )  # fmt: skip

    async def run(*argv: str) -> tuple[int, str, str]:
        code = await trio.to_thread.run_sync(main, [*argv, "--admin-socket", str(path)])
        return (code, *capsys.readouterr())

    async with trio.open_nursery() as nursery:
        await nursery.start(serve_admin, path, sources)
        yield run
        nursery.cancel_scope.cancel()
