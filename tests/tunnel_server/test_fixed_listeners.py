"""Fixed listeners come, go and lead elsewhere while connections stand."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.tunnel_server.core import Core, running
from tunnel_daemon.program import ProgramError
from tunnel_server.endpoints import FixedListener
from tunnel_server.fixed_listeners import FixedListeners


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@asynccontextmanager
async def greeting(text: bytes) -> AsyncIterator[int]:
    """A port that says `text` to whoever says something."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                async for _ in stream:
                    await stream.send_all(text)
            except trio.BrokenResourceError:
                pass

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def fixed() -> AsyncIterator[tuple[FixedListeners, Core]]:
    async with running() as core:
        agent = await core.agent()
        await core.wait_linked("edge-1", agent.session)
        yield FixedListeners(core.nursery, core.registry, core.calls), core


async def change(listeners: FixedListeners, *entries: FixedListener) -> None:
    listeners.serve(entries, await listeners.open(entries))


async def ask(stream: trio.SocketStream) -> bytes:
    with trio.fail_after(10):
        await stream.send_all(b"?")
        return bytes(await stream.receive_some())


async def test_what_stands_goes_on_when_its_listener_leads_elsewhere_and_is_gone() -> None:
    async with fixed() as (listeners, _), greeting(b"one") as one, greeting(b"two") as two:
        port = free_port()
        await change(listeners, FixedListener("127.0.0.1", port, "edge-1", one))
        assert listeners.views()[0].target == f"edge-1:{one}"
        first = await trio.open_tcp_stream("127.0.0.1", port)
        assert await ask(first) == b"one"
        await change(listeners, FixedListener("127.0.0.1", port, "edge-1", two))
        second = await trio.open_tcp_stream("127.0.0.1", port)
        assert await ask(second) == b"two"
        await change(listeners)
        assert listeners.views() == []
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream("127.0.0.1", port)
        assert [await ask(first), await ask(second)] == [b"one", b"two"]
        await first.aclose()
        await second.aclose()


async def test_nothing_is_opened_when_one_cannot_be() -> None:
    async with fixed() as (listeners, _):
        free = free_port()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            entries = [
                FixedListener("127.0.0.1", port, "edge-1", 80) for port in (free, taken.getsockname()[1])
            ]
            with pytest.raises(ProgramError, match="this program has the port already"):
                await listeners.open(entries)
        with socket.create_server(("127.0.0.1", free)):
            pass
        assert listeners.views() == []


async def test_what_was_opened_and_is_not_taken_is_closed_again() -> None:
    async with fixed() as (listeners, _):
        port = free_port()
        (await listeners.open([FixedListener("127.0.0.1", port, "edge-1", 80)])).close()
        with socket.create_server(("127.0.0.1", port)):
            pass


async def test_an_entry_that_stays_is_left_alone() -> None:
    async with fixed() as (listeners, _), greeting(b"one") as one:
        entry = FixedListener("127.0.0.1", free_port(), "edge-1", one)
        await change(listeners, entry)
        opened = await listeners.open([entry])
        assert opened.listeners == {}
        listeners.serve([entry], opened)
        stream = await trio.open_tcp_stream("127.0.0.1", entry.port)
        assert await ask(stream) == b"one"
        await stream.aclose()
