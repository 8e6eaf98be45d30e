"""One request and its answer: what is bounded, what an old caller is spared, what must not look whole."""

from __future__ import annotations

import socket

import pytest
import trio

from tests.tunnel_server.frontends.test_host import raw, read_head, serving, talk

MIB = 1 << 20


async def test_requests_to_come_are_read_up_to_a_bound() -> None:
    async with serving() as (made, _, address):
        await made.serve("edge-1", 80, raw(b"", close=False))
        async with await trio.open_tcp_stream(*address) as stream:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: edge-1\r\n\r\n")
            sent, before = 0, -1
            while before < sent < 64 * MIB:
                before = sent
                with trio.move_on_after(0.2):
                    while sent < 64 * MIB:
                        sent += await stream.socket.send(bytes(65536))
            assert 65536 < sent < 32 * MIB, "beyond what the kernel's buffers hold"


@pytest.mark.parametrize(("version", "hints"), [("1.0", 0), ("1.1", 1)])
async def test_who_knows_no_informational_answers_gets_none(version: str, hints: int) -> None:
    answer = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with serving() as (made, _, address):
        await made.serve("edge-1", 80, raw(answer))
        request = f"GET / HTTP/{version}\r\nHost: edge-1\r\nConnection: close\r\n\r\n"
        got = await talk(address, request.encode())
        assert got.count(b" 103 Early Hints\r\n") == hints
        assert b"HTTP/1.1 200 OK\r\n" in got
        assert got.endswith(b"\r\n\r\nok")


async def test_half_an_upload_that_was_answered_does_not_look_whole() -> None:
    ends: list[str] = []
    done = trio.Event()

    async def service(stream: trio.SocketStream) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        try:
            while await stream.receive_some():
                pass
            ends.append("end")
        except trio.BrokenResourceError:
            ends.append("reset")
        done.set()

    async with serving() as (made, _, address):
        await made.serve("edge-1", 80, service)
        answer = await talk(address, b"POST / HTTP/1.1\r\nHost: edge-1\r\nContent-Length: 10\r\n\r\nhalf")
        assert answer.startswith(b"HTTP/1.1 413 ")
        with trio.fail_after(5):
            await done.wait()
        assert ends == ["reset"]
