"""How a server starts whose cluster does not answer. Following one is tested with a real apiserver."""

from __future__ import annotations

import json
import socket
from functools import partial
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest
import trio

from tunnel_daemon.program import ProgramError
from tunnel_server.config import ServerConfig
from tunnel_server.kube import following as module
from tunnel_server.kube.access import from_kubeconfig
from tunnel_server.kube.client import Cluster
from tunnel_server.kube.following import Following
from tunnel_server.kube.settings import KubernetesSettings
from tunnel_server.metrics import Metrics
from tunnel_server.registry import Registry
from tunnel_wire.flow import Budget, SegmentPool
from tunnel_wire.limits import WireLimits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        server = f"https://127.0.0.1:{closed.getsockname()[1]}"
        named = {"name": "it", "cluster": {"server": server}}, {"name": "it", "user": {"token": "t"}}
        context = {"name": "it", "context": {"cluster": "it", "user": "it"}}
        (path := tmp_path / "config").write_text(
            json.dumps({
                "kind": "Config", "apiVersion": "v1", "clusters": [named[0]], "users": [named[1]],
                "contexts": [context], "current-context": "it",
            })
        )  # fmt: skip
        made = Cluster(partial(from_kubeconfig, path), timeout=1)
        yield made
        made.close()


@pytest.mark.parametrize("replacing", [False, True])
async def test_without_an_answer_a_server_starts_and_takes_over_from_none(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, *, replacing: bool
) -> None:
    monkeypatch.setattr(module, "_FIRST", 0.2)
    monkeypatch.setattr(module, "_FIRST_REPLACING", 0.2)
    networks = (ip_network("192.168.0.0/16"),)
    config = ServerConfig(edge_networks=networks, kubernetes=KubernetesSettings(enabled=True))
    registry = Registry(
        edge_networks=networks, budget=Budget(1), pool=SegmentPool(), limits=WireLimits(), links_per_node=1,
        on_addresses=lambda: None,
    )  # fmt: skip

    async def ports() -> None:
        raise AssertionError

    made = Following(cluster, config, registry, Metrics("test"), ports, replacing=replacing)
    async with trio.open_nursery() as nursery:
        if replacing:
            with pytest.RaisesGroup(pytest.RaisesExc(ProgramError, match="the server that runs goes on")):
                await nursery.start(made.run)
        else:
            await nursery.start(made.run)
        nursery.cancel_scope.cancel()
