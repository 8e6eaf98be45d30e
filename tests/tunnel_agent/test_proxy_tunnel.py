import socket

import h11
import pytest
import trio

from tunnel_agent.endpoint import Endpoint
from tunnel_agent.proxy import Proxy, ProxyError
from tunnel_agent.proxy_tunnel import MAX_REPLY, open_tunnel

SERVER = Endpoint("tunnel.example", 10262)
PROXY = Proxy.parse("http://user:pa%3Ass%40@proxy.example:3128")


async def answered(reply: list[bytes], proxy: Proxy = PROXY, *, close: bool = False) -> tuple[bytes, bytes]:
    """What the proxy was asked, and what the agent left unread, when the proxy answers with `reply`."""
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        asked = b""
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                nonlocal asked
                while b"\r\n\r\n" not in asked:
                    await trio.lowlevel.wait_readable(far)
                    asked += far.recv(4096)
                for part in reply:
                    far.sendall(part)
                    await trio.testing.wait_all_tasks_blocked()
                if close:
                    far.shutdown(socket.SHUT_WR)

            nursery.start_soon(answer)
            with trio.fail_after(5):
                await open_tunnel(near, proxy, SERVER)
        try:
            return asked, near.recv(100)
        except BlockingIOError:
            return asked, b""


async def test_connect():
    asked, rest = await answered([b"HTTP/1.1 200 Connection established\r\n\r\n"])
    lines = asked.decode().split("\r\n")
    assert lines[0] == "CONNECT tunnel.example:10262 HTTP/1.1"
    assert "Host: tunnel.example:10262" in lines
    assert "Proxy-Authorization: Basic dXNlcjpwYTpzc0A=" in lines
    assert not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in lines)
    assert rest == b""


async def test_replies_in_pieces_and_of_old_proxies():
    await answered([b"HTTP/1.0 2", b"00 OK\r", b"\nVia: x\r\n\r", b"\n"])
    await answered(
        [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]
    )


async def test_bytes_behind_the_header_are_refused():
    with pytest.raises(BaseExceptionGroup) as caught:
        await answered([b"HTTP/1.1 200 OK\r\n\r\nhello"])
    assert caught.group_contains(ProxyError, match="sent data of its own")


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", r"refuses this user and password"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nsorry", r"403 Forbidden: its operator must"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", r"502 Bad Gateway to CONNECT tunnel\.example:10262"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", r"is no HTTP proxy"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20000, r"is no HTTP proxy"),
        (b"", r"without a reply"),
        (b"HTTP/1.1 200 OK\r\nX: y", r"is no HTTP proxy|without a reply"),
    ],
)  # fmt: skip
async def test_refusals_say_why_and_what_to_do(reply, words):
    with pytest.raises(BaseExceptionGroup) as caught:
        await answered([reply], close=True)
    assert caught.group_contains(ProxyError, match=words)
    assert not caught.group_contains(ProxyError, match="pa:ss@|dXNl")


async def test_a_proxy_that_wants_credentials():
    with pytest.raises(BaseExceptionGroup) as caught:
        await answered([b"HTTP/1.1 407 No\r\n\r\n"], Proxy.parse("proxy.example:1"))
    assert caught.group_contains(ProxyError, match=r'set proxy = "http://USER:PASSWORD@proxy\.example:1"')


async def test_endless_interim_replies_end():
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: " + b"x" * 1000 + b"\r\n\r\n"
    with pytest.raises(BaseExceptionGroup) as caught:
        await answered([interim] * (MAX_REPLY // 1000 + 10))
    assert caught.group_contains(ProxyError, match="without a final reply")


async def test_the_request_is_what_h11_reads():
    asked, _ = await answered([b"HTTP/1.1 200 OK\r\n\r\n"])
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(asked)
    request = reader.next_event()
    assert isinstance(request, h11.Request)
    assert request.method == b"CONNECT"
    assert isinstance(reader.next_event(), h11.EndOfMessage)
