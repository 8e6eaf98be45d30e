"""Edges by Host over plain HTTP, with real programs at both ends where there are some."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from websockets.trio.client import connect as websocket
from websockets.trio.server import serve as serve_websockets

from tests.tunnel_server.frontends.edges import Edges, curl, edges
from tests.tunnel_wire.links import tcp_pair
from tunnel_server.frontends.host import HostFrontend
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.sockets import close_with_reset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from websockets.trio.server import ServerConnection

    from tunnel_server.calls import Target

MIB = 1 << 20


async def read_head(stream: trio.SocketStream) -> tuple[bytes, bytes]:
    """A head, and what was read beyond it."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = await stream.receive_some()
        if not part:
            raise trio.BrokenResourceError
        data += part
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def says(text: str, **headers: str) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """A service that answers requests without bodies, one after another; the head comes back in the body."""

    async def service(stream: trio.SocketStream) -> None:
        while True:
            head, _ = await read_head(stream)
            body = text.encode() + b"\n" + head + b"\n"
            lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
            answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{''.join(lines)}\r\n".encode()
            await stream.send_all(answer + (b"" if head.startswith(b"HEAD") else body))

    return service


def raw(answer: bytes, *, close: bool = True) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """A service that reads a head, sends these bytes, and closes or waits."""

    async def service(stream: trio.SocketStream) -> None:
        await read_head(stream)
        await stream.send_all(answer)
        if not close:
            await trio.sleep_forever()

    return service


@asynccontextmanager
async def serving(*ports: int, **options: float) -> AsyncIterator[tuple[Edges, str, tuple[str, int]]]:
    """Two edges, and the listener's URL and address."""
    async with edges(**options) as made:
        await made.add("edge-1", "192.168.2.143")
        await made.add("edge-2", "192.168.2.144")
        address = await made.listen(HostFrontend(made.core.calls), *(ports or (80, 9081)))
        yield made, "http://{}:{}".format(*address), address


async def talk(address: tuple[str, int], request: bytes, *, end: bool = False) -> bytes:
    """Send, and read to the end."""
    async with await trio.open_tcp_stream(*address) as stream:
        with trio.fail_after(10):
            await stream.send_all(request)
            if end:
                await stream.send_eof()
            return b"".join([part async for part in stream])


async def test_host_names_the_edge_and_its_port() -> None:
    async with serving() as (made, url, _):
        await made.serve("edge-1", 80, says("one"))
        await made.serve("edge-2", 9081, says("two"))
        _, out = await curl("-H", "Host: edge-1", f"{url}/a?b=c")
        assert out.startswith("one\nGET /a?b=c HTTP/1.1\r\nHost: edge-1")
        _, out = await curl("-H", "Host: EDGE-2:9081", url)
        assert out.startswith("two\n")
        _, out = await curl("-H", "Host: 192.168.2.144:9081", url)
        assert out.startswith("two\n")
        assert made.dialled == [
            ("edge-1", "192.168.2.143", 80),
            ("edge-2", "192.168.2.144", 9081),
            ("edge-2", "192.168.2.144", 9081),
        ]


async def test_ipv6_literals_over_ipv6() -> None:
    async with edges() as made:
        await made.add("edge-1", "192.168.2.143", "fd00::143")
        await made.add("edge-2", "fd00::144")
        await made.serve("edge-1", 9081, says("one"))
        await made.serve("edge-2", 80, says("two"))
        host, port = await made.listen(HostFrontend(made.core.calls), 80, 9081, host="::1")
        url = f"http://[{host}]:{port}/"
        _, out = await curl("-H", "Host: [FD00:0::143]:9081", url)
        assert out.startswith("one\n")
        _, out = await curl("-H", "Host: [fd00::144]", url)
        assert out.startswith("two\n")
        _, out = await curl("-H", "X-Tunnel-Proxy-Dest: [fd00::143]:9081", url)
        assert out.startswith("one\n")
        _, out = await curl("-g", "--proxy", url, "http://[fd00::144]/x")
        assert out.startswith("two\nGET /x HTTP/1.1")
        _, out = await curl("-H", "Host: edge-2", url)  # has no other address
        assert out.startswith("two\n")
        _, out = await curl("-H", "Host: [fd00::9]", url)
        assert "no node has the address fd00::9" in out
        assert made.dialled == [
            ("edge-1", "fd00::143", 9081),
            ("edge-2", "fd00::144", 80),
            ("edge-1", "fd00::143", 9081),
            ("edge-2", "fd00::144", 80),
            ("edge-2", "fd00::144", 80),
        ]


