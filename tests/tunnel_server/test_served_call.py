"""A caller's connection without a task, over a real link: what its agent answers reaches it whole, and what
it says first is at the agent before that.
"""

from __future__ import annotations

import socket
import struct
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest
import trio
import trio.testing

from tests.tunnel_wire.links import Ends, linked, tcp_pair
from tests.tunnel_wire.test_client_hello import hello
from tunnel_server.asked import Asked
from tunnel_server.call_accounts import Begun, CallAccount
from tunnel_server.served_call import CALLER_LEFT, ServedCall
from tunnel_wire import readiness
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.deadlines import Deadlines
from tunnel_wire.limits import DEFAULT_LIMITS
from tunnel_wire.owner import Owner
from tunnel_wire.stream_state import State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tunnel_server.calls import Calls
    from tunnel_server.registry import Node
    from tunnel_wire.session import Stream
    from tunnel_wire.stream import IncomingStream


class Told:
    """What a served call asks of `Calls`, and tells it."""

    open_timeout = 10.0

    def __init__(self) -> None:
        self.answers_due = Deadlines()
        self.entered = 0
        self.said: list[str] = []
        self.pooled = False
        self.to_tunnel = 0
        self.at_once = 0
        """Bytes that were sent before `start` returned."""

    def enter(self) -> None:
        self.entered += 1

    def leave(self) -> None:
        self.entered -= 1

    def came_about(self, call: CallAccount) -> None:
        self.said.append("came about")

    def over(self, call: CallAccount, detail: str) -> None:
        self.leave()
        self.said.append(call.result.end.value)
        self.pooled, self.to_tunnel = call.pooled, call.result.to_tunnel

    def not_placed(self, begun: Begun, failure: OpenFailed, node: str = "", target: str = "") -> None:
        self.said.append(failure.detail)


class Edge:
    name = "edge-1"


class Served:
    """One call that its agent has yet to answer."""

    def __init__(
        self,
        ends: Ends,
        owner: Owner,
        mine: socket.socket,
        caller: trio.SocketStream,
        asked: IncomingStream,
        told: Told,
    ) -> None:
        self.ends = ends
        self.mine = mine
        self.stop_links = ends.nursery.cancel_scope.cancel
        (self.near,), (self.far,) = ends.opening.streams.values(), ends.answering.streams.values()
        self.owner = owner
        self.caller = caller
        self.asked = asked
        self.told = told

    async def over(self) -> None:
        """Wait for the account's end."""
        await until(lambda: not self.told.entered)

    async def has_left_nothing(self) -> None:
        """Neither a descriptor nor memory, at both ends."""
        assert not self.told.entered
        assert not self.told.answers_due._due
        assert self.mine.fileno() < 0
        await until(lambda: self.ends.opening.budget.used == self.ends.answering.budget.used == 0)

    async def is_called_off(self) -> None:
        """What the agent does for it."""
        with trio.fail_after(5), self.asked.scope:
            await trio.sleep_forever()


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await trio.sleep(0.001)


def reset(caller: trio.SocketStream) -> None:
    caller.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    caller.socket.close()


@asynccontextmanager
async def served(
    said: bytes = b"", *, optimistic: bool = True, window: int = DEFAULT_LIMITS.initial_window
) -> AsyncIterator[Served]:
    """A caller that has `said` something by the time at which it is accepted."""
    asked: list[IncomingStream] = []
    told = Told()
    caller, mine = tcp_pair()
    caller.sendall(said)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            owner = Owner(nursery)
            nursery.start_soon(owner.run)
            limits = replace(DEFAULT_LIMITS, initial_window=window)
            async with linked(limits, optimistic=optimistic) as ends:
                ends.on_request = asked.append
                stream = ends.opener.open_stream(ends.opening, "target", 80)
                begun = Begun(Asked("fixed", "caller", "target:80"))
                node = cast("Node", Edge())
                ServedCall(cast("Calls", told), owner, mine, begun, node, "target:80", stream).start()
                told.at_once = stream.outgoing.sent
                await until(lambda: bool(asked))
                async with trio.SocketStream(trio.socket.from_stdlib_socket(caller)) as stream_of_caller:
                    yield Served(ends, owner, mine, stream_of_caller, asked[0], told)
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


