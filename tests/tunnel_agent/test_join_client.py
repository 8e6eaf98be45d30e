"""One request before there is an identity: bounded, through a proxy where that is the only way."""

import base64
import ssl
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_address

import pytest
import trio

from certs.authority import Authority
from certs.requests import key_pem, new_key
from tunnel_agent.endpoint import Endpoint
from tunnel_agent.join_client import MAX_ANSWER, Answer, Client, UnreachableError, client_context
from tunnel_agent.tls_errors import TlsFailedError

LOOPBACK = ip_address("127.0.0.1")
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


@asynccontextmanager
async def listening(serve):
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@pytest.fixture
def context(tmp_path):
    """Contexts of a server on 127.0.0.1, and of a client that trusts it."""
    authority, key = Authority.make("d")[0], new_key()
    pem = authority.issue_server(key.public_key(), "s", [LOOPBACK], [])
    (tmp_path / "chain").write_bytes(pem.encode() + key_pem(key))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "chain")
    client = client_context()
    client.load_verify_locations(cadata=authority.pem)
    return server, client


def answering(context, answer, asked, *, cut=False):
    async def serve(stream):
        secure = trio.SSLStream(stream, context, server_side=True)
        try:
            request = b""
            while not request.endswith(b"{}") and (data := await secure.receive_some()):
                request += data
            asked.append(request)
            await secure.send_all(answer)
            await (trio.aclose_forcefully(secure) if cut else secure.aclose())
        except (trio.BrokenResourceError, ssl.SSLError):
            await trio.aclose_forcefully(secure)

    return serve


async def ask(port, client, *, proxy="none", timeout=5, check_peer=None):
    def call():
        way = Client.to(Endpoint("127.0.0.1", port), proxy, timeout)
        return way.ask(client, "POST", "/v1/join", b"{}", check_peer=check_peer)

    return await trio.to_thread.run_sync(call)


async def test_a_request_and_its_answer(context):
    server, client = context
    asked = []
    async with listening(answering(server, OK, asked)) as port:
        answer = await ask(port, client)
    assert (answer.status, answer.body) == (200, b"hi")
    head = asked[0].decode().lower()
    assert head.startswith("post /v1/join http/1.1\r\n")
    assert f"host: 127.0.0.1:{port}\r\n" in head
    assert "content-type: application/json\r\n" in head


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhi",
        b"HTTP/1.1 200 OK\r\n\r\n" + bytes(MAX_ANSWER + 1),
    ],
)
async def test_an_answer_that_is_none(context, answer):
    server, client = context
    async with listening(answering(server, answer, [])) as port:
        with pytest.raises(UnreachableError) as caught:
            await ask(port, client)
    assert caught.value.sent
    assert "\n" not in str(caught.value)


async def test_an_end_that_anybody_could_have_made_is_no_answer(context):
    answer = b"HTTP/1.1 200 OK\r\n\r\nhi"
    async with listening(answering(context[0], answer, [])) as port:
        assert (await ask(port, context[1])).body == b"hi"
    async with listening(answering(context[0], answer, [], cut=True)) as port:
        with pytest.raises(UnreachableError, match="the answer was cut short") as caught:
            await ask(port, context[1])
    assert caught.value.sent


async def test_the_peer_is_checked_before_anything_is_sent(context):
    server, client = context
    asked = []

    def check(peer):
        assert ("IP Address", "127.0.0.1") in peer["subjectAltName"]
        raise ZeroDivisionError

    async with listening(answering(server, OK, asked)) as port:
        with pytest.raises(ZeroDivisionError):
            await ask(port, client, check_peer=check)
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert b"".join(asked) == b""


async def test_a_connection_that_ends_in_the_handshake_is_worth_another_try(context):
    async def hang_up(stream):
        await stream.receive_some()
        await stream.aclose()

    async with listening(hang_up) as port:
        with pytest.raises(UnreachableError) as caught:
            await ask(port, context[1])
    assert not caught.value.sent