async def test_a_final_dot_is_the_same_name() -> None:
    async with serving() as (made, url, _):
        await made.serve("edge-1", 9081, says("one"))
        _, out = await curl("-H", "Host: edge-1.:9081", url)
        assert out.startswith("one\n")
        _, out = await curl("-H", "X-Tunnel-Proxy-Dest: edge-1.:9081", url)
        assert out.startswith("one\n")
        _, out = await curl("--proxy", url, "http://edge-1.:9081/")
        assert out.startswith("one\n")


async def test_the_header_wins_and_goes_no_further() -> None:
    async with serving() as (made, url, _):
        await made.serve("edge-2", 9081, says("two"))
        _, out = await curl("-H", "X-Tunnel-Proxy-Dest: edge-2:9081", "-H", "Host: whatever.example", url)
        assert out.startswith("two\n")
        assert "Host: whatever.example" in out
        assert "tunnel-proxy" not in out.lower()


async def test_as_a_plain_http_proxy() -> None:
    async with serving() as (made, url, _):
        await made.serve("edge-1", 9081, says("one"))
        _, out = await curl("--proxy", url, "http://edge-1:9081/x")
        assert out.startswith("one\nGET /x HTTP/1.1")


async def test_one_connection_to_two_edges_and_pipelined() -> None:
    async with serving() as (made, _, address):
        await made.serve("edge-1", 80, says("one"))
        await made.serve("edge-2", 80, says("two"))
        asked = [b"GET / HTTP/1.1\r\nHost: edge-%d\r\n\r\n" % number for number in (1, 2, 1)]
        asked.append(b"GET / HTTP/1.1\r\nHost: edge-2\r\nConnection: close\r\n\r\n")
        answer = await talk(address, b"".join(asked))
        assert [line for line in answer.split(b"\n") if line in {b"one", b"two"}] == [
            b"one",
            b"two",
            b"one",
            b"two",
        ]


async def test_edges_that_share_an_address_are_reached_by_name() -> None:
    async with edges() as made:
        for number in (1, 2):
            await made.add(f"edge-{number}", "192.168.1.10")
            await made.serve(f"edge-{number}", 80, says(f"I am {number}"))
        address = await made.listen(HostFrontend(made.core.calls), 80)
        url = "http://{}:{}".format(*address)
        for number in (1, 2):
            _, out = await curl("-H", f"Host: edge-{number}", url)
            assert out.startswith(f"I am {number}\n")
        _, out = await curl("-w", "%{http_code}", "-H", "Host: 192.168.1.10", url)
        assert out.endswith("400")
        assert "claimed by several nodes, edge-1, edge-2: reach each by its name" in out
        assert made.core.calls.failures[-1].frontend == "host"


