"""Joining over real TLS: all of it, or no trace on either side."""

import argparse
import json
import ssl
import stat
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address

import pytest
import trio

from certs.authority import Authority
from certs.enrolment import Enrolment
from certs.files import StateDirectory
from certs.requests import key_pem, make_request, new_key
from certs.server_state import initialise
from tests.tunnel_agent.test_join_client import connecting
from tunnel_agent.credentials import load_credentials
from tunnel_agent.join import JoinError, join
from tunnel_agent.join_command import add_join_parser
from tunnel_daemon.http1 import Request, Response, serve_connection
from tunnel_server.join_api import JoinApi

LOOPBACK = ip_address("127.0.0.1")
ADDRESS = ip_address("192.168.2.143")


def tls(chain):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(chain)
    context.set_alpn_protocols(["http/1.1"])
    return context


@dataclass
class Server:
    """A real join API behind a real TLS port; `answer` may be replaced by a test."""

    state: StateDirectory
    enrolment: Enrolment
    context: ssl.SSLContext
    answer: object = None
    port: int = 0
    asked: list = field(default_factory=list)
    proxied: list = field(default_factory=list)

    def __post_init__(self):
        api = JoinApi(self.enrolment, servers=lambda: ["tunnel.example.org:443", f"127.0.0.1:{self.port}"])
        self.answer = api.handle

    @property
    def ca_hash(self):
        return self.enrolment.authority.hash

    @property
    def posts(self):
        return [request for request in self.asked if request.method == "POST"]

    def token(self, node="edge-1", life=timedelta(hours=1)):
        return self.enrolment.tokens.create(node, [ADDRESS], life)[0]

    def is_unused(self, token):
        (record,) = [each for each in self.enrolment.tokens.list() if token.startswith(each.id)]
        return record.used is None and not self.state.exists("nodes.json")

    async def serve(self, stream):
        async def handle(request: Request) -> Response:
            self.asked.append(request)
            return await self.answer(request)

        secure = trio.SSLStream(stream, self.context, server_side=True, https_compatible=True)
        try:
            await serve_connection(secure, handle, peer=("127.0.0.1", 1))
        except ssl.SSLError:
            await trio.aclose_forcefully(secure)


@asynccontextmanager
async def listening(serve, host="127.0.0.1"):
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host=host))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def make_server(path, **given):
    state = StateDirectory.create(path)
    authority = initialise(state, addresses=(LOOPBACK, ip_address("::1")), **given).authority
    (path / "chain").write_bytes((path / "server.crt").read_bytes() + (path / "server.key").read_bytes())
    return Server(state, Enrolment(state, authority, is_own=lambda _: False), tls(path / "chain"))


@pytest.fixture
async def server(tmp_path):
    server = make_server(tmp_path / "server")
    async with listening(server.serve) as server.port:
        yield server


@pytest.fixture
def edge(tmp_path):
    return tmp_path / "edge" / "state"


async def joining(server, token, edge, ca_hash=None, host="127.0.0.1", **given):
    where, given = [f"{host}:{server.port}"], {"timeout": 5, "pause": 0, **given}
    call = partial(join, where, token, ca_hash or server.ca_hash, state_dir=edge, **given)
    with trio.fail_after(20):
        return await trio.to_thread.run_sync(call)


async def failing(server, token, edge, **given):
    """Join, in vain; return the error, having checked that no trace is left on the edge."""
    before = contents(edge)
    with pytest.raises(JoinError) as caught:
        await joining(server, token, edge, **given)
    assert "\n" not in str(caught.value)
    assert token not in str(caught.value)
    assert contents(edge) == before
    assert edge.parent.exists() == bool(before)
    return caught.value


def contents(edge):
    return {path.name: path.read_bytes() for path in edge.iterdir()} if edge.exists() else {}


async def test_a_join(server, edge):
    joined = await joining(server, server.token(), edge, node="edge-1")
    assert joined.identity.uri == "spiffe://edge-tunnel/node/edge-1"
    assert sorted(contents(edge)) == ["agent.json", "ca.crt", "node.crt", "node.key"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in edge.iterdir()} == {0o600}
    assert stat.S_IMODE(edge.stat().st_mode) == 0o700
    servers = [f"127.0.0.1:{server.port}", "tunnel.example.org:443"]
    assert json.loads((edge / "agent.json").read_text()) == {
        "node": "edge-1", "addresses": ["192.168.2.143"], "servers": servers,
    }  # fmt: skip
    credentials = load_credentials(edge)
    assert credentials.identity == joined.identity
    assert credentials.addresses == {ADDRESS}
    assert [str(each) for each in credentials.servers] == servers
    assert [(each.method, each.path) for each in server.asked] == [("GET", "/v1/ca"), ("POST", "/v1/join")]
    assert b"PRIVATE" not in server.posts[0].body


