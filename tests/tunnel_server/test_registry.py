"""Who speaks for a node: the newest session replaces a dead one, and never a living one."""

from __future__ import annotations

import logging
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.tunnel_server.core import ADDRESS, Core, running
from tests.tunnel_wire.links import mute, unmute
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.flow import Budget
from tunnel_wire.hello import Hello, new_id
from tunnel_wire.session import Session

if TYPE_CHECKING:
    from tunnel_server.agent_session import AgentSession
    from tunnel_wire.stream import TunnelStream


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunnel_server.agent_session._PROBE_TIME", 0.3)
    monkeypatch.setattr("tunnel_server.links._FAREWELL", 0.1)


async def open_stream(core: Core, accepted: list[TunnelStream], name: str = "edge-1") -> TunnelStream:
    core.on_request = lambda incoming: accepted.append(incoming.accept())
    agent = core.registry.by_name(name).agent
    assert agent is not None
    with trio.fail_after(5):
        return await agent.open("127.0.0.1", 80)


async def works(near: TunnelStream, far: TunnelStream) -> bool:
    with trio.fail_after(5):
        await near.send_all(b"x")
        return await far.receive_some() == b"x"


async def test_a_living_duplicate_is_refused_and_the_first_keeps_its_streams(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running() as core:
        context = core.node()
        first = await core.agent(context)
        await core.wait_linked("edge-1", first.session)
        accepted: list[TunnelStream] = []
        near = await open_stream(core, accepted)
        second = await core.agent(context)
        await second.wait_over()
        ((reason, detail),) = second.drained
        assert reason == "duplicate"
        assert detail.startswith("edge-1 is connected from 127.0.0.1:")
        assert "two machines use the certificate of edge-1" in caplog.text
        assert "two machines" in core.registry.nodes["edge-1"].problem
        await core.wait_linked("edge-1", first.session)
        assert await works(near, accepted[0])


async def test_a_new_session_replaces_one_that_does_not_answer() -> None:
    async with running() as core:
        context = core.node()
        first = await core.agent(context)
        await core.wait_linked("edge-1", first.session)
        accepted: list[TunnelStream] = []
        stale = await open_stream(core, accepted)
        mute(first.link)  # its machine has lost its power
        second = await core.agent(context)
        await core.wait_linked("edge-1", second.session)
        with pytest.raises(trio.BrokenResourceError):
            await stale.receive_some()
        near = await open_stream(core, accepted)
        assert await works(near, accepted[-1])
        # The old link's late end takes nothing away.
        await first.wait_over()
        await core.wait_linked("edge-1", second.session)


async def test_of_two_newcomers_at_once_one_is_taken() -> None:
    async with running() as core:
        context = core.node()
        stale = await core.agent(context)
        await core.wait_linked("edge-1", stale.session)
        mute(stale.link)  # its machine has lost its power
        newcomers = [await core.agent(context) for _ in range(2)]
        with trio.fail_after(15):
            while not any(agent.drained for agent in newcomers):
                await trio.sleep(0.02)
        (refused,) = [agent for agent in newcomers if agent.drained]
        (taken,) = [agent for agent in newcomers if not agent.drained]
        assert refused.drained[0][0] == "duplicate"
        await core.wait_linked("edge-1", taken.session)


async def test_a_newcomer_that_leaves_during_the_probe_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tunnel_server.agent_session._PROBE_TIME", 30)
    async with running() as core:
        context = core.node()
        first = await core.agent(context)
        await core.wait_linked("edge-1", first.session)
        accepted: list[TunnelStream] = []
        near = await open_stream(core, accepted)
        mute(first.link)  # its machine has lost its power
        second = await core.agent(context)
        lock = core.registry.nodes["edge-1"].adopting
        with trio.fail_after(5):
            while not lock.locked():
                await trio.sleep(0.01)
            second.link.close("gone again")
            while lock.locked():
                await trio.sleep(0.01)
        unmute(first.link)
        assert await works(near, accepted[0])
        third = await core.agent(context)
        await third.wait_over()
        assert third.drained[0][0] == "duplicate"


async def test_a_link_of_the_same_session_replaces_its_own_at_once() -> None:
    async with running() as core:
        context = core.node()
        first = await core.agent(context)
        await core.wait_linked("edge-1", first.session)
        mute(first.link)  # its machine has lost its power
        with trio.fail_after(1.5):
            second = await core.agent(context, session=first.session)
            await first.wait_over()
        await core.wait_linked("edge-1", second.session)
        accepted: list[TunnelStream] = []
        assert await works(await open_stream(core, accepted), accepted[0])


async def test_links_of_a_node_are_bounded() -> None:
    async with running(links_per_node=2) as core:
        context = core.node()
        session = Session(budget=Budget(1 << 30))
        agents = [await core.agent(context, session=session, index=index) for index in range(3)]
        await agents[2].wait_over()
        assert agents[2].drained == [("replaced", "edge-1 has 2 links already, see links-per-node")]
        await core.wait_linked("edge-1", session, links=2)


async def test_streams_go_to_a_link_that_is_not_retired() -> None:
    async with running() as core:
        context = core.node()
        session = Session(budget=Budget(1 << 30))
        agents = [await core.agent(context, session=session, index=index) for index in range(2)]
        await core.wait_linked("edge-1", session, links=2)
        accepted: list[TunnelStream] = []
        agents[0].link.close("one of two")
        await core.wait_linked("edge-1", session, links=1)
        assert await works(await open_stream(core, accepted), accepted[0])
        core.links.drain("test")
        with pytest.raises(OpenFailed, match="being retired") as caught:
            await open_stream(core, accepted)
        assert caught.value.cause is Cause.AWAY


async def test_a_node_that_leaves_stays_known() -> None:
    async with running() as core:
        agent = await core.agent()
        await core.wait_linked("edge-1", agent.session)
        node = core.registry.by_name("edge-1")
        agent.link.close("test")
        with trio.fail_after(5):
            while node.agent is not None:
                await trio.sleep(0.01)
        assert core.registry.by_address(ip_address(ADDRESS)) is node
        assert core.registry.addresses() == {ip_address(ADDRESS)}
        assert node.since is not None


async def test_a_refused_duplicate_does_not_move_the_addresses() -> None:
    async with running() as core:
        first = await core.agent(core.node(addresses=("192.168.2.1",)))
        await core.wait_linked("edge-1", first.session)
        second = await core.agent(core.node(addresses=("192.168.2.2",)))
        await second.wait_over()
        assert second.drained[0][0] == "duplicate"
        assert core.registry.addresses() == {ip_address("192.168.2.1")}


async def test_addresses_are_held_to_the_rules(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with running() as core:
        for name, addresses in (("a", (ADDRESS, "10.0.0.1", "127.0.0.1")), ("b", (ADDRESS,))):
            agent = await core.agent(core.node(name, addresses), node=name)
            await core.wait_linked(name, agent.session)
        registry = core.registry
        assert registry.addresses() == {ip_address(ADDRESS)}
        assert "10.0.0.1 is not captured for a" in caplog.text
        assert f"{ADDRESS} is claimed by a, b" in caplog.text
        with pytest.raises(OpenFailed, match=r"several nodes.*a, b"):
            registry.by_address(ip_address(ADDRESS))
        with pytest.raises(OpenFailed, match=r"no node has the address 10\.0\.0\.1"):
            registry.by_address(ip_address("10.0.0.1"))
        with pytest.raises(OpenFailed, match="no node is called c"):
            registry.by_name("c")
        # One gives it up: the other's alone again.
        registry.learn("a", [])
        assert registry.by_address(ip_address(ADDRESS)).name == "b"


def test_session_ids_stay_out_of_what_is_shown() -> None:
    hello = Hello("1", session=new_id(), node="edge-1")
    assert hello.session not in repr(hello)


async def test_a_node_that_comes_back_in_time_is_waited_for() -> None:
    async with running() as core:
        node = core.registry.node("edge-1")
        found: list[AgentSession] = []

        async def wait() -> None:
            found.append(await core.registry.wait_for(node, 20))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            agent = await core.agent()
        assert found[0].session.identifier == agent.session.identifier
        with trio.fail_after(10):
            assert await core.registry.wait_for(node, 0) is found[0]


async def test_a_node_that_stays_away_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as core:
        node = core.registry.node("edge-1")
        began = trio.current_time()
        with pytest.raises(OpenFailed, match="edge-1 is not connected and did not come back within 5 s"):
            await core.registry.wait_for(node, 5)
        assert trio.current_time() - began == 5
