"""How a server leaves: who is waited for, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.tunnel_server.core import Agent, Core, running
from tests.tunnel_wire.links import mute, unmute
from tests.tunnel_wire.test_client_hello import hello
from tunnel_daemon.http1 import Request, Response
from tunnel_server.asked import Asked
from tunnel_server.calls import Target
from tunnel_server.leaving import leave
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.splice import End
from tunnel_wire.tls_stream import TlsStream

if TYPE_CHECKING:
    from tunnel_wire.stream import TunnelStream

ASKED = Asked("test", "127.0.0.1:1", "edge-1:1")


@pytest.fixture
def patience() -> float:
    return 30.0


async def _leave(core: Core, patience: float, quiet: float = 0.2) -> None:
    requests = core.listener.requests
    await leave(
        core.calls, core.links, core.registry, requests, why="it stops", patience=patience, quiet=quiet
    )


def _place(core: Core):
    return core.calls.place(ASKED, lambda: Target(core.registry.by_name("edge-1"), "127.0.0.1", 9))


async def _linked(core: Core, **how: bool) -> Agent:
    agent = await core.agent(**how)
    with trio.fail_after(5):
        while not any(node.agent for node in core.registry.nodes.values()):
            await trio.sleep(0.01)
    return agent


async def test_an_open_call_is_waited_for_and_new_ones_are_refused(patience: float) -> None:
    async with running() as core:
        core.on_request = lambda stream: stream.accept()
        agent = await _linked(core)
        async with trio.open_nursery() as nursery:
            async with _place(core) as call:
                nursery.start_soon(_leave, core, patience)
                with trio.fail_after(5):
                    while not agent.drained:
                        await trio.sleep(0.01)
                assert agent.drained == [("shutdown", "it stops")]
                with pytest.raises(OpenFailed) as caught:
                    async with _place(core):
                        pass
                assert (caught.value.cause, caught.value.detail) == (Cause.AWAY, "it stops")
                assert not agent.over.is_set()
                call.far.reset()
            with trio.fail_after(10):
                while nursery.child_tasks:
                    await trio.sleep(0.01)


async def test_not_beyond_its_patience() -> None:
    async with running() as core:
        core.on_request = lambda stream: stream.accept()
        await _linked(core)
        async with _place(core) as call:
            with trio.fail_after(10):
                await _leave(core, 0.1)
            assert core.calls.open == 1
            call.far.reset()


async def test_a_connection_that_many_share_is_waited_for_while_it_is_used(patience: float) -> None:
    async with running() as core:
        core.on_request = lambda stream: stream.accept()
        await _linked(core)
        async with _place(core) as call:
            assert call.is_pooled(hello("h2"))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_leave, core, patience, 0.8)
                for _ in range(6):
                    await trio.sleep(0.2)
                    call.result.from_tunnel += 1
                assert nursery.child_tasks
                with trio.fail_after(10):
                    while nursery.child_tasks:
                        await trio.sleep(0.01)
            call.far.reset()


async def test_such_a_connection_that_ends_ends_the_wait_for_no_other(patience: float) -> None:
    """Its stream is known a round trip longer than the call."""
    async with running() as core:
        fars: list[TunnelStream] = []
        core.on_request = lambda stream: fars.append(stream.accept())
        agent = await _linked(core)
        async with _place(core) as lasting, trio.open_nursery() as nursery:
            async with _place(core) as pooled:
                assert pooled.is_pooled(hello("h2"))
                pooled.far.share()
                await fars[1].send_eof()
                assert await pooled.far.receive_some() == b""
                mute(agent.link)  # the receipt is still on its way
                await pooled.far.send_eof()
                pooled.far.close()
                pooled.result.end = End.FINISHED
            assert core.calls.lasting == core.calls.open == 1
            nursery.start_soon(_leave, core, patience)
            await trio.sleep(0.8)
            assert nursery.child_tasks
            nursery.cancel_scope.cancel()
        lasting.far.reset()


async def test_what_a_caller_has_left_behind_arrives(patience: float) -> None:
    """The caller has ended, and the target before it; what was said last is still on its way."""
    async with running() as core:
        fars: list[TunnelStream] = []
        core.on_request = lambda stream: fars.append(stream.accept())
        agent = await _linked(core)
        async with _place(core) as call:
            await fars[0].send_eof()
            assert await call.far.receive_some() == b""
            mute(agent.link)
            await call.far.send_eof()
            call.far.close()
            call.result.end = End.FINISHED
        assert core.calls.open == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_leave, core, patience)
            await trio.sleep(0.8)
            assert nursery.child_tasks
            unmute(agent.link)
            with trio.fail_after(10):
                while nursery.child_tasks:
                    await trio.sleep(0.01)


async def test_a_request_gets_its_answer(patience: float) -> None:
    """Who joins has used the token up, and needs the certificate."""
    answer = trio.Event()
    async with running() as core:

        async def api(_: Request) -> Response:
            await answer.wait()
            return Response.text("a certificate")

        core.listener._api = api
        context = core.credentials(None, None)
        context.set_alpn_protocols(["http/1.1"])
        silent, asking = [TlsStream(*await core.connect(context)) for _ in range(2)]
        await asking.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with trio.fail_after(5):
            while core.listener.requests() != 1:
                await trio.sleep(0.01)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_leave, core, patience)
            await trio.sleep(0.8)
            assert nursery.child_tasks
            answer.set()
            with trio.fail_after(10):
                while nursery.child_tasks:
                    await trio.sleep(0.01)
        assert bytes(await asking.receive_some()).endswith(b"a certificate")
        await silent.aclose()
        await asking.aclose()


async def test_a_call_that_is_being_opened_comes_about(patience: float) -> None:
    """Agents are told at once, since others wait for them elsewhere; they answer what they were asked."""
    async with running() as core:
        asked = []
        core.on_request = asked.append
        agent = await _linked(core)
        placed = trio.Event()

        async def place() -> None:
            async with _place(core) as call:
                placed.set()
                call.far.reset()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(place)
            nursery.start_soon(_leave, core, patience)
            with trio.fail_after(10):
                while not agent.drained:
                    await trio.sleep(0.01)
            assert not placed.is_set()
            asked[0].accept()
            with trio.fail_after(10):
                await placed.wait()


async def test_what_waits_for_its_agent_is_reset(patience: float) -> None:
    """The agent goes to another server, and will not come back for it."""
    async with running() as core:
        core.on_request = lambda stream: stream.accept()
        agent = await _linked(core, resumes=True)
        async with _place(core) as call:
            agent.link.close("the network is gone")
            await agent.wait_over()
            session = core.registry.nodes["edge-1"].former.session
            with trio.fail_after(5):
                while not session.suspended:
                    await trio.sleep(0.01)
            with trio.fail_after(10):
                await _leave(core, 0.1)
            with pytest.raises(trio.BrokenResourceError):
                await call.far.receive_some()


async def test_a_link_that_comes_late_is_sent_away(patience: float) -> None:
    async with running() as core:
        await _leave(core, patience)
        agent = await core.agent()
        await agent.wait_over()
        assert agent.drained == [("shutdown", "it stops")]
        assert not core.registry.nodes or core.registry.nodes["edge-1"].agent is None
