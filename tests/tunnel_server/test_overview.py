"""The server's state as it is told: nodes, calls, interception, and the gauges that count them."""

from __future__ import annotations

from ipaddress import ip_address
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.tunnel_server.core import ADDRESS, Core, running
from tests.tunnel_server.test_metrics import samples
from tunnel_server.admin.views import ListenerView
from tunnel_server.asked import Asked
from tunnel_server.intercept.config import Refusal, Statistics
from tunnel_server.mappings import PortMappings
from tunnel_server.overview import Overview
from tunnel_wire.build import build
from tunnel_wire.causes import OpenFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HELD, SHARED = ip_address(ADDRESS), ip_address("192.168.2.144")


class Interception:
    """Says what a test wants."""

    def __init__(self) -> None:
        self.differently: dict[str, Any] = {}

    def statistics(self) -> Statistics:
        usual: dict[str, Any] = {
            "active": True, "owned": True, "addresses": (HELD,), "ports": {}, "routes": (), "refused": (),
            "restored": 0, "problem": None,
        }  # fmt: skip
        return Statistics(**usual | self.differently)


def overview(core: Core, interception: Interception | None = None, *problems: str) -> Overview:
    return Overview(
        version="1.2.3", instance="0123456789abcdef", registry=core.registry, calls=core.calls,
        mappings=PortMappings(core.state, {9081: 10264}), metrics=core.metrics,
        interception=interception,  # type: ignore[arg-type]
        problems=lambda: problems,
        entrances=lambda: [ListenerView(name="insecure", address="127.0.0.1:10264")],
    )  # fmt: skip


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    async with running() as made:
        yield made


async def test_a_node_that_is_connected(core: Core) -> None:
    agent = await core.agent()
    await core.wait_linked("edge-1", agent.session)
    node = core.registry.nodes["edge-1"]
    node.open_calls, node.bytes_up, node.bytes_down = 1, 2, 3
    (view,) = overview(core, Interception()).nodes()
    assert (view.name, view.addresses, view.captured) == ("edge-1", (ADDRESS,), (ADDRESS,))
    assert (view.connected, view.agent_version, view.problem) == (True, "1", None)
    assert view.remote_address.startswith("127.0.0.1:")
    assert (view.open_calls, view.bytes_up, view.bytes_down) == (1, 2, 3)
    assert view.since is not None
    assert overview(core).nodes()[0].captured == (), "nothing is, without interception"


async def test_of_two_links_the_newest_is_told_and_each_stands_for_itself(core: Core) -> None:
    context = core.node()
    first = await core.agent(context, index=0)
    await core.agent(context, session=first.session, index=1)
    await core.wait_linked("edge-1", first.session, links=2)
    node = core.registry.nodes["edge-1"]
    assert node.agent is not None
    (view,) = overview(core).nodes()
    assert view.remote_address == node.agent.links[1].remote
    assert view.links[-1].rtt_ms == view.rtt_ms
    assert [(link.index, link.remote_address, link.retiring) for link in view.links] == [
        (index, node.agent.links[index].remote, False) for index in (0, 1)
    ]
    assert view.since is not None
    assert all(abs((link.since - view.since).total_seconds()) < 5 for link in view.links)
    accepted: list[object] = []
    core.on_request = lambda incoming: accepted.append(incoming.accept())
    asked = await node.agent.open("127.0.0.1", 9)
    first.link.connection.draining = node.agent.links[0].connection.draining = True
    (view,) = overview(core).nodes()
    assert [(link.calls, link.retiring) for link in view.links] == [(1, True), (0, False)]
    await asked.aclose()
    overview(core).count()
    assert samples(core.metrics)["edge_tunnel_links",] == 2


async def test_nodes_that_are_away_share_an_address_or_have_a_problem(core: Core) -> None:
    core.registry.learn("edge-2", [SHARED])
    core.registry.learn("edge-1", [HELD, SHARED])
    core.registry.learn("edge-3", [ip_address("10.0.0.1")])
    one, two, three = overview(core, Interception()).nodes()
    assert (one.connected, one.since, one.rtt_ms, one.remote_address) == (False, None, None, "")
    assert one.captured == (ADDRESS,)
    assert one.problem == "192.168.2.144 is claimed by edge-2 too: it is refused for all of them"
    assert two.problem == "192.168.2.144 is claimed by edge-1 too: it is refused for all of them"
    assert three.problem is not None
    assert "10.0.0.1 is refused: " in three.problem


