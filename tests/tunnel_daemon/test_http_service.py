"""HTTP on real listeners."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tunnel_daemon.http1 import HttpError, Request, Response
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


async def answered(client: trio.SocketStream) -> bool:
    await client.send_all(GET)
    return b"200" in await client.receive_some()


@pytest.mark.parametrize("say", [b"", GET], ids=["silent", "answered"])
async def test_the_idle_shut_nobody_out(listeners, nursery, say: bytes, caplog, monkeypatch) -> None:
    monkeypatch.setattr("tunnel_daemon.crowd._PATIENCE", 60)
    nursery.start_soon(lambda: serve_http(listeners, show_peer, max_connections=2))
    with trio.fail_after(10):
        idle = [await connect(listeners) for _ in range(10)]
        for client in idle[-2:]:
            if say:
                assert await answered(client)
        async with await connect(listeners) as client:
            assert await answered(client)
        for client in idle[:-1]:
            assert await client.receive_some() == b""
        assert await answered(idle[-1])
    for client in idle:
        await client.aclose()
    assert "all 2 places for HTTP connections are taken" in caplog.text


async def test_who_begins_and_stops_makes_room_after_a_while(listeners, nursery, monkeypatch) -> None:
    monkeypatch.setattr("tunnel_daemon.crowd._PATIENCE", 0.1)
    nursery.start_soon(lambda: serve_http(listeners, show_peer, max_connections=1))
    with trio.fail_after(5):
        async with await connect(listeners) as stalled:
            await stalled.send_all(GET[:10])
            await trio.testing.wait_all_tasks_blocked(0.02)
            async with await connect(listeners) as client:
                assert await answered(client)


async def test_who_waits_for_an_answer_keeps_its_place(listeners, nursery, monkeypatch) -> None:
    monkeypatch.setattr("tunnel_daemon.crowd._PATIENCE", 0.01)
    go_on = trio.Event()

    async def slow(request: Request) -> Response:
        await go_on.wait()
        return Response.text("done")

    nursery.start_soon(lambda: serve_http(listeners, slow, max_connections=1))
    with trio.fail_after(5):
        async with await connect(listeners) as waiting:
            await waiting.send_all(GET)
            await trio.testing.wait_all_tasks_blocked(0.02)
            async with await connect(listeners) as other:
                await other.send_all(GET)
                await trio.sleep(0.05)  # past its patience, were it for that
                go_on.set()
                for client in (waiting, other):
                    assert (await client.receive_some()).endswith(b"done")


async def test_who_is_refused_is_told_before_it_asks_and_takes_no_place(listeners, nursery) -> None:
    strangers = 12
    seen = 0

    def peer(_: trio.SocketStream) -> object:
        nonlocal seen
        seen += 1
        if seen <= strangers:
            raise HttpError(403, "not you")
        return "a friend"

    nursery.start_soon(lambda: serve_http(listeners, show_peer, peer=peer, max_connections=1))
    with trio.fail_after(5):
        refused = [await connect(listeners) for _ in range(strangers)]
        async with await connect(listeners) as client:
            await client.send_all(GET)
            assert (await client.receive_some()).endswith(b"hello a friend")
        for stranger in refused:
            answer = b"".join([part async for part in stranger])
            assert answer.startswith(b"HTTP/1.1 403 ")
            assert answer.endswith(b'{"error":"not you"}\n')
            await stranger.aclose()


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
