import json

from tunnel_agent.health_pages import Health
from tunnel_agent.status import AgentStatus, Waiting
from tunnel_daemon.http1 import Request
from tunnel_wire.build import build


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
    assert details["build"] == build()
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