async def test_the_agent_gets_the_proxy_that_joining_went_through(server, edge, monkeypatch):
    heads = []
    async with listening(connecting(heads, b"user:hunter2")) as port:
        proxy = f"http://user:hunter2@127.0.0.1:{port}"
        await joining(server, server.token(), edge, proxy=proxy)
        assert load_credentials(edge).proxy == proxy
        assert "hunter2" not in repr(load_credentials(edge))
        assert stat.S_IMODE((edge / "agent.json").stat().st_mode) == 0o600
        await joining(server, server.token(), edge, force=True)
        assert load_credentials(edge).proxy == ""
        await joining(server, server.token(), edge, force=True, proxy="none")
        assert load_credentials(edge).proxy == "none"
        assert len(heads) == 2
        monkeypatch.setenv("https_proxy", proxy)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        await joining(server, server.token(), edge, force=True)
        assert load_credentials(edge).proxy == "", "the agent has the environment, too"
        await joining(server, server.token(), edge, force=True, keep_environment=True)
        assert load_credentials(edge).proxy == proxy, "a service has it not"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        await joining(server, server.token(), edge, force=True, keep_environment=True)
        assert load_credentials(edge).proxy == "", "it was not used"


async def test_over_ipv6(tmp_path, edge):
    server = make_server(tmp_path / "server")
    async with listening(server.serve, "::1") as server.port:
        joined = await joining(server, server.token(), edge, host="[::1]")
    assert str(joined.servers[0]) == f"[::1]:{server.port}"


async def test_the_first_that_answers(server, edge):
    servers = ["127.0.0.1:1", f"127.0.0.1:{server.port}"]
    call = partial(join, servers, server.token(), server.ca_hash, state_dir=edge, timeout=5)
    joined = await trio.to_thread.run_sync(call)
    assert joined.servers[0].port == server.port


async def test_nobody_answers(server, edge):
    server.port = 1
    error = await failing(server, server.token(), edge)
    assert error.exit_code == 3
    assert "127.0.0.1:1: Connection refused" in str(error)


async def test_a_server_that_says_nothing(server, edge):
    async with listening(lambda _stream: trio.sleep_forever()) as server.port:
        error = await failing(server, server.token(), edge, timeout=0.2)
    assert error.exit_code == 3
    assert "no answer in time" in str(error)


@pytest.mark.parametrize(
    ("token", "given", "why"),
    [
        ("abc", {}, "the token is not whole"),
        (None, {"ca_hash": "sha256:12"}, "'sha256:12' is not a CA hash"),
        (None, {"host": "a b"}, "not an endpoint"),
        (None, {"proxy": "socks://x"}, "proxy"),
        (None, {"node": "Edge"}, "'Edge' is not a name"),
    ],
)
async def test_wrong_use_asks_nobody(server, edge, token, given, why):
    error = await failing(server, token or server.token(), edge, **given)
    assert why in str(error)
    assert (error.exit_code, server.asked) == (2, [])


async def test_each_refusal_of_the_server_has_its_own_message(server, edge):
    unknown = f"00000000.{'A' * 43}"
    used, revoked, mine = server.token(), server.token(), server.token()
    server.enrolment.join(used, None, make_request(new_key()))
    server.enrolment.tokens.revoke(revoked.partition(".")[0])
    expired = server.token(life=timedelta(microseconds=1))
    for token, given, code, why in [
        (unknown, {}, "token-unknown", "this server does not know the token"),
        (used, {}, "token-used", "a token serves once"),
        (revoked, {}, "token-revoked", "the token was revoked at"),
        (expired, {}, "token-expired", "the token expired at"),
        (mine, {"node": "edge-2"}, "token-wrong-node", "the token is for node edge-1, not for edge-2"),
    ]:
        error = await failing(server, token, edge, **given)
        assert (error.exit_code, error.code) == (4, code)
        assert why in str(error)
    assert (await joining(server, mine, edge)).identity.name == "edge-1"


async def test_the_wrong_hash_keeps_the_token_home(server, edge):
    token = server.token()
    error = await failing(server, token, edge, ca_hash="sha256:" + "0" * 64)
    assert error.exit_code == 4
    assert server.ca_hash in str(error)
    assert "the token was not sent" in str(error)
    assert server.posts == []
    assert server.is_unused(token)


