import socket
import ssl
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import trio
import trio.testing

from tunnel_agent.connect import ConnectError, connect
from tunnel_agent.credentials import load_credentials
from tunnel_agent.endpoint import Endpoint
from tunnel_agent.proxy import Proxy
from tunnel_agent.server_names import ServerNames


@pytest.fixture
def credentials(pki):
    return load_credentials(pki.state())


async def failure(server: str, credentials, proxy=None, timeout=5.0) -> ConnectError:
    with pytest.raises(ConnectError) as caught:
        await connect(Endpoint.parse(server), proxy, credentials, timeout)
    assert str(caught.value).startswith(server)
    assert "\n" not in str(caught.value)
    return caught.value


async def failed_handshake(context, credentials) -> ConnectError:
    """How connecting fails with a server that has this context."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]

    async def serve(stream: trio.SocketStream) -> None:
        try:
            await trio.SSLStream(stream, context, server_side=True).do_handshake()
        except trio.BrokenResourceError:
            pass
        await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        error = await failure(f"127.0.0.1:{port}", credentials)
        nursery.cancel_scope.cancel()
    return error


async def test_a_name_of_which_dns_says_nothing(server, credentials, dns):
    """It is dialled where it was; where nothing is known, that is said."""
    trio.socket.set_custom_hostname_resolver(names := ServerNames())
    port = server.endpoint.rpartition(":")[2]
    dns.silent = True
    assert "no answer within 0.1 s" in str(await failure(f"a.example:{port}", credentials, timeout=0.1))
    trio.socket.set_custom_hostname_resolver(ServerNames({"a.example": ["127.0.0.1"]}))
    async with trio.open_nursery() as nursery:

        async def accept() -> None:
            with pytest.raises((ssl.SSLError, trio.BrokenResourceError)):
                await server.accept()

        nursery.start_soon(accept)
        # It is there, and has not this name.
        assert "does not name a.example" in str(await failure(f"a.example:{port}", credentials))
    assert len(names.lookups) == 1


async def test_connects_and_shows_the_certificate(server, credentials):
    async with trio.open_nursery() as nursery:
        links = []

        async def accept() -> None:
            links.append(await server.accept())

        nursery.start_soon(accept)
        sock, pump = await connect(Endpoint.parse(server.endpoint), None, credentials, 5)
    with sock:
        assert pump.alpn == "tunnel/1"
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert ("URI", "spiffe://tunnel.test/node/edge-1") in links[0].certificate["subjectAltName"]


async def test_through_a_proxy(server, credentials):
    """A CONNECT proxy that has the only way to the server."""
    asked = []

    async def proxy(stream: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some(1000)
        asked.append(head)
        onward = await trio.open_tcp_stream("127.0.0.1", int(server.endpoint.rpartition(":")[2]))
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        async with stream, onward, trio.open_nursery() as nursery:
            nursery.start_soon(relay, stream, onward)
            nursery.start_soon(relay, onward, stream)

    async def relay(one: trio.SocketStream, other: trio.SocketStream) -> None:
        try:
            async for data in one:
                await other.send_all(data)
            await other.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, proxy, listeners)
        nursery.start_soon(server.accept)
        # The name never reaches a resolver here: the proxy resolves it.
        sock, _pump = await connect(
            Endpoint.parse(server.endpoint), Proxy.parse(f"http://u:p@127.0.0.1:{port}"), credentials, 5
        )
        sock.close()
        nursery.cancel_scope.cancel()
    assert asked[0].startswith(f"CONNECT {server.endpoint} HTTP/1.1\r\n".encode())
    assert b"Proxy-Authorization: Basic dTpw\r\n" in asked[0]


async def test_refused(credentials, refusing):
    error = await failure(f"127.0.0.1:{refusing}", credentials)
    assert error.kind == "errno:111"
    assert "Connection refused" in str(error)


async def test_an_agent_that_was_replaced_meanwhile_says_so(credentials, monkeypatch):
    """By an upgrade; it is told of a proxy only then."""
    monkeypatch.setitem(sys.modules, "tunnel_agent.proxy_tunnel", None)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with listener.socket as sock:
        proxy = Proxy.parse(f"127.0.0.1:{sock.getsockname()[1]}")
        error = await failure("tunnel.example:10262", credentials, proxy)
    assert "has this agent been replaced? Restart it" in str(error)


async def test_a_proxy_that_is_away_is_named(credentials, refusing):
    error = await failure(
        "192.0.2.1:10262", credentials, Proxy.parse(f"http://u:secret@127.0.0.1:{refusing}")
    )
    assert f"connecting to http://127.0.0.1:{refusing}: Connection refused" in str(error)
    assert "secret" not in str(error)


async def test_a_black_hole_costs_the_deadline(credentials, black_hole, autojump_clock):
    error = await failure(f"127.0.0.1:{black_hole}", credentials, timeout=15)
    assert trio.current_time() == 15
    assert "no answer within 15 s" in str(error)


async def test_silence_behind_tcp_costs_the_deadline(credentials, autojump_clock):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        error = await failure(f"127.0.0.1:{port}", credentials, timeout=15)
        assert "TLS: no answer within 15 s" in str(error)
        error = await failure("192.0.2.1:10262", credentials, Proxy.parse(f"127.0.0.1:{port}"), timeout=15)
        assert f"CONNECT through http://127.0.0.1:{port}: no answer within 15 s" in str(error)


async def test_a_name_that_is_unknown(credentials):
    class NoNames(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *_args):
            raise socket.gaierror(-2, "Name or service not known")

        async def getnameinfo(self, *_args):
            raise NotImplementedError

    trio.socket.set_custom_hostname_resolver(NoNames())
    error = await failure("nowhere.example:10262", credentials)
    assert error.kind == "unresolvable"
    assert "can't be resolved (Name or service not known)" in str(error)


async def test_another_node_can_not_play_the_server(pki, credentials):
    # Its certificate names 127.0.0.1, and is of the right authority.
    context = pki.server_context(as_node=True)
    error = await failed_handshake(context, credentials)
    assert error.kind.startswith(("certificate:26", "not-a-server"))


async def test_a_server_that_is_named_otherwise(pki, credentials):
    error = await failed_handshake(pki.server_context(address="192.0.2.7"), credentials)
    assert error.kind == "server-name"
    assert "does not name 127.0.0.1" in str(error)


async def test_a_server_of_another_authority(pki, credentials, tmp_path):
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    error = await failed_handshake(type(pki)(directory).server_context(), credentials)
    assert error.kind == "other-authority"


async def test_an_expired_server(pki, credentials, long_ago):
    context = pki.server_context(now=long_ago, life=timedelta(days=90))
    error = await failed_handshake(context, credentials)
    assert error.kind == "server-expired"
    assert "the clock of this machine says" in str(error)


async def test_the_https_api_is_no_tunnel(pki, credentials):
    error = await failed_handshake(pki.server_context(alpn="http/1.1"), credentials)
    assert "tunnel/1" in str(error) or "no application protocol" in str(error)


async def test_no_tls_at_all(credentials):
    async def web(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await stream.aclose()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, web, listeners)
        port = listeners[0].socket.getsockname()[1]
        error = await failure(f"127.0.0.1:{port}", credentials)
        nursery.cancel_scope.cancel()
    assert error.kind == "no-tls"


async def test_cancelled_leaves_nothing(credentials, black_hole):
    before = len(list(Path("/proc/self/fd").iterdir()))
    with trio.move_on_after(0.05) as scope:
        await connect(Endpoint("127.0.0.1", black_hole), None, credentials, 15)
    assert scope.cancelled_caught
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
