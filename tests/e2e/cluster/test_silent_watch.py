"""Watches that nobody serves any more, over connections that look well: as behind a NAT that forgot them."""

from __future__ import annotations

import json
import logging
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from certs.identity import Identity, Role
from certs.revocations import Kind, RevocationStore
from certs.server_state import initialise
from tunnel_server.kube import revocation_polling
from tunnel_server.kube.access import from_kubeconfig
from tunnel_server.kube.client import Cluster
from tunnel_server.kube.resources import SECRETS
from tunnel_server.kube.revocation_polling import poll_revocations
from tunnel_server.kube.state import ClusterState
from tunnel_server.kube.state_layout import KIND

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest

    from tests.e2e.cluster.control_plane import ControlPlane


class Way:
    """A relay to an apiserver, which can forget the connections that there are. New ones get through."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._forgotten = trio.Event()

    def forget(self) -> None:
        forgotten, self._forgotten = self._forgotten, trio.Event()
        forgotten.set()

    async def serve(self, near: trio.SocketStream) -> None:
        forgotten = self._forgotten
        async with (
            near,
            await trio.open_tcp_stream("127.0.0.1", self._port) as far,
            trio.open_nursery() as nursery,
        ):
            for one, other in ((near, far), (far, near)):
                nursery.start_soon(self._copy, one, other, forgotten)

    async def _copy(self, one: trio.SocketStream, other: trio.SocketStream, forgotten: trio.Event) -> None:
        try:
            async for data in one:
                if forgotten.is_set():
                    await trio.sleep_forever()
                await other.send_all(data)
            await other.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


@asynccontextmanager
async def through(control: ControlPlane, directory: Path) -> AsyncIterator[tuple[Way, Path]]:
    """The way, and the administrator's kubeconfig for it."""
    way = Way(control.port)
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, way.serve, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        config = json.loads(control.kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{port}"
        path = directory / "kubeconfig"
        path.write_text(json.dumps(config))
        yield way, path
        nursery.cancel_scope.cancel()


async def until(true, seconds: float = 10.0) -> float:
    began = trio.current_time()
    with trio.fail_after(seconds):
        while not true():
            await trio.sleep(0.02)
    return trio.current_time() - began


async def test_a_revocation_does_not_wait_for_it(
    apiserver: ControlPlane,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(revocation_polling, "LOOK_EVERY", 0.3)
    elsewhere = ClusterState(Cluster(partial(from_kubeconfig, apiserver.kubeconfig)), namespace)
    edge = Identity("edge.test", Role.NODE, "edge-1")
    initialise(elsewhere, addresses=(), dns_names=("tunnel.example.org",))
    async with through(apiserver, tmp_path) as (way, path):
        cluster = Cluster(partial(from_kubeconfig, path), timeout=1.0)
        state = ClusterState(cluster, namespace)
        await trio.to_thread.run_sync(state.fill_cache)

        def revoked() -> bool:
            return RevocationStore(state).load().find(edge, "1", None) is not None

        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(state.follow, lasting=300.0))
            nursery.start_soon(poll_revocations, state)
            await until(lambda: state.cache.live)
            assert not revoked()
            way.forget()
            await trio.sleep(0.1)
            elsewhere.cluster.create(
                SECRETS, {"metadata": {"name": "other", "labels": {KIND: "x"}}}, namespace
            )
            store = RevocationStore(elsewhere)
            elsewhere.change(lambda change: store.add(change, Kind.NODE, "edge-1"))
            assert await until(revoked) < 3
            # The watches are known to be silent then, and what else they missed comes as soon.
            with caplog.at_level(logging.WARNING):
                await until(lambda: "are silent, and have missed something" in caplog.text)
            await until(lambda: state.cache.find(SECRETS, "other") is not None)
            for _ in range(8):  # it stays, also when our own word is no longer what counts
                await trio.sleep(1)
                assert revoked()
            nursery.cancel_scope.cancel()
        cluster.close()
    elsewhere.cluster.close()