# --- what the caller says before the answer -----------------------------------------------------------


def queued(stream: Stream) -> bytes:
    return b"".join(stream.incoming.queue)


async def test_what_a_caller_says_is_at_the_agent_before_its_answer() -> None:
    async with served(b"hello, ") as call:
        assert call.told.at_once == len(b"hello, ")
        await until(lambda: queued(call.far) == b"hello, ")
        await call.caller.send_all(b"edge")
        await until(lambda: queued(call.far) == b"hello, edge")
        assert call.told.said == []
        tunnel = call.asked.accept()
        assert await tunnel.receive_some() == b"hello, edge"
        await call.caller.send_all(b"!")
        assert await tunnel.receive_some() == b"!"
        await tunnel.aclose()
        assert await call.caller.receive_some() == b""
        await call.caller.aclose()
        await call.over()
        assert call.told.said == ["came about", "finished"]
        assert call.told.to_tunnel == len(b"hello, edge!")


async def test_a_server_that_is_killed_before_the_answer_resets_its_caller() -> None:
    """What the kernel does with a socket of which everything was read: as it was told before."""
    async with served(b"hello") as call:
        await until(lambda: queued(call.far) == b"hello")
        lingers = call.mine.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.calcsize("ii"))
        assert struct.unpack("ii", lingers) == (1, 0)


async def test_an_agent_that_does_not_take_it_gets_it_behind_the_answer() -> None:
    async with served(b"hello", optimistic=False) as call:
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert call.near.outgoing.written == 0
        assert await call.asked.accept().receive_some() == b"hello"


async def test_a_caller_that_has_said_everything() -> None:
    """Its end waits for the answer, and is asked for no more until then."""
    async with served(b"all") as call:
        await call.caller.send_eof()
        await until(lambda: queued(call.far) == b"all")
        await trio.testing.wait_all_tasks_blocked(0.01)
        before = readiness._poller_of_this_loop().rounds
        await trio.sleep(0.05)
        assert readiness._poller_of_this_loop().rounds - before < 10
        assert call.far.incoming.end is None
        tunnel = call.asked.accept()
        assert b"".join([piece async for piece in tunnel]) == b"all"
        await tunnel.send_all(b"heard")
        await tunnel.aclose()
        assert b"".join([piece async for piece in call.caller]) == b"heard"
        await call.over()
        assert call.told.said == ["came about", "finished"]


@pytest.mark.parametrize("window", [DEFAULT_LIMITS.initial_window, 1 << 20])
async def test_more_than_a_window_waits_in_the_kernel(window: int) -> None:
    """An agent may grant more than is read at a time."""
    said = bytes(range(256)) * 4 * 5000
    async with served(window=window) as call, trio.open_nursery() as nursery:
        nursery.start_soon(call.caller.send_all, said)
        await until(lambda: call.far.incoming.queued == call.far.incoming.window)
        await trio.testing.wait_all_tasks_blocked(0.01)
        before = readiness._poller_of_this_loop().rounds
        await trio.sleep(0.05)
        assert readiness._poller_of_this_loop().rounds - before < 10
        assert call.near.outgoing.written == call.far.incoming.window < len(said)
        tunnel = call.asked.accept()
        heard = bytearray()
        while len(heard) < len(said):
            heard += await tunnel.receive_some()
        assert heard == said


@pytest.mark.parametrize("said", [b"", b"hello"])
async def test_a_caller_that_resets_before_the_answer(said: bytes) -> None:
    async with served(said) as call:
        await until(lambda: queued(call.far) == said)
        reset(call.caller)
        await until(lambda: bool(call.told.said))
        assert call.told.said == [CALLER_LEFT]
        await call.is_called_off()
        await call.has_left_nothing()


async def test_a_caller_that_resets_with_more_than_a_window_unread() -> None:
    async with served() as call:
        window = call.far.incoming.window
        with trio.move_on_after(0.1):
            await call.caller.send_all(bytes(window + (64 << 10)))
        await until(lambda: call.far.incoming.queued == window)
        reset(call.caller)
        await until(lambda: bool(call.told.said))
        assert call.told.said == [CALLER_LEFT]
        await call.is_called_off()
        await call.has_left_nothing()


