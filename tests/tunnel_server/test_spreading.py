"""Where a node has several links, bulk goes apart from the rest, and the loss of one moves its streams."""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from certs.revocations import Kind
from tests.tunnel_server.core import Agent, Core, running
from tests.tunnel_server.test_resumption import cut, receive, stream
from tests.tunnel_wire.links import mute
from tunnel_wire.hello import DrainReason
from tunnel_wire.limits import WireLimits

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable

    from tunnel_server.agent_session import AgentSession
    from tunnel_wire.session import Session
    from tunnel_wire.stream import TunnelStream

PIECE = bytes(range(256)) * 4096


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at each second is looked at five times as often."""
    monkeypatch.setattr("tunnel_server.spreading._LOOK", 0.2)


async def link(core: Core, context: ssl.SSLContext, session: Session | None = None, index: int = 0) -> Agent:
    """One more, with the certificate of the others."""
    agent = await core.agent(context, session=session, index=index, resumes=True)
    await core.wait_linked("edge-1", agent.session, index + 1)
    return agent


async def two_links(core: Core, context: ssl.SSLContext | None = None) -> tuple[list[Agent], AgentSession]:
    context = context or core.node()
    first = await link(core, context)
    second = await link(core, context, first.session, 1)
    held = core.registry.by_name("edge-1").agent
    assert held is not None
    return [first, second], held


def carrier(held: AgentSession, near: TunnelStream) -> int | None:
    """Index of the link that the stream is attached to."""
    for index, each in held.links.items():
        if near._stream.connection is each.connection:
            return index
    return None


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():
            await trio.sleep(0.02)


async def go_on(calls: list[tuple[TunnelStream, TunnelStream]]) -> None:
    for near, far in calls:
        await near.send_all(b"on")
        assert await receive(far, 2) == b"on"


@asynccontextmanager
async def bulk(near: TunnelStream, far: TunnelStream) -> AsyncIterator[None]:
    """Send from here to there meanwhile, and compare what has come with what was sent."""
    sent, got = hashlib.sha256(), hashlib.sha256()
    over = False

    async def send() -> None:
        while not over:
            await near.send_all(PIECE)
            sent.update(PIECE)
        await near.send_eof()

    async def read() -> None:
        while data := await far.receive_some():
            got.update(data)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(read)
            yield
            over = True
    assert sent.digest() == got.digest()


async def test_new_calls_go_to_the_link_with_the_fewest() -> None:
    async with running() as core:
        _, held = await two_links(core)
        calls = [(await stream(core))[0] for _ in range(6)]
        assert sorted(carrier(held, each) or 0 for each in calls) == [0, 0, 0, 1, 1, 1]


async def test_the_rest_is_moved_off_the_link_of_bulk() -> None:
    async with running() as core:
        _, held = await two_links(core)
        calls = [await stream(core) for _ in range(4)]
        runs = calls.pop()
        place = carrier(held, runs[0])
        assert place in {carrier(held, near) for near, _ in calls}, "nothing to move"
        async with bulk(*runs):
            await until(lambda: all(carrier(held, near) == 1 - (place or 0) for near, _ in calls))
            assert carrier(held, runs[0]) == place, "the dear one was moved"
            for near, far in calls:
                await near.send_all(b"still here")
                assert await receive(far, 10) == b"still here"
            newer, _ = await stream(core)
            assert carrier(held, newer) != place


async def test_bulk_of_two_links_is_brought_together_where_it_is_beside_others() -> None:
    async with running() as core:
        _, held = await two_links(core)
        calls = [await stream(core) for _ in range(4)]
        one = next(each for each in calls if carrier(held, each[0]) == 0)
        other = next(each for each in calls if carrier(held, each[0]) == 1)
        quiet = [near for near, far in calls if (near, far) not in (one, other)]
        async with bulk(*one), bulk(*other):
            await until(
                lambda: (
                    carrier(held, one[0]) == carrier(held, other[0])
                    and all(carrier(held, near) == 1 - (carrier(held, one[0]) or 0) for near in quiet)
                )
            )


async def test_what_is_alone_stays_where_it_is() -> None:
    async with running() as core:
        await two_links(core)
        one, other = await stream(core), await stream(core)
        epochs = [near._stream.epoch for near, _ in (one, other)]
        async with bulk(*one), bulk(*other):
            await trio.sleep(1)
        assert [near._stream.epoch for near, _ in (one, other)] == epochs


async def test_a_lost_links_calls_go_on_on_the_other_one() -> None:
    """Sixteen, each in the middle of its bytes; then the other way round."""
    async with running() as core:
        context = core.node()
        agents, held = await two_links(core, context)
        calls = [await stream(core) for _ in range(16)]
        async with trio.open_nursery() as nursery:
            stop = trio.Event()

            async def run(near: TunnelStream, far: TunnelStream) -> None:
                async with bulk(near, far):
                    await stop.wait()

            for near, far in calls:
                nursery.start_soon(run, near, far)
            for index in (1, 0):
                await trio.sleep(0.3)
                lost = [near for near, _ in calls if carrier(held, near) == index]
                assert lost
                cut(agents[index])
                began = trio.current_time()
                await until(lambda: all(carrier(held, near) is not None for near, _ in calls))
                assert trio.current_time() - began < 1
                agents[index] = await core.agent(
                    context, session=agents[index].session, index=index, resumes=True
                )
                await until(lambda: len(held.links) == 2)
            await trio.sleep(0.3)
            stop.set()


def forget(agent: Agent) -> None:
    """As a NAT does: nothing goes out any more, and nothing comes in, without a word to anybody."""
    assert agent.link._watch is not None
    agent.link._watch.want(0)
    mute(agent.link)


async def test_a_silent_link_gets_no_calls_and_loses_those_it_has_to_the_other_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tunnel_server.spreading._DOUBT", 0.2)
    monkeypatch.setattr("tunnel_server.spreading._SILENT", 0.6)
    async with running(limits=WireLimits(heartbeat_after=0.3)) as core:
        agents, held = await two_links(core)
        calls = [await stream(core) for _ in range(6)]
        on_silent = [near for near, _ in calls if carrier(held, near) == 0]
        assert len(on_silent) == 3
        forget(agents[0])
        began = trio.current_time()
        await until(lambda: all(carrier(held, near) == 1 for near, _ in calls))
        assert trio.current_time() - began < 3, "it was given up, and not left"
        assert len(held.links) == 2
        newer = [await stream(core) for _ in range(8)]
        assert {carrier(held, near) for near, _ in newer} == {1}
        await go_on(calls + newer)


async def test_a_link_that_is_retired_gets_no_more_and_loses_nothing() -> None:
    async with running() as core:
        _, held = await two_links(core)
        calls = [await stream(core) for _ in range(4)]
        held.links[0].connection.drain(DrainReason.REPLACED)
        held.links[0].link.pump()
        for _ in range(3):
            assert carrier(held, (await stream(core))[0]) == 1
        held.links[0].link.close("retired")
        await until(lambda: len(held.links) == 1)
        await go_on(calls)


async def test_revocation_ends_both_links_and_all_that_they_carry() -> None:
    async with running() as core:
        agents, held = await two_links(core)
        calls = [await stream(core) for _ in range(4)]
        assert {carrier(held, near) for near, _ in calls} == {0, 1}
        core.revoke(Kind.NODE, "edge-1")
        for agent in agents:
            await agent.wait_over()
        for near, _ in calls:
            with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):
                await near.receive_some()
        assert not held.session.streams


async def test_after_a_renewal_streams_are_opened_on_the_new_links_alone() -> None:
    async with running(links_per_node=4) as core:
        agents, held = await two_links(core)
        renewed = core.node()
        for index in (2, 3):
            await link(core, renewed, agents[0].session, index)
            assert held.usable == [each for number, each in held.links.items() if 2 <= number <= index]
        calls = [(await stream(core))[0] for _ in range(4)]
        assert sorted(carrier(held, each) or 0 for each in calls) == [2, 2, 3, 3]


async def test_one_link_is_not_watched() -> None:
    async with running() as core:
        context = core.node()
        agent = await link(core, context)
        held = core.registry.by_name("edge-1").agent
        assert held is not None
        assert held.spreading is None
        second = await link(core, context, agent.session, 1)
        watch = held.spreading
        assert watch is not None
        cut(second)
        await until(lambda: watch.over)
        await link(core, context, agent.session, 1)
        assert held.spreading is not watch


async def test_links_beyond_the_nodes_limit_are_refused() -> None:
    async with running(links_per_node=2) as core:
        context = core.node()
        agents, held = await two_links(core, context)
        third = await core.agent(context, session=agents[0].session, index=2, resumes=True)
        await third.wait_over()
        assert third.drained == [("replaced", "edge-1 has 2 links already, see links-per-node")]
        assert len(held.links) == 2
        assert [each.ended for each in agents] == [None, None]