async def upload(stream: trio.SocketStream) -> None:
    """Answers with the digest of a body: of `Content-Length`, or chunked as it comes."""
    head, data = await read_head(stream)
    lower = head.lower()
    if b"expect: 100-continue" in lower:
        await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
    if b"content-length" in lower:
        length = int(lower.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(data) < length:
            data += await stream.receive_some()
        text = f"{length} {hashlib.sha256(data).hexdigest()}"
    else:
        while not data.endswith(b"0\r\n\r\n"):
            data += await stream.receive_some()
        body, rest = b"", data
        while True:
            size, _, rest = rest.partition(b"\r\n")
            if not int(size, 16):
                break
            body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        text = f"chunked {hashlib.sha256(body).hexdigest()}"
    await stream.send_all(f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())


@pytest.mark.parametrize(
    "options", [(), ("-H", "Transfer-Encoding: chunked"), ("-H", "Expect: 100-continue")]
)
async def test_uploads_arrive_whole(options: tuple[str, ...], tmp_path: object) -> None:
    data = os.urandom(3 * MIB)
    path = f"{tmp_path}/data"
    async with await trio.open_file(path, "wb") as file:
        await file.write(data)
    async with serving() as (made, url, _):
        await made.serve("edge-1", 80, upload)
        _, out = await curl("-H", "Host: edge-1", *options, "--data-binary", f"@{path}", url)
        kind = "chunked" if "Transfer-Encoding: chunked" in options else str(len(data))
        assert out == f"{kind} {hashlib.sha256(data).hexdigest()}"


async def test_a_chunked_answer_is_streamed_piece_by_piece() -> None:
    go_on = trio.Event()

    async def service(stream: trio.SocketStream) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await go_on.wait()
        await stream.send_all(b"6\r\nsecond\r\n0\r\nX-Trailer: yes\r\n\r\n")

    async with serving() as (made, _, address):
        await made.serve("edge-1", 80, service)
        async with await trio.open_tcp_stream(*address) as stream:
            with trio.fail_after(10):
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: edge-1\r\nConnection: close\r\n\r\n")
                data = b""
                while b"first" not in data:
                    data += await stream.receive_some()
                go_on.set()
                data += b"".join([part async for part in stream])
        assert b"second" in data
        assert data.endswith(b"\r\n0\r\nX-Trailer: yes\r\n\r\n")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n", b"204"),
        (b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", b"304"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end", b"until the end"),
    ],
)
async def test_answers_without_a_length(answer: bytes, expected: bytes) -> None:
    async with serving() as (made, _, address):
        await made.serve("edge-1", 80, raw(answer))
        got = await talk(address, b"GET / HTTP/1.1\r\nHost: edge-1\r\nConnection: close\r\n\r\n")
        assert expected in got


async def test_head_has_a_length_and_no_body() -> None:
    async with serving() as (made, url, _):
        await made.serve("edge-1", 80, says("one"))
        status, out = await curl("--head", "-H", "Host: edge-1", url)
        assert not status
        assert "content-length:" in out.lower()
        status, out = await curl("--head", "-H", "Host: edge-9", url)
        assert not status
        assert "400" in out.splitlines()[0]


async def test_http_1_0() -> None:
    async with serving() as (made, _, address):
        await made.serve("edge-1", 80, says("one"))
        answer = await talk(address, b"GET / HTTP/1.0\r\nX-Tunnel-Proxy-Dest: edge-1:80\r\n\r\n")
        assert b"one\nGET / HTTP/1.1\r\nHost: edge-1:80" in answer


async def test_a_caller_that_ends_its_direction_gets_its_answer() -> None:
    async with serving() as (made, _, address):
        await made.serve("edge-1", 80, says("one"))
        answer = await talk(address, b"GET / HTTP/1.1\r\nHost: edge-1\r\n\r\n", end=True)
        assert b"one\n" in answer


async def test_the_edge_learns_that_the_caller_has_gone() -> None:
    gone = trio.Event()

    async def service(stream: trio.SocketStream) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert not await stream.receive_some()
        gone.set()

    async with serving() as (made, _, address):
        await made.serve("edge-1", 80, service)
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(b"GET /watch HTTP/1.1\r\nHost: edge-1\r\n\r\n")
            await stream.receive_some()
        with trio.fail_after(10):
            await gone.wait()


async def test_a_websocket() -> None:
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serving() as (made, url, _), trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websockets, echo, 0, host="127.0.0.1"))
        made.services["edge-1", 9081] = server.listeners[0].socket.getsockname()[1]
        with trio.fail_after(10):
            async with websocket(
                f"ws{url.removeprefix('http')}/x", additional_headers={"X-Tunnel-Proxy-Dest": "edge-1:9081"}
            ) as connection:
                for message in ("hello", b"x" * MIB):
                    await connection.send(message)
                    assert await connection.recv() == message
        nursery.cancel_scope.cancel()


