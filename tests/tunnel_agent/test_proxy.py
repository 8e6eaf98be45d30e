import socket

import h11
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tunnel_agent.endpoint import Endpoint
from tunnel_agent.proxy import MAX_REPLY, Proxy, ProxyChoice, ProxyError, bypasses, choose_proxy, open_tunnel

SERVER = Endpoint("tunnel.example", 10262)
PROXY = Proxy.parse("http://user:pa%3Ass%40@proxy.example:3128")


def test_parsing():
    assert str(PROXY) == "http://proxy.example:3128"
    assert PROXY.authorization == "Basic dXNlcjpwYTpzc0A="
    assert Proxy.parse("http://proxy.example").endpoint == Endpoint("proxy.example", 80)
    assert Proxy.parse("proxy.example:3128").endpoint.port == 3128
    assert Proxy.parse("http://[2001:db8::1]:3128/").endpoint == Endpoint("2001:db8::1", 3128)


def test_the_password_is_never_printed():
    for text in (str(PROXY), repr(PROXY)):
        assert "pa:ss@" not in text
        assert "dXNl" not in text


@pytest.mark.parametrize(
    "text", ["https://secret@p:1", "socks5://secret@p:1", "http://secret:x@", "http://u:secret@h:99999", "http://u:secret@h/x",
             "http://u:secret@h?x", "http://u:secret@[::1"],
)  # fmt: skip
def test_what_is_no_proxy_is_refused_without_its_password(text):
    with pytest.raises(ValueError, match=r".") as caught:
        ProxyChoice.parse(text)
    assert "secret" not in str(caught.value)


@given(st.text(max_size=60))
def test_parsing_never_fails_otherwise(text):
    try:
        ProxyChoice.parse(text)
    except ValueError:
        pass


def test_the_setting_wins_then_the_environment():
    environment = {"HTTPS_PROXY": "http://env.example:1"}
    assert choose_proxy("", {}, SERVER) is None
    assert choose_proxy("none", environment, SERVER) is None
    assert str(choose_proxy("http://set.example:2", environment, SERVER)) == "http://set.example:2"
    assert str(choose_proxy("", environment, SERVER)) == "http://env.example:1"
    both = {**environment, "https_proxy": "http://lower.example:3"}
    assert str(choose_proxy("", both, SERVER)) == "http://lower.example:3"
    assert choose_proxy("", {**environment, "NO_PROXY": ".example"}, SERVER) is None
    assert choose_proxy("http://set.example:2", {"NO_PROXY": "*"}, SERVER) is not None
    with pytest.raises(ValueError, match="HTTPS_PROXY"):
        choose_proxy("", {"HTTPS_PROXY": "socks5://x:1"}, SERVER)


@pytest.mark.parametrize(
    ("no_proxy", "host", "expected"),
    [
        ("", "tunnel.example", False),
        ("*", "tunnel.example", True),
        ("tunnel.example", "tunnel.example", True),
        ("TUNNEL.example.", "other.example", False),
        ("example", "tunnel.example", True),
        (".example", "tunnel.example", True),
        ("*.example", "tunnel.example", True),
        ("nel.example", "tunnel.example", False),
        ("a, b ,tunnel.example", "tunnel.example", True),
        ("tunnel.example:443", "tunnel.example", False),
        ("tunnel.example:10262", "tunnel.example", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.30", False),
        ("[2001:db8::1]:10262", "2001:db8::1", True),
        ("2001:db8::/32", "2001:db8::1", True),
        ("10.0.0.0/8", "tunnel.example", False),
        (",, ,", "tunnel.example", False),
    ],
)
def test_no_proxy(no_proxy, host, expected):
    assert bypasses(no_proxy, Endpoint(host, 10262)) is expected


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