async def test_a_shared_address_of_one_that_is_away_can_be_freed(core: Core) -> None:
    agent = await core.agent()
    await core.wait_linked("edge-1", agent.session)
    core.registry.learn("edge-2", [HELD])
    one, two = overview(core).nodes()
    remedy = "; if edge-2, which is away, will not come back: tunnelctl nodes forget edge-2"
    assert one.problem == f"{ADDRESS} is claimed by edge-2 too: it is refused for all of them{remedy}"
    assert two.problem == f"{ADDRESS} is claimed by edge-1 too: it is refused for all of them"
    with pytest.raises(OpenFailed) as refused:
        core.registry.by_address(HELD)
    assert refused.value.detail.endswith(remedy)


async def test_a_node_that_is_revoked(core: Core) -> None:
    core.registry.withdraw(core.registry.node("edge-1"), "node edge-1 was revoked at noon")
    (one,) = overview(core).nodes()
    assert one.problem == "node edge-1 was revoked at noon; others may have its addresses"


async def test_the_status(core: Core) -> None:
    agent = await core.agent()
    await core.wait_linked("edge-1", agent.session)
    core.registry.node("edge-2")
    told = overview(core, None, "http-proxy-ports: 0 is no port")
    told.own.append(ListenerView(name="tunnel", address="0.0.0.0:10262"))

    def unknown() -> Any:
        return core.registry.by_name("edge-9") and None

    with pytest.raises(OpenFailed):
        async with core.calls.place(Asked("insecure", "127.0.0.1:5", "edge-9:80"), unknown):
            raise AssertionError
    status = told.status()
    assert (status.version, status.instance) == ("1.2.3", "01234567"), "the whole instance is a secret"
    assert status.build == build()
    assert (status.nodes_known, status.nodes_connected, status.calls_open) == (2, 1, 0)
    assert [each.name for each in status.listeners] == ["insecure", "tunnel"]
    assert {each.port: each.source for each in status.mappings}[9081] == "configured"
    assert status.mapping_problems == ("http-proxy-ports: 0 is no port",)
    assert status.memory_budget_bytes == core.registry.budget.total
    assert [(each.name, each.calls, each.failed) for each in status.frontends] == [("insecure", 1, 1)]
    (failure,) = status.recent_failures
    assert (failure.caller, failure.target, failure.cause) == ("127.0.0.1:5", "edge-9:80", "no-such-node")


async def test_the_time_since_the_start(core: Core, autojump_clock: trio.testing.MockClock) -> None:
    told = overview(core)
    await trio.sleep(90)
    assert told.status().uptime_seconds == 90


@pytest.mark.parametrize(
    ("differently", "state", "problems"),
    [
        ({}, "active", ()),
        ({"active": False, "problem": "no nftables"}, "failed", ("no nftables",)),
        (
            {"refused": (Refusal(HELD, "an address of this host"),)},
            "active",
            (f"{HELD}: an address of this host",),
        ),
    ],
)
async def test_interception(
    core: Core, differently: dict[str, Any], state: str, problems: tuple[str, ...]
) -> None:
    interception = Interception()
    interception.differently = differently
    told = overview(core, interception)
    view = told.status().interception
    assert (view.state, view.addresses, view.problems) == (state, 1, problems)
    assert told.checks() == {"interception": "no nftables" if state == "failed" else None}


async def test_without_interception_nothing_of_it_is_missing(core: Core) -> None:
    told = overview(core)
    assert told.status().interception.state == "off"
    assert told.checks() == {"interception": None}


async def test_the_gauges(core: Core) -> None:
    agent = await core.agent()
    await core.wait_linked("edge-1", agent.session)
    interception = Interception()
    told = overview(core, interception, "a problem")
    interception.differently = {"restored": 2}
    told.count()
    interception.differently = {"restored": 3, "active": False}
    told.count()
    counted = SimpleNamespace(
        **{key[0].removeprefix("edge_tunnel_"): value for key, value in samples(core.metrics).items()}
    )
    assert (counted.nodes_connected, counted.sessions, counted.links) == (1, 1, 1)
    assert (counted.memory_used_bytes, counted.memory_budget_bytes) == (
        core.registry.budget.used,
        core.registry.budget.total,
    )
    assert (counted.interception_active, counted.addresses_captured, counted.mapping_problems) == (0, 1, 1)
    assert counted.interception_restores_total == 3, "each is counted once"
    assert counted.tasks == trio.lowlevel.current_statistics().tasks_living
