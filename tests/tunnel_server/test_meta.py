"""The meta port, asked by curl."""

import json
import subprocess

import pytest
import trio

from tunnel_daemon.http_service import serve_http
from tunnel_daemon.listeners import open_tcp_listeners
from tunnel_server.meta import meta_router
from tunnel_server.metrics import Metrics
from tunnel_wire.build import build


@pytest.fixture
async def ask(nursery):
    checks: dict[str, str | None] = {"listener": None, "interception": None}
    listeners = await open_tcp_listeners(["127.0.0.1"], 0, setting="meta-port")
    router = meta_router(Metrics("1"), lambda: checks, lambda: {"cluster": "away"})
    nursery.start_soon(serve_http, listeners, router)
    base = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"

    async def curl(path: str) -> tuple[int, str]:
        done = await trio.run_process(
            ["curl", "-sS", "--max-time", "10", "-w", "\n%{http_code}", base + path],
            capture_stdout=True, stderr=subprocess.STDOUT,
        )  # fmt: skip
        body, _, status = done.stdout.decode().rpartition("\n")
        return int(status), body

    return curl, checks


async def test_health_is_answered_while_nothing_is_ready(ask) -> None:
    curl, checks = ask
    checks["interception"] = "no nftables"
    assert await curl("/healthz") == (200, "ok\n")


async def test_readiness_names_what_is_not_ready(ask) -> None:
    curl, checks = ask
    status, body = await curl("/readyz")
    assert (status, json.loads(body)) == (
        200, {"ready": True, "checks": {"listener": "ok", "interception": "ok"}, "notes": {"cluster": "away"}}
    )  # fmt: skip
    checks["interception"] = "no nftables"
    status, body = await curl("/readyz")
    assert (status, json.loads(body)) == (
        503,
        {
            "ready": False,
            "checks": {"listener": "ok", "interception": "no nftables"},
            "notes": {"cluster": "away"},
        },
    )  # fmt: skip


async def test_metrics_and_nothing_else(ask) -> None:
    curl, _ = ask
    status, body = await curl("/metrics")
    assert status == 200
    assert f'edge_tunnel_build_info{{build="{build()}",version="1"}} 1.0' in body
    assert (await curl("/debug/pprof"))[0] == 404
