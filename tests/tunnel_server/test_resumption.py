"""Calls outlive links: an agent that comes back goes on with them, another in its place does not."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from certs.revocations import Kind
from tests.tunnel_server.core import Agent, Core, running
from tests.tunnel_wire.links import tcp_pair
from tests.tunnel_wire.test_client_hello import hello
from tunnel_server.frontends.joining import join
from tunnel_wire.client_hello import Http2Offer
from tunnel_wire.flow import Budget
from tunnel_wire.limits import WireLimits
from tunnel_wire.session import Session
from tunnel_wire.splice import End, SpliceResult, splice
from tunnel_wire.stream_state import EndCause

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tunnel_wire.stream import TunnelStream


async def linked(core: Core, session: Session | None = None, *, index: int = 0) -> Agent:
    """One more link, beside those of a lower index."""
    agent = await core.agent(core.node(), session=session, index=index, resumes=True)
    await core.wait_linked("edge-1", agent.session, index + 1)
    return agent


async def stream(core: Core) -> tuple[TunnelStream, TunnelStream]:
    accepted: list[TunnelStream] = []
    core.on_request = lambda incoming: accepted.append(incoming.accept())
    held = core.registry.by_name("edge-1").agent
    assert held is not None
    with trio.fail_after(5):
        return await held.open("127.0.0.1", 80), accepted[0]


def serial(core: Core) -> str:
    """Of the certificate that the first link has shown."""
    held = core.registry.by_name("edge-1").agent
    assert held is not None
    watched = held.links[0].watched
    assert watched is not None
    return watched.serial


def cut(agent: Agent) -> None:
    """As a network does: without a word."""
    agent.link._sock.shutdown(socket.SHUT_RDWR)
    agent.link.close("cut")


async def away(core: Core, agent: Agent) -> None:
    await agent.wait_over()
    with trio.fail_after(5):
        while core.registry.nodes["edge-1"].agent is not None:
            await trio.sleep(0.01)


async def receive(stream: TunnelStream, size: int) -> bytes:
    data = b""
    with trio.fail_after(5):
        while len(data) < size:
            data += await stream.receive_some()
    return data


async def test_a_call_goes_on_with_the_next_link() -> None:
    async with running() as core:
        agent = await linked(core)
        near, far = await stream(core)
        await near.send_all(b"before ")
        assert await receive(far, 7) == b"before "
        cut(agent)
        await away(core, agent)
        session = core.registry.nodes["edge-1"].former
        assert session is not None
        assert len(session.session.suspended) == len(agent.session.suspended) == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, b"while away")
            nursery.start_soon(far.send_all, bytes(200_000))
            await linked(core, agent.session)
            assert await receive(far, 10) == b"while away"
            assert await receive(near, 200_000) == bytes(200_000)
        assert not session.session.suspended
        await near.send_eof()
        with trio.fail_after(5):
            assert await far.receive_some() == b""


async def test_another_link_of_the_session_takes_over_at_once() -> None:
    async with running() as core:
        first = await linked(core)
        near, far = await stream(core)
        await linked(core, first.session, index=1)
        cut(first)
        await first.wait_over()
        await near.send_all(b"on")
        assert await receive(far, 2) == b"on"


async def test_a_reset_while_away_is_learnt_on_the_next_link() -> None:
    async with running() as core:
        agent = await linked(core)
        pairs = [await stream(core) for _ in range(3)]
        cut(agent)
        await away(core, agent)
        pairs[0][0].reset()
        pairs[1][1].reset()
        await linked(core, agent.session)
        for broken in (pairs[0][1], pairs[1][0]):
            with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
                await broken.receive_some()
        near, far = pairs[2]
        await far.send_all(b"on")
        assert await receive(near, 2) == b"on"


async def test_a_new_session_of_the_node_ends_them() -> None:
    async with running() as core:
        agent = await linked(core)
        near, _ = await stream(core)
        cut(agent)
        await away(core, agent)
        await linked(core)
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError, match="the agent was started anew"):
            await near.receive_some()


async def test_an_agent_that_stops_ends_them_at_once() -> None:
    async with running() as core:
        agent = await linked(core)
        near, _ = await stream(core)
        agent.link.close("stopping", for_good=True)
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            await near.receive_some()


async def test_a_revoked_link_that_ends_early_takes_its_streams_with_it() -> None:
    async with running() as core:
        first = await linked(core)
        near, _ = await stream(core)
        await linked(core, first.session, index=1)
        held = core.registry.by_name("edge-1").agent
        assert held is not None
        core.revoke(Kind.SERIAL, serial(core))
        await trio.testing.wait_all_tasks_blocked()
        cut(first)
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            await near.receive_some()
        assert first.drained
        assert near.end_cause is EndCause.LINK_LOST
        assert not held.session.suspended
        assert 1 in held.links


@pytest.mark.parametrize("kind", [Kind.NODE, Kind.SERIAL])
async def test_whoever_is_revoked_while_away_has_its_calls_reset(
    kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as core:
        agent = await linked(core)
        near, _ = await stream(core)
        shown = serial(core)
        cut(agent)
        await away(core, agent)
        core.revoke(kind, "another" if kind is Kind.NODE else "123")
        assert near.end_cause is None
        core.revoke(kind, "edge-1" if kind is Kind.NODE else shown)
        assert near.end_cause is EndCause.REVOKED
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError, match="was revoked"):
            await near.receive_some()
        assert "streams that waited for a link end: " in caplog.text


async def test_what_another_link_went_on_with_ends_with_that_one_alone() -> None:
    async with running() as core:
        agent = await linked(core)
        near, far = await stream(core)
        former = serial(core)
        cut(agent)
        await away(core, agent)
        agent = await linked(core, agent.session)
        await near.send_all(b"on")
        assert await receive(far, 2) == b"on"
        cut(agent)
        await away(core, agent)
        core.revoke(Kind.SERIAL, former)
        assert near.end_cause is None
        await linked(core, agent.session)
        await near.send_all(b"on")
        assert await receive(far, 2) == b"on"


async def test_they_expire() -> None:
    async with running(limits=WireLimits(resume_grace=1)) as core:
        agent = await linked(core)
        near, _ = await stream(core)
        cut(agent)
        await away(core, agent)
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError, match="no other came"):
            await near.receive_some()


async def test_no_grace_no_suspension() -> None:
    async with running(limits=WireLimits(resume_grace=0)) as core:
        agent = await linked(core)
        near, _ = await stream(core)
        cut(agent)
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError, match="link was lost"):
            await near.receive_some()


async def test_a_stolen_session_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    async with running() as core:
        agent = await linked(core)
        near, far = await stream(core)
        cut(agent)
        await away(core, agent)
        thieves = Session(budget=Budget(1 << 30), identifier=agent.session.identifier, first_key=1 << 63)
        context = core.node("edge-2", ("192.168.2.144",))
        thief = await core.agent(context, node="edge-2", session=thieves, resumes=True)
        await thief.wait_over()
        assert thief.drained
        assert "edge-2 shows a session of edge-1" in caplog.text
        assert agent.session.identifier not in caplog.text
        await linked(core, agent.session)
        await near.send_all(b"on")
        assert await receive(far, 2) == b"on"


async def test_memory_that_is_needed_costs_the_longest_suspended() -> None:
    async with running() as core:
        agent = await linked(core)
        pairs = [await stream(core) for _ in range(2)]
        cut(agent)
        await away(core, agent)
        core.registry.budget.total = 4 * 128 * 1024
        for name in ("edge-2", "edge-3"):
            other = await core.agent(core.node(name, ()), node=name)
            await core.wait_linked(name, other.session)
        others = [core.registry.by_name(name).agent for name in ("edge-2", "edge-2", "edge-3")]
        for held in others:
            assert held is not None
            with trio.fail_after(5):
                await held.open("127.0.0.1", 80)
        assert [near.end_cause for near, _ in pairs] == [EndCause.RECLAIMED, None]


async def joined(tunnel: TunnelStream, served: socket.socket, result: SpliceResult) -> None:
    await join(trio.SocketStream(trio.socket.from_stdlib_socket(served)), tunnel, result, Http2Offer())


async def spliced(tunnel: TunnelStream, served: socket.socket, result: SpliceResult) -> None:
    await splice(tunnel, served, result, is_pooled=Http2Offer())


@pytest.mark.parametrize("carry", [joined, spliced])
@pytest.mark.parametrize(("said", "end"), [(hello("h2"), EndCause.EXPIRED), (hello("http/1.1"), None)])
async def test_connections_that_requests_share_expire_sooner(
    said: bytes,
    end: EndCause | None,
    carry: Callable[[TunnelStream, socket.socket, SpliceResult], Awaitable[None]],
) -> None:
    result = SpliceResult()
    async with running(limits=WireLimits(resume_grace_pooled=0.3)) as core:
        agent = await linked(core)
        near, far = await stream(core)
        wire = near._stream
        caller, served = tcp_pair()
        with caller:
            core.nursery.start_soon(carry, near, served, result)
            caller.send(said[:9])
            assert await receive(far, 9) == said[:9]
            caller.send(said[9:])
            assert await receive(far, len(said) - 9) == said[9:]
            cut(agent)
            await away(core, agent)
            await trio.sleep(0.5)
            assert wire.end_cause is end
            # What the log and the audit log say of it.
            assert (result.end, result.detail) == (
                (End.LINK_LOST, end.value) if end is not None else (End.CANCELLED, "")
            )


async def test_agents_are_told_for_how_long_those_are_kept() -> None:
    async with running(limits=WireLimits(resume_grace_pooled=0.3)) as core:
        session = (await linked(core)).session
        suspended = session.suspended
        for pooled, seconds in ((True, 1.0), (False, 90.0)):
            stream = session.new_stream("127.0.0.1", 80)
            stream.is_pooled = pooled
            stream.suspend(0.0)
            assert suspended.kept_until() == seconds