async def test_somebody_between_who_shows_the_right_authority(tmp_path, server, edge):
    token = server.token()
    between = make_server(tmp_path / "between")
    between.answer = server.answer
    async with listening(between.serve) as between.port:
        error = await failing(between, token, edge, ca_hash=server.ca_hash)
    assert error.exit_code == 4
    assert "something between intercepts TLS; the token was not sent" in str(error)
    assert between.posts == []


@pytest.mark.parametrize("role", ["node", "caller", "node-with-server-auth"])
async def test_a_node_cannot_pose_as_the_server(tmp_path, server, edge, role):
    token, key, authority = server.token(), new_key(), server.enrolment.authority
    if role == "node":
        pem = authority.issue_node(key.public_key(), "edge-9", [LOOPBACK])
    elif role == "caller":
        pem = authority.issue_caller(key.public_key(), "c")
    else:
        real = Authority.issue_server
        pem = real(_AsNode(authority), key.public_key(), "edge-9", [LOOPBACK], [])
    (tmp_path / "chain").write_bytes(pem.encode() + key_pem(key))
    server.context = tls(tmp_path / "chain")
    error = await failing(server, token, edge)
    assert error.exit_code == 4
    assert ("not a server" in str(error)) == (role == "node-with-server-auth")
    assert server.posts == []


class _AsNode:
    """An authority that gives a node what only a server gets."""

    def __init__(self, authority):
        self.domain = authority.domain
        self._authority = authority

    def _issue(self, key, identity, *rest, **given):
        from certs.identity import Identity, Role

        return self._authority._issue(key, Identity(self.domain, Role.NODE, identity.name), *rest, **given)


async def test_a_name_that_the_certificate_lacks(server, edge):
    token = server.token()
    error = await failing(server, token, edge, host="localhost")
    assert error.exit_code == 4
    assert "does not name localhost" in str(error)
    assert "--cert-dns-names" in str(error)
    assert server.posts == []


@pytest.mark.parametrize(("days", "why"), [(300, "is not valid yet"), (-400, "has expired")])
async def test_a_wrong_clock_is_diagnosed(tmp_path, edge, days, why):
    server = make_server(tmp_path / "server", now=datetime.now(UTC) + timedelta(days=days))
    async with listening(server.serve) as server.port:
        token = server.token()
        error = await failing(server, token, edge)
    assert why in str(error)
    assert f"clock of this machine says {datetime.now(UTC):%Y-%m-%d}" in str(error)
    assert server.is_unused(token)


async def test_what_is_no_tunnel_server(tmp_path, server, edge):
    async def plain(stream):
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.0 400 Bad\r\n\r\n")

    async def missing(_request):
        return Response.json({"error": "nothing \x1b[31m is at /v1/ca"}, 404)

    async def page(_request):
        return Response.text("<html>")

    token = server.token()
    for answer, why in [(missing, "nothing ?[31m is at /v1/ca"), (page, "no tunnel server")]:
        server.answer = answer
        error = await failing(server, token, edge)
        assert why in str(error)
    async with listening(plain) as server.port:
        error = await failing(server, token, edge)
        assert "does not speak TLS" in str(error)


async def test_joined_already(server, edge):
    await joining(server, server.token(), edge)
    before, token = contents(edge), server.token("edge-2")
    asked = len(server.asked)
    error = await failing(server, token, edge)
    assert (error.exit_code, len(server.asked)) == (2, asked)
    assert "--force" in str(error)
    assert contents(edge) == before
    await failing(server, "00000000." + "A" * 43, edge, force=True)
    assert contents(edge) == before
    assert (await joining(server, token, edge, force=True)).identity.name == "edge-2"
    assert load_credentials(edge).identity.name == "edge-2"
    assert contents(edge)["node.key"] != before["node.key"]


async def test_another_join_under_way(server, edge):
    token = server.token()
    busy = pytest.raises(JoinError, match="in use by another process")
    with StateDirectory.create(edge).transaction(), busy:
        await joining(server, token, edge)
    assert server.asked == []


async def test_a_directory_that_cannot_be_costs_no_token(server, edge):
    token = server.token()
    edge.parent.write_text("")
    with pytest.raises(JoinError, match="in the way") as caught:
        await joining(server, token, edge)
    assert (caught.value.exit_code, server.asked) == (1, [])