@pytest.mark.parametrize("said", [b"", b"hello"])
async def test_a_caller_that_has_reset_before_it_is_served(said: bytes) -> None:
    """Either its socket says so as it is read, or what watches it."""
    caller, mine = tcp_pair()
    caller.sendall(said)
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    caller.close()
    told = Told()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery, linked() as ends:
            stream = ends.opener.open_stream(ends.opening, "target", 80)
            begun = Begun(Asked("fixed", "caller", "target:80"))
            calls, node = cast("Calls", told), cast("Node", Edge())
            ServedCall(calls, Owner(nursery), mine, begun, node, "target:80", stream).start()
            await until(lambda: bool(told.said))
            assert told.said == [CALLER_LEFT]
            assert told.entered == 0
            assert mine.fileno() < 0
            await until(lambda: ends.opening.budget.used == ends.answering.budget.used == 0)


async def test_a_server_that_stops_drops_what_was_said_early() -> None:
    async with served(b"hello") as call:
        await until(lambda: queued(call.far) == b"hello")
        (waiting,) = call.told.answers_due._due
        waiting.cut()
        with pytest.raises(trio.BrokenResourceError):
            await call.caller.receive_some()
        assert call.told.said == []
        await call.is_called_off()
        await call.has_left_nothing()


async def test_what_was_said_to_a_target_that_is_refused_is_dropped() -> None:
    async with served(b"hello") as call:
        await until(lambda: queued(call.far) == b"hello")
        await call.caller.send_all(b"more, which is on its way as the answer comes")
        call.asked.refuse(Cause.REFUSED, "nobody listens")
        with pytest.raises(trio.BrokenResourceError):
            await call.caller.receive_some()
        assert call.told.said == ["nobody listens"]
        await call.has_left_nothing()


async def test_nothing_is_left_of_a_call_that_is_overdue() -> None:
    async with served(b"hello") as call:
        await until(lambda: queued(call.far) == b"hello")
        (waiting,) = call.told.answers_due._due
        waiting.overdue()
        with pytest.raises(trio.BrokenResourceError):
            await call.caller.receive_some()
        assert call.told.said == ["no answer from the agent within 10 s"]
        await call.is_called_off()
        await call.has_left_nothing()


@pytest.mark.parametrize("split", [0, 40, None])
@pytest.mark.parametrize("offer", ["h2", "http/1.1"])
async def test_a_connection_that_many_requests_share_is_known_by_what_comes_early(
    split: int | None, offer: str
) -> None:
    """Its ClientHello before the answer, behind it, or on both sides of it."""
    whole = hello(offer)
    async with served(whole[:split]) as call:
        await until(lambda: queued(call.far) == whole[:split])
        tunnel = call.asked.accept()
        await call.caller.send_all(whole[len(whole[:split]) :])
        heard = b""
        while heard != whole:
            heard += await tunnel.receive_some()
        assert call.near.is_pooled is (offer == "h2")
        await tunnel.aclose()
        await call.caller.aclose()
        await call.over()
        assert call.told.pooled is (offer == "h2")


async def test_a_defect_in_the_first_read_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket's number, for one, is the next caller's."""

    def defect(account: CallAccount, data: bytes) -> bool | None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(CallAccount, "is_pooled", defect)
    told = Told()
    caller, mine = tcp_pair()
    with caller, trio.fail_after(5):
        caller.sendall(b"hello")
        async with linked() as ends, trio.open_nursery() as nursery:
            ends.on_request = lambda _incoming: None
            owner = Owner(nursery)
            nursery.start_soon(owner.run)
            stream = ends.opener.open_stream(ends.opening, "target", 80)
            begun = Begun(Asked("fixed", "caller", "target:80"))
            node, number = cast("Node", Edge()), mine.fileno()
            call = ServedCall(cast("Calls", told), owner, mine, begun, node, "target:80", stream)
            with pytest.raises(RuntimeError, match="a defect"):
                call.start()
            assert mine.fileno() == -1
            assert number not in readiness._poller_of_this_loop()._watches
            assert (told.entered, stream.face, stream.state) == (0, None, State.CLOSED)
            assert not told.answers_due._due
            nursery.cancel_scope.cancel()
