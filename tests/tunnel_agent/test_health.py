import json
import socket

import trio
import trio.testing

from tunnel_agent.health import Health, serve_health
from tunnel_agent.status import AgentStatus, Waiting
from tunnel_daemon.http1 import Request


async def get(health: Health, path: str):
    return await health.router(Request("GET", path, {}, {}))


async def test_alive_whatever_the_server_does():
    assert (await get(Health(AgentStatus("1")), "/healthz")).status == 200


async def test_ready_means_linked():
    status = AgentStatus("1")
    health = Health(status)
    response = await get(health, "/readyz")
    assert (response.status, response.body) == (503, b"not linked: connecting\n")
    status.failed("tunnel.example:10262: Connection refused")
    response = await get(health, "/readyz")
    assert (response.status, response.body) == (
        503,
        b"not linked: tunnel.example:10262: Connection refused\n",
    )
    status.linked("tunnel.example:10262")
    response = await get(health, "/readyz")
    assert response.status == 200
    assert response.body.startswith(b"linked to tunnel.example:10262 since 20")
    status.unlinked()
    assert (await get(health, "/readyz")).status == 503


async def test_details():
    status = AgentStatus("1.2.3", node="edge-1")
    status.linked("tunnel.example:10262")
    status.refused["not-allowed"] += 2
    details = json.loads((await get(Health(status), "/status")).body)
    assert details["version"] == "1.2.3"
    assert details["node"] == "edge-1"
    assert details["linked"] is True
    assert details["server"] == "tunnel.example:10262"
    assert details["linked_since"].endswith("UTC")
    assert details["last_failure"] is None
    assert details["refused"] == {"not-allowed": 2}
    assert details["tasks"] > 0
    assert (details["suspended"], details["suspended_pooled"], details["waits_for"]) == (0, 0, None)
    status.waiting = lambda: Waiting(3, 1, "tunnel.example:10262")
    details = json.loads((await get(Health(status), "/status")).body)
    assert (details["suspended"], details["suspended_pooled"]) == (3, 1)
    assert details["waits_for"] == "tunnel.example:10262"


async def test_names_in_the_details():
    status = AgentStatus("1")
    name = {"addresses": ["127.0.0.7"], "unanswered_s": 12.5}
    status.names, status.lookups = lambda: {"tunnel.example": name}, lambda: 3
    details = json.loads((await get(Health(status), "/status")).body)
    assert (details["names"], details["lookups"]) == ({"tunnel.example": name}, 3)


async def test_over_http():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_health, AgentStatus("1"), "127.0.0.1", port)
        await trio.testing.wait_all_tasks_blocked()
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 OK\r\n")
        nursery.cancel_scope.cancel()


async def test_a_taken_port_costs_one_warning(caplog):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with trio.fail_after(5):
            await serve_health(AgentStatus("1"), "127.0.0.1", port)
    (message,) = caplog.messages
    assert f"127.0.0.1:{port}" in message
    assert "health-port" in message


async def test_port_zero_serves_nothing(caplog):
    with trio.fail_after(5):
        await serve_health(AgentStatus("1"), "127.0.0.1", 0)
    assert not caplog.messages
