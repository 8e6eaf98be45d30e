"""A call to its end: what the caller sees when it fails is a reset, and the operator sees why."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.e2e.stopwatch import Stopwatch
from tests.tunnel_server.core import Agent, Core, running
from tests.tunnel_wire.links import tcp_pair
from tunnel_server.asked import Asked
from tunnel_server.calls import Calls, Target
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.frames import ErrorCode
from tunnel_wire.owner import Owner
from tunnel_wire.sockets import close_with_reset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tunnel_wire.stream import IncomingStream, TunnelStream


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """A port where everything comes back."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                async for data in stream:
                    await stream.send_all(data)
            except trio.BrokenResourceError:
                pass

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True, params=["without a task where it can be", "in a task"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers must not notice which it is."""
    if request.param == "in a task":
        monkeypatch.setattr(Calls, "begin", lambda *_: False)


def begin(
    nursery: trio.Nursery, calls: Calls, sock: socket.socket, asked: Asked, find: Callable[[], Target]
) -> None:
    """Serve a caller's connection as a listener would."""
    owner = Owner(nursery)
    nursery.start_soon(owner.run)
    if not calls.begin(owner, sock, asked, find):
        nursery.start_soon(calls.serve, sock, asked, find)


def call(
    core: Core, port: int, *, node: str = "edge-1", nursery: trio.Nursery | None = None
) -> socket.socket:
    """A caller's socket; its other end is being served."""
    caller, accepted = tcp_pair()

    def find() -> Target:
        return Target(core.registry.by_name(node), "127.0.0.1", port)

    asked = Asked("fixed", "caller:1", f"{node}:{port}")
    begin(nursery or core.nursery, core.calls, accepted, asked, find)
    return caller


async def ending(sock: socket.socket) -> bytes:
    """What comes up to a reset; a clean end fails the test."""
    data = b""
    with sock, trio.fail_after(10):
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                piece = sock.recv(65536)
            except ConnectionResetError:
                return data
            assert piece, "a clean end"
            data += piece


async def test_a_call_and_its_account() -> None:
    async with running() as core, echo() as port:
        agent = await core.agent()
        await core.wait_linked("edge-1", agent.session)
        caller = trio.SocketStream(trio.socket.from_stdlib_socket(call(core, port)))
        async with caller:
            await caller.send_all(b"hello")
            assert await caller.receive_some() == b"hello"
            assert core.calls.open == core.registry.by_name("edge-1").open_calls == 1
            await caller.send_eof()
            assert await caller.receive_some() == b""
        with trio.fail_after(5):
            while core.calls.open:
                await trio.sleep(0.01)
        node = core.registry.by_name("edge-1")
        assert (node.open_calls, node.bytes_up, node.bytes_down) == (0, 5, 5)
        assert not core.calls.failures
        assert b'calls_total{frontend="fixed",outcome="ok"} 1.0' in core.metrics.render()


async def test_failures_are_resets_with_a_cause(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as core:
        agent = await core.agent()
        await core.wait_linked("edge-1", agent.session)
        with socket.create_server(("127.0.0.1", 0)) as server:
            closed = server.getsockname()[1]
        core.registry.learn("edge-2", [])
        assert await ending(call(core, closed)) == b""
        assert await ending(call(core, 80, node="edge-2")) == b""
        assert await ending(call(core, 80, node="edge-3")) == b""
        told = [(each.cause, each.node, each.target) for each in core.calls.failures]
        assert told == [
            (Cause.REFUSED, "edge-1", f"127.0.0.1:{closed}"),
            (Cause.AWAY, "edge-2", "127.0.0.1:80"),
            (Cause.NO_SUCH_NODE, "", "edge-3:80"),
        ]
        assert "edge-2 is not connected" in caplog.text
        assert core.calls.open == 0


@asynccontextmanager
async def unanswered(open_timeout: float = 10.0) -> AsyncIterator[tuple[Core, Agent, list[IncomingStream]]]:
    """A server with an agent that has yet to answer what it is asked, in the order of the list."""
    async with running(open_timeout=open_timeout) as core:
        waiting: list[IncomingStream] = []
        core.on_request = waiting.append
        agent = await core.agent()
        await core.wait_linked("edge-1", agent.session)
        yield core, agent, waiting


async def test_an_agent_that_does_not_answer() -> None:
    async with unanswered(open_timeout=0.2) as (core, agent, waiting):
        await ending(call(core, 80))
        assert core.calls.failures[0].cause is Cause.TIMED_OUT
        # The dial was called off at once, not at the next heartbeat.
        with trio.fail_after(3.5):
            while not waiting[0].scope.cancel_called:
                await trio.lowlevel.checkpoint()
        assert not agent.session.streams


async def test_the_link_ends_before_the_answer() -> None:
    async with running() as core:
        core.on_request = lambda incoming: agent.link.close("test")
        agent = await core.agent()
        await core.wait_linked("edge-1", agent.session)
        await ending(call(core, 80))
        assert core.calls.failures[0].cause is Cause.LINK_LOST


async def test_a_caller_that_goes_away_before_the_answer() -> None:
    async with unanswered() as (core, agent, waiting):
        caller = call(core, 80)
        with trio.fail_after(5):
            while not waiting:
                await trio.sleep(0.001)
            close_with_reset(caller)
            while not waiting[0].scope.cancel_called:
                await trio.sleep(0.001)
        (failure,) = core.calls.failures
        assert failure.cause is Cause.CANCELLED
        assert (core.calls.open, core.calls.opening) == (0, 0)
        assert not agent.session.streams


async def test_cancelled_before_the_answer_nothing_remains() -> None:
    async with unanswered() as (core, _, waiting):
        async with trio.open_nursery() as nursery:
            caller = call(core, 80, nursery=nursery)
            with trio.fail_after(5):
                while not waiting:
                    await trio.sleep(0.001)
            assert (core.calls.open, core.calls.opening) == (1, 1)
            nursery.cancel_scope.cancel()
        assert (core.calls.open, core.calls.opening) == (0, 0)
        assert not core.calls.failures
        with caller, pytest.raises(ConnectionResetError):
            caller.recv(1)
        with trio.fail_after(5):
            while not waiting[0].scope.cancel_called:
                await trio.sleep(0.001)


async def test_a_target_that_speaks_first_and_resets() -> None:
    async with running() as core:
        streams: list[TunnelStream] = []
        core.on_request = lambda incoming: streams.append(incoming.accept())
        agent = await core.agent()
        await core.wait_linked("edge-1", agent.session)
        caller = call(core, 80)
        with trio.fail_after(5):
            while not streams:
                await trio.sleep(0.001)
        await streams[0].send_all(b"banner")
        streams[0].reset(behind_data=True)
        assert await ending(caller) == b"banner"
        with trio.fail_after(5):
            while core.calls.open:
                await trio.sleep(0.01)
        assert b'calls_total{frontend="fixed",outcome="remote-reset"} 1.0' in core.metrics.render()


@pytest.mark.parametrize("banner", [b"", b"banner"])
async def test_a_target_that_resets_as_soon_as_it_has_spoken(banner: bytes) -> None:
    async with running() as core:

        def answer(incoming: IncomingStream) -> None:
            # All of it comes in one piece.
            stream = incoming.answer()
            if banner:
                stream.write(banner)
            stream.reset_behind_data(ErrorCode.CONNECT_ERROR, trio.current_time())
            stream.flush()

        core.on_request = answer
        agent = await core.agent()
        await core.wait_linked("edge-1", agent.session)
        assert await ending(call(core, 80)) == banner
        with trio.fail_after(5):
            while core.calls.open:
                await trio.sleep(0.01)
        outcome = b"remote-reset" if banner else b"failed"
        assert b'calls_total{frontend="fixed",outcome="%s"} 1.0' % outcome in core.metrics.render()


async def test_the_limit_of_calls() -> None:
    async with running(calls=2) as core, echo() as port:
        agent = await core.agent()
        await core.wait_linked("edge-1", agent.session)
        held = [call(core, port) for _ in range(2)]
        await trio.testing.wait_all_tasks_blocked()
        await ending(call(core, port))
        assert core.calls.failures[0].cause is Cause.NO_ROOM
        assert core.calls.failures[0].target == f"edge-1:{port}"
        for caller in held:
            close_with_reset(caller)
        with trio.fail_after(5):
            while core.calls.open:
                await trio.sleep(0.01)


async def test_a_defect_in_a_frontend_resets_its_caller_and_nobody_else() -> None:
    async with running() as core:
        caller, accepted = tcp_pair()

        def find() -> Target:
            raise RuntimeError("a defect")

        with pytest.raises(RuntimeError, match="a defect"):
            await core.calls.serve(accepted, Asked("fixed", "caller:1", "?"), find)
        await ending(caller)
        assert core.calls.open == 0


async def test_failures_kept_are_bounded() -> None:
    async with running() as core:

        def find() -> Target:
            raise OpenFailed(Cause.NO_SUCH_NODE, "none")

        for _ in range(150):
            caller, accepted = tcp_pair()
            await core.calls.serve(accepted, Asked("fixed", "caller:1", "x"), find)
            caller.close()
        assert len(core.calls.failures) == 100


async def test_shutting_down_with_a_thousand_calls() -> None:
    async with running(calls=2000) as core, echo() as port:
        agent = await core.agent()
        await core.wait_linked("edge-1", agent.session)
        callers = []
        with trio.fail_after(45):
            for _ in range(20):
                callers += [call(core, port) for _ in range(50)]
                while core.registry.by_name("edge-1").open_calls < len(callers):
                    await trio.lowlevel.checkpoint()
        watch = Stopwatch()
        core.nursery.cancel_scope.cancel()
    took = watch.seconds()
    assert core.calls.open == 0
    for caller in callers:
        with caller, pytest.raises(ConnectionResetError):
            caller.recv(1)
    assert took < 3


async def test_a_node_that_comes_back_in_time_is_called() -> None:
    async with running(away_wait=10) as core, echo() as port:
        core.registry.learn("edge-1", [])
        caller = trio.SocketStream(trio.socket.from_stdlib_socket(call(core, port)))
        await trio.testing.wait_all_tasks_blocked()
        await core.agent()
        async with caller:
            await caller.send_all(b"hello")
            with trio.fail_after(10):
                assert await caller.receive_some() == b"hello"
        assert not core.calls.failures


async def test_a_node_that_stays_away_is_told_with_the_wait() -> None:
    async with running(away_wait=0.05) as core:
        core.registry.learn("edge-1", [])
        await ending(call(core, 80))
        (failure,) = core.calls.failures
        assert failure.cause is Cause.AWAY
        assert "did not come back within 0.05 s" in failure.detail


@pytest.mark.parametrize(
    ("called", "port", "dialled"),
    [
        ("192.168.2.143", 10266, "127.0.0.1"),
        ("fd00::143", 10266, "::1"),
        ("192.168.2.143", 10267, "192.168.2.143"),
        ("10.244.0.5", 10266, "10.244.0.5"),
        ("127.0.0.1", 10266, "127.0.0.1"),
    ],
)
async def test_localhost_ports_are_dialled_on_the_nodes_loopback(
    called: str, port: int, dialled: str
) -> None:
    async with running() as core:
        asked: list[IncomingStream] = []

        def refuse(incoming: IncomingStream) -> None:
            asked.append(incoming)
            incoming.refuse(Cause.REFUSED, "as ever")

        core.on_request = refuse
        core.calls.localhost_ports = frozenset({10266})
        context = core.node(addresses=("192.168.2.143", "fd00::143"))
        agent = await core.agent(context)
        await core.wait_linked("edge-1", agent.session)
        core.registry.claims.rules.networks = (ip_network("0.0.0.0/0"), ip_network("::/0"))
        node = core.registry.learn("edge-1", [ip_address("192.168.2.143"), ip_address("fd00::143")])
        caller, accepted = tcp_pair()
        with caller:
            await core.calls.serve(
                accepted, Asked("insecure", "caller:1", "?"), lambda: Target(node, called, port)
            )
        assert [(each.host, each.port) for each in asked] == [(dialled, port)]


async def test_an_agent_that_was_linked_to_the_server_before_is_waited_for_until_all_can_be_here() -> None:
    async with running(away_wait=0.01) as core, echo() as port:
        for name in ("edge-1", "edge-2"):
            core.registry.learn(name, [])
        core.calls.expect(frozenset({"edge-1"}), 20)
        caller = trio.SocketStream(trio.socket.from_stdlib_socket(call(core, port)))
        assert await ending(call(core, port, node="edge-2")) == b""
        await trio.sleep(0.1)
        assert core.calls.opening == 1
        agent = await core.agent()
        await core.wait_linked("edge-1", agent.session)
        async with caller:
            await caller.send_all(b"hello")
            assert await caller.receive_some() == b"hello"
        # From then on as ever.
        agent.link.close("the network is gone")
        await agent.wait_over()
        with trio.fail_after(5):
            assert await ending(call(core, port)) == b""