async def test_a_certificate_that_is_not_trusted_is_not(context):
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.load_verify_locations(cadata=Authority.make("d")[0].pem)
    async with listening(answering(context[0], OK, [])) as port:
        with pytest.raises(TlsFailedError, match=f"127.0.0.1:{port}: .*another authority"):
            await ask(port, stranger)


async def test_a_name_that_is_none(context):
    def call():
        return Client.to(Endpoint("nowhere.invalid", 1), "none", 5).ask(context[1], "GET", "/")

    with pytest.raises(UnreachableError, match=r"nowhere\.invalid:1: its name can't be resolved"):
        await trio.to_thread.run_sync(call)


def connecting(heads, credentials=b"user:pass word"):
    """A proxy that wants credentials and connects to wherever it is asked."""
    wanted = b"proxy-authorization: basic " + base64.b64encode(credentials)

    async def serve(stream):
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some()
        heads.append(head)
        if wanted.lower() not in head.lower():
            await stream.send_all(b"HTTP/1.1 407 Who\r\ncontent-length: 0\r\n\r\n")
            return
        host, _, port = head.split()[1].decode().rpartition(":")
        upstream = await trio.open_tcp_stream(host, int(port))
        await stream.send_all(b"HTTP/1.1 200 Go\r\n\r\n")
        async with upstream, trio.open_nursery() as nursery:
            for source, sink in ((stream, upstream), (upstream, stream)):
                nursery.start_soon(copy, source, sink)

    return serve


async def copy(source, sink):
    try:
        async for data in source:
            await sink.send_all(data)
        await sink.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def test_through_a_proxy(context, monkeypatch):
    server, client = context
    heads = []
    async with listening(answering(server, OK, [])) as port, listening(connecting(heads)) as proxy:
        answer = await ask(port, client, proxy=f"http://user:pass%20word@127.0.0.1:{proxy}")
        assert answer.body == b"hi"
        assert heads[0].startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % port)
        with pytest.raises(UnreachableError, match="407 Who: it refuses this user and password") as caught:
            await ask(port, client, proxy=f"http://user:wrong@127.0.0.1:{proxy}")
        assert "wrong" not in str(caught.value)
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:pass%20word@127.0.0.1:{proxy}")
        for name in ("no_proxy", "NO_PROXY", "https_proxy"):
            monkeypatch.delenv(name, raising=False)
        assert (await ask(port, client, proxy="")).body == b"hi"
        assert len(heads) == 3
        monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
        assert (await ask(port, client, proxy="")).body == b"hi"
        assert len(heads) == 3


async def test_where_dns_is_dead_it_asks_where_the_agent_knows_it(dns, context):
    server, client = context
    dns.silent, known = True, {"a.example": ["127.0.0.1"]}

    def call(port, known):
        way = Client.to(Endpoint("a.example", port), "none", 3, known)
        return way.ask(client, "POST", "/v1/join", b"{}")

    async with listening(answering(server, OK, [])) as port:
        # It is there, and has not this name.
        with pytest.raises(TlsFailedError, match="does not name"):
            await trio.to_thread.run_sync(call, port, known)
        with pytest.raises(UnreachableError, match="no answer"):
            await trio.to_thread.run_sync(call, port, {})


async def test_a_proxy_that_says_nothing(context):
    async with listening(lambda _stream: trio.sleep_forever()) as proxy:
        with pytest.raises(UnreachableError, match=f"no answer from http://127.0.0.1:{proxy} within 0.1 s"):
            await ask(1, context[1], proxy=f"http://127.0.0.1:{proxy}", timeout=0.1)


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (b'{"error": {"code": "token-used", "message": "used\\n\\u001b[31m"}}', ("token-used", "used??[31m")),
        (b'{"error": "nothing is here"}', ("", "nothing is here")),
        (b'{"error": {}}', ("", "it answered 400")),
        (b"<html>", ("", "it answered 400")),
        (b"[]", ("", "it answered 400")),
        (b"[" * 100_000, ("", "it answered 400")),
    ],
)
def test_a_refusal_is_one_printable_line(body, refusal):
    assert Answer(400, body).refusal() == refusal
