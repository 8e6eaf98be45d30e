"""A caller's connection without a task, over a real link: what its agent answers reaches it, whole."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import pytest
import trio
import trio.testing

from tests.tunnel_wire.links import Ends, linked, tcp_pair
from tunnel_server.asked import Asked
from tunnel_server.call_accounts import Begun, CallAccount
from tunnel_server.served_call import ServedCall
from tunnel_wire.deadlines import Deadlines
from tunnel_wire.owner import Owner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tunnel_server.calls import Calls
    from tunnel_server.registry import Node
    from tunnel_wire.stream import IncomingStream


class Told:
    """What a served call asks of `Calls`, and tells it."""

    open_timeout = 10.0

    def __init__(self) -> None:
        self.answers_due = Deadlines()
        self.entered = 0
        self.said: list[str] = []

    def enter(self) -> None:
        self.entered += 1

    def leave(self) -> None:
        self.entered -= 1

    def came_about(self, call: CallAccount) -> None:
        self.said.append("came about")

    def over(self, call: CallAccount, detail: str) -> None:
        self.leave()
        self.said.append(call.result.end.value)


class Edge:
    name = "edge-1"


class Served:
    """One call that its agent has yet to answer."""

    def __init__(
        self, ends: Ends, owner: Owner, caller: trio.SocketStream, asked: IncomingStream, told: Told
    ) -> None:
        self.stop_links = ends.nursery.cancel_scope.cancel
        self.owner = owner
        self.caller = caller
        self.asked = asked
        self.told = told


@asynccontextmanager
async def served() -> AsyncIterator[Served]:
    asked: list[IncomingStream] = []
    told = Told()
    caller, mine = tcp_pair()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            owner = Owner(nursery)
            nursery.start_soon(owner.run)
            async with linked() as ends:
                ends.on_request = asked.append
                stream = ends.opener.open_stream(ends.opening, "target", 80)
                begun = Begun(Asked("fixed", "caller", "target:80"))
                node = cast("Node", Edge())
                ServedCall(cast("Calls", told), owner, mine, begun, node, "target:80", stream).start()
                while not asked:
                    await trio.sleep(0.001)
                async with trio.SocketStream(trio.socket.from_stdlib_socket(caller)) as stream_of_caller:
                    yield Served(ends, owner, stream_of_caller, asked[0], told)
            nursery.cancel_scope.cancel()


async def test_what_comes_with_the_answer_is_whole_and_then_ends() -> None:
    """200, data and END in one read, as from a target that speaks first and is done."""
    async with served() as call:
        stream = call.asked.answer()
        stream.write(b"all that the target says")
        stream.write_end()
        stream.flush()
        said = b"".join([piece async for piece in call.caller])
        assert said == b"all that the target says"


async def test_a_call_is_not_cut_as_its_listener_closes() -> None:
    """A take-over closes it while an agent has yet to answer the listener's last call."""
    async with served() as call:
        call.owner.close()
        await trio.testing.wait_all_tasks_blocked()
        tunnel = call.asked.accept()
        await tunnel.send_all(b"after all")
        assert await call.caller.receive_some() == b"after all"
        assert call.told.said == ["came about"]
        await call.caller.aclose()
        await tunnel.aclose()
        while call.told.entered:
            await trio.sleep(0.001)


@pytest.mark.parametrize("answered", [False, True])
async def test_a_server_that_stops_has_cancelled_its_calls(answered: bool) -> None:
    """Whichever hears of it first: the links that carry them, or who owns them."""
    async with served() as call:
        if answered:
            call.asked.accept()
            while not call.told.said:
                await trio.sleep(0.001)
        call.stop_links()
        # This is in their nursery.
        with trio.CancelScope(shield=True):
            while call.told.entered:
                await trio.sleep(0.001)
        assert call.told.said == (["came about", "cancelled"] if answered else [])
