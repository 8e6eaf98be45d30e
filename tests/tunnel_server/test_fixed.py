"""A fixed listener: a local port is one port of one node."""

import trio

from tests.tunnel_server.core import meets_reset, running
from tests.tunnel_server.test_calls import echo
from tunnel_server.endpoints import FixedListener
from tunnel_server.frontends.fixed import serve_fixed
from tunnel_wire.causes import Cause


async def test_a_caller_reaches_the_nodes_loopback() -> None:
    async with running() as core, echo() as port:
        agent = await core.agent()
        await core.wait_linked("edge-1", agent.session)
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        entry = FixedListener("127.0.0.1", 0, "edge-1", port)
        core.nursery.start_soon(serve_fixed, listener, entry, core.registry, core.calls)
        async with await trio.open_tcp_stream(*listener.socket.getsockname()[:2]) as caller:
            await caller.send_all(b"through")
            with trio.fail_after(5):
                assert await caller.receive_some() == b"through"


async def test_a_node_that_nobody_knows() -> None:
    async with running() as core:
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        entry = FixedListener("127.0.0.1", 0, "edge-9", 80)
        core.nursery.start_soon(serve_fixed, listener, entry, core.registry, core.calls)
        await meets_reset(listener.socket.getsockname()[:2])
        (failure,) = core.calls.failures
        assert (failure.cause, failure.frontend, failure.target) == (Cause.NO_SUCH_NODE, "fixed", "edge-9:80")
        assert failure.caller.startswith("127.0.0.1:")
