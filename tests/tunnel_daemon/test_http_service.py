"""HTTP on real listeners."""

from __future__ import annotations

import pytest
import trio

from tunnel_daemon.http1 import Request, Response
from tunnel_daemon.http_service import serve_http
from tunnel_daemon.listeners import open_tcp_listeners

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def show_peer(request: Request) -> Response:
    return Response.text(f"hello {request.peer}")


@pytest.fixture
async def listeners():
    return await open_tcp_listeners(["127.0.0.1"], 0, setting="p")


async def connect(listeners) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", listeners[0].socket.getsockname()[1])


async def test_peers_are_named(listeners, nursery) -> None:
    nursery.start_soon(lambda: serve_http(
        listeners, show_peer, peer=lambda stream: stream.socket.getpeername()[0]
    ))  # fmt: skip
    async with await connect(listeners) as client:
        await client.send_all(GET)
        assert (await client.receive_some()).endswith(b"hello 127.0.0.1")


async def test_connections_are_bounded(listeners, nursery) -> None:
    nursery.start_soon(lambda: serve_http(listeners, show_peer, max_connections=2))
    with trio.fail_after(10):
        first, second = await connect(listeners), await connect(listeners)
        for client in (first, second):
            await client.send_all(GET)
            assert b"200" in await client.receive_some()
        async with await connect(listeners) as third:
            assert await third.receive_some() == b""
        await first.aclose()
        while True:  # until the server has seen that the first is gone
            async with await connect(listeners) as again:
                try:
                    await again.send_all(GET)
                    if b"200" in await again.receive_some():
                        break
                except trio.BrokenResourceError:
                    pass
        await second.aclose()


async def test_a_connection_that_can_not_be_named_or_fails_is_closed_alone(
    listeners, nursery, caplog
) -> None:
    failures = iter([OSError("gone"), RuntimeError("defect")])

    def peer(_: trio.SocketStream) -> object:
        if error := next(failures, None):
            raise error
        return "third"

    nursery.start_soon(lambda: serve_http(listeners, show_peer, peer=peer))
    with trio.fail_after(10):
        for _ in range(2):
            async with await connect(listeners) as client:
                assert await client.receive_some() == b""
        async with await connect(listeners) as client:
            await client.send_all(GET)
            assert (await client.receive_some()).endswith(b"hello third")
    assert "RuntimeError: defect" in caplog.text