async def test_what_was_said_too_early_in_an_upgrade_is_not_lost() -> None:
    async def service(stream: trio.SocketStream) -> None:
        _, early = await read_head(stream)
        await stream.send_all(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello ")
        async for part in stream:
            early += part
        await stream.send_all(early)

    async with serving() as (made, _, address):
        await made.serve("edge-1", 80, service)
        request = b"GET / HTTP/1.1\r\nHost: edge-1\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nworld"
        answer = await talk(address, request, end=True)
        assert answer.endswith(b"\r\n\r\nhello world")


async def test_an_upgrade_that_is_refused_is_an_ordinary_answer() -> None:
    async with serving() as (made, _, address):
        await made.serve("edge-1", 80, says("no"))
        request = b"GET / HTTP/1.1\r\nHost: edge-1\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
        again = b"GET / HTTP/1.1\r\nHost: edge-1\r\nConnection: close\r\n\r\n"
        answer = await talk(address, request + again)
        assert answer.count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize(
    ("request_", "status", "why"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400, "Host"),
        (b"GET / HTTP/1.1\r\nHost: edge-1\r\nHost: edge-2\r\n\r\n", 400, "Host"),
        (b"GET / HTTP/1.1\r\nHost: edge-1:0\r\n\r\n", 400, "port"),
        (b"GET / HTTP/1.1\r\nHost: edge_1\r\n\r\n", 400, "endpoint"),
        (b"GET / HTTP/1.0\r\n\r\n", 400, "X-Tunnel-Proxy-Dest"),
        (b"GET http://edge-2/ HTTP/1.1\r\nHost: edge-1\r\n\r\n", 400, "different places"),
        (b"CONNECT edge-1:80 HTTP/1.1\r\nHost: edge-1\r\n\r\n", 400, "connect-socket"),
        (b"GET / HTTP/1.1\r\nHost: edge-9\r\n\r\n", 400, "no node is called edge-9"),
        (b"GET / HTTP/1.1\r\nHost: edge-1:22\r\n\r\n", 403, "port 22 is not mapped"),
        (b"GET / HTTP/1.1\r\nHost: edge-1\r\n\r\n", 502, "nobody listens"),
        (
            b"POST / HTTP/1.1\r\nHost: edge-1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "both Content-Length and Transfer-Encoding",
        ),
        (b"POST / HTTP/1.1\r\nHost: edge-1\r\nContent-Length: 3, 4\r\n\r\nabc", 400, "Content-Length"),
        (b"POST / HTTP/1.1\r\nHost: edge-1\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "Transfer-Encoding"),
        (b"GET / HTTP/1.1\r\nHost: edge-1\r\nX: " + b"x" * 70_000, 431, "malformed"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on\r\n\r\n", 400, "malformed"),
    ],
)
async def test_refusals(request_: bytes, status: int, why: str) -> None:
    async with serving() as (_, _, address):
        answer = await talk(address, request_, end=True)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert int(head.split()[1]) == status, answer
        assert why.lower() in json.loads(body)["error"].lower()


async def test_a_node_that_is_away_gives_503_in_time() -> None:
    async with serving(80, away_wait=0.1) as (made, url, _):
        made.core.registry.node("edge-3")
        _, out = await curl("-i", "-H", "Host: edge-3", url)
        assert out.startswith("HTTP/1.1 503 away: edge-3 is not connected and did not come back within 0.1 s")
        assert "tunnel-cause: away" in out.lower()


async def test_after_a_refusal_the_connection_goes_on() -> None:
    async with serving() as (made, _, address):
        await made.serve("edge-1", 80, says("one"))
        unknown = b"GET / HTTP/1.1\r\nHost: edge-9\r\n\r\n"
        answer = await talk(address, unknown + b"GET / HTTP/1.1\r\nHost: edge-1\r\nConnection: close\r\n\r\n")
        assert answer.count(b"HTTP/1.1 ") >= 2
        assert b"one\n" in answer


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal",
    ],
)
async def test_a_truncated_answer_is_never_a_clean_end(answer: bytes) -> None:
    async with serving() as (made, _, address):
        await made.serve("edge-1", 80, raw(answer))
        with pytest.raises(trio.BrokenResourceError):
            await talk(address, b"GET / HTTP/1.1\r\nHost: edge-1\r\n\r\n")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "closed"),
        (b"220 ready\r\n\r\n", "no HTTP/1.1"),
        (b"", "closed"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "both"),
    ],
)
async def test_an_edge_that_speaks_no_http_is_a_502(answer: bytes, why: str) -> None:
    async with serving() as (made, _, address):
        await made.serve("edge-1", 80, raw(answer))
        got = await talk(address, b"GET / HTTP/1.1\r\nHost: edge-1\r\nConnection: close\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 502 ")
        assert why in json.loads(got.partition(b"\r\n\r\n")[2])["error"]