def losing(server, times):
    """Let the API do its work, and the connection end before the answer to `times` POSTs."""
    real, left = server.answer, [times]

    async def answer(request):
        response = await real(request)
        if request.method == "POST" and left[0]:
            left[0] -= 1
            raise trio.BrokenResourceError
        return response

    server.answer = answer


async def test_a_lost_answer_is_asked_for_again(server, edge, monkeypatch):
    monkeypatch.setattr("tunnel_daemon.http1._Connection.call", lambda self, request: self.handler(request))
    losing(server, 2)
    assert (await joining(server, server.token(), edge)).identity.name == "edge-1"
    bodies = {request.body for request in server.posts}
    assert (len(server.posts), len(bodies)) == (3, 1)


async def test_an_answer_that_is_always_lost(server, edge, monkeypatch):
    monkeypatch.setattr("tunnel_daemon.http1._Connection.call", lambda self, request: self.handler(request))
    losing(server, 9)
    error = await failing(server, server.token(), edge)
    assert error.exit_code == 3
    assert "the token may be used up" in str(error)
    assert len(server.posts) == 3


def forged(server, **changes):
    real = server.answer

    async def answer(request):
        response = await real(request)
        if request.method == "GET":
            return response
        return Response.json({**json.loads(response.body), **changes})

    server.answer = answer


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("no certificate", "something is missing"),
        ("no servers", "something is missing"),
        ("nonsense", "its answer cannot be used"),
        ("another key", "for another key"),
        ("another authority", "not signed by the authority"),
        ("another role", "spiffe://edge-tunnel/server/edge-1"),
        ("another bundle", "its authorities are others"),
        ("bad server", "not an endpoint"),
    ],
)
async def test_an_answer_that_cannot_be_used(server, edge, change, why):
    authority, key = server.enrolment.authority, new_key()
    other = Authority.make("edge-tunnel")[0]
    real = server.answer

    async def as_server(request):
        from certs.requests import read_request

        response = await real(request)
        if request.method == "GET":
            return response
        asked = read_request(json.loads(request.body)["csr"].encode())
        pem = authority.issue_server(asked, "edge-1", [], [])
        return Response.json({**json.loads(response.body), "certificate": pem})

    if change == "another role":
        server.answer = as_server
    else:
        forged(server, **{
            "no certificate": {"certificate": None},
            "no servers": {"servers": "x"},
            "nonsense": {"certificate": "x"},
            "another key": {"certificate": authority.issue_node(key.public_key(), "edge-1", [])},
            "another authority": {"certificate": other.issue_node(key.public_key(), "edge-1", [])},
            "another bundle": {"ca": other.pem},
            "bad server": {"servers": ["a b"]},
        }[change])  # fmt: skip
    error = await failing(server, server.token(), edge)
    assert error.exit_code == 1
    assert why in str(error)


async def test_an_answer_that_is_no_json(server, edge):
    real = server.answer

    async def answer(request):
        return await real(request) if request.method == "GET" else Response.text("ok")

    server.answer = answer
    assert "not JSON" in str(await failing(server, server.token(), edge))


def command_line(server, token, edge, *more):
    parser = argparse.ArgumentParser()
    add_join_parser(parser.add_subparsers())
    given = ["join", f"127.0.0.1:{server.port}", "--token", token, "--ca-hash", server.ca_hash]
    args = parser.parse_args([*given, "--state-dir", str(edge), *more])
    return trio.to_thread.run_sync(args.run, args)


async def test_the_command_line_says_which_proxy_the_agent_will_use(server, edge, capsys):
    async with listening(connecting([], b"user:secret")) as port:
        proxy = f"http://user:secret@127.0.0.1:{port}"
        assert await command_line(server, server.token(), edge, "--proxy", proxy) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"the agent will use the proxy http://127.0.0.1:{port} too, unless its configuration says otherwise"
    ]
    assert await command_line(server, server.token(), edge, "--force", "--proxy", "none") == 0
    assert "the agent will use no proxy," in capsys.readouterr().out


async def test_the_command_line(server, edge, capsys):
    token = server.token()
    assert await command_line(server, token, edge) == 0
    said = capsys.readouterr()
    assert said.out == f"joined 127.0.0.1:{server.port} as edge-1 (192.168.2.143), see {edge}\n"
    assert said.err == ""
    assert await command_line(server, token, edge, "--force") == 4
    said = capsys.readouterr()
    assert said.err.startswith("tunnel-agent join: ")
    assert "used" in said.err
    assert said.err.count("\n") == 1
    assert token not in said.err