async def test_an_early_answer_to_a_large_upload_arrives() -> None:
    async def service(stream: trio.SocketStream) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")

    async with serving() as (made, _, address):
        await made.serve("edge-1", 80, service)
        async with await trio.open_tcp_stream(*address) as stream:
            with trio.fail_after(10):
                await stream.send_all(b"POST / HTTP/1.1\r\nHost: edge-1\r\nContent-Length: 99999999\r\n\r\n")
                await stream.send_all(bytes(100_000))
                answer = b""
                while not answer.endswith(b"\r\n\r\nno"):
                    part = await stream.receive_some()
                    assert part
                    answer += part
        assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_body_that_breaks_off_does_not_reach_the_edge_as_whole() -> None:
    ends: list[str] = []
    done = trio.Event()

    async def service(stream: trio.SocketStream) -> None:
        try:
            while await stream.receive_some():
                pass
            ends.append("end")
        except trio.BrokenResourceError:
            ends.append("reset")
        done.set()

    async with serving() as (made, _, address):
        await made.serve("edge-1", 80, service)
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(b"POST / HTTP/1.1\r\nHost: edge-1\r\nContent-Length: 10\r\n\r\nhalf")
        with trio.fail_after(10):
            await done.wait()
        assert ends == ["reset"]


async def test_a_malformed_body_is_a_400_and_a_reset_for_the_edge() -> None:
    ends: list[str] = []

    async def service(stream: trio.SocketStream) -> None:
        try:
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            ends.append("reset")
            raise

    async with serving() as (made, _, address):
        await made.serve("edge-1", 80, service)
        request = b"POST / HTTP/1.1\r\nHost: edge-1\r\nTransfer-Encoding: chunked\r\n\r\n"
        answer = await talk(address, request + b"4\r\ngood\r\nzz\r\nbad")
        assert answer.startswith(b"HTTP/1.1 400 ")
        with trio.fail_after(5):
            while not ends:
                await trio.sleep(0.01)


async def test_a_caller_that_resets_ends_the_edges_work() -> None:
    gone = trio.Event()
    asked = trio.Event()

    async def service(stream: trio.SocketStream) -> None:
        await read_head(stream)
        asked.set()
        try:
            await stream.receive_some()
        except trio.BrokenResourceError:
            gone.set()

    async with serving() as (made, _, address):
        await made.serve("edge-1", 80, service)
        stream = await trio.open_tcp_stream(*address)
        await stream.send_all(b"GET /watch HTTP/1.1\r\nHost: edge-1\r\n\r\n")
        with trio.fail_after(5):
            await asked.wait()
        close_with_reset(stream.socket)  # type: ignore[arg-type]
        with trio.fail_after(5):
            await gone.wait()


async def test_an_idle_caller_is_closed_and_a_slow_head_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with edges() as made:
        address = await made.listen(HostFrontend(made.core.calls), 80)
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(b"GET / HT")
            assert b"408" in b"".join([part async for part in stream])
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: edge-9\r\n\r\n")
            began = trio.current_time()
            assert b"400" in b"".join([part async for part in stream])
            assert trio.current_time() - began >= 75


async def test_a_refused_caller_that_does_not_read_is_reset(autojump_clock: trio.testing.MockClock) -> None:
    def find(host: str, port: int) -> Target:
        raise OpenFailed(Cause.NOT_ALLOWED, "never " * 30)

    async with edges() as made:
        near, far = tcp_pair()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # as little as there is
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        far.send(b"GET / HTTP/1.1\r\nHost: edge-1\r\n\r\n" * 500)
        with far, trio.fail_after(60):
            began = trio.current_time()
            await HostFrontend(made.core.calls).serve(near, "a caller", find)
            assert trio.current_time() - began == 10
            assert near.fileno() < 0
            far.settimeout(5)
            with pytest.raises(ConnectionResetError):
                b"".join(iter(lambda: far.recv(1 << 16), b""))


async def test_more_connections_than_calls_are_turned_away(caplog: pytest.LogCaptureFixture) -> None:
    async with edges(calls=1) as made:
        address = await made.listen(HostFrontend(made.core.calls), 80)
        async with await trio.open_tcp_stream(*address) as first:
            await first.send_all(b"GET / HTTP/1.1\r\nHost: edge-9\r\n\r\n")
            assert b"400" in await first.receive_some()
            # The reset may come before the connection is seen to stand.
            with pytest.raises((trio.BrokenResourceError, OSError)):
                await talk(address, b"")
        assert "1 connections are open" in caplog.text
