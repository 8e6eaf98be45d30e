"""One look at the server, against a server's real API: what is stored, and what is refused."""

import dataclasses
import io
import json
import sys
from datetime import timedelta
from ipaddress import ip_address

import pytest
import trio

from certs.files import StateError
from certs.fingerprints import fingerprints
from certs.requests import key_pem, new_key
from certs.revocations import Kind, RevocationStore
from tests.tunnel_server.identified import identified, prepare
from tunnel_agent import renew as renew_module
from tunnel_agent.credentials import CredentialsError, load_credentials
from tunnel_agent.endpoint import Endpoint
from tunnel_agent.join import join
from tunnel_agent.renew import RenewError, Settings, main, renew

DAY = timedelta(days=1)


@pytest.fixture
async def server(tmp_path):
    prepare(tmp_path / "server")
    async with identified(tmp_path / "server") as running:
        yield running


@pytest.fixture
async def edge(server, tmp_path):
    token, ca_hash = server.join_line("edge-1", "192.168.2.143", life=DAY)
    await trio.to_thread.run_sync(
        lambda: join([server.endpoint], token, ca_hash, state_dir=tmp_path / "edge", proxy="none")
    )
    return tmp_path / "edge"


def contents(path):
    return {each.name: each.read_bytes() for each in path.iterdir()}


async def look(edge, *servers, due=False, proxy="none"):
    settings = Settings(str(edge), servers, proxy, 5.0, due)
    return await trio.to_thread.run_sync(renew, settings)


async def test_nothing_is_due(server, edge):
    before = contents(edge)
    outcome = await look(edge)
    assert (outcome.renewed, outcome.trust, outcome.moved) == (False, False, False)
    assert contents(edge) == before


async def test_due(server, edge):
    before = contents(edge)
    outcome = await look(edge, due=True)
    assert (outcome.server, outcome.renewed, outcome.why) == (server.endpoint, True, "")
    after = contents(edge)
    assert after["node.key"] != before["node.key"]
    assert after["node.crt"] != before["node.crt"]
    assert after["ca.crt"] == before["ca.crt"]
    held = load_credentials(edge)
    assert held.identity.name == "edge-1"
    assert list(map(str, held.addresses)) == ["192.168.2.143"]
    assert all(each.stat().st_mode & 0o777 == 0o600 for each in edge.iterdir())


async def test_the_next_server_is_asked(server, edge):
    assert (await look(edge, "127.0.0.1:1", server.endpoint)).server == server.endpoint
    with pytest.raises(RenewError, match=r"127\.0\.0\.1:1: Connection refused"):
        await look(edge, "127.0.0.1:1")


async def test_the_proxy_that_joining_went_through_is_used_and_kept(server, edge):
    proxy = "http://u:secret@127.0.0.1:1"
    file = edge / "agent.json"
    file.write_text(file.read_text().replace('"none"', f'"{proxy}"'))
    with pytest.raises(RenewError, match="127") as caught:
        await look(edge, due=True, proxy="")
    assert "secret" not in str(caught.value)
    assert (await look(edge, due=True)).renewed
    assert load_credentials(edge).proxy == proxy


@pytest.mark.parametrize(
    ("listed", "stored"),
    [
        (["a.example:1", "SELF"], ["SELF", "a.example:1"]),
        (["a.example:1", "b.example:2"], ["a.example:1", "b.example:2", "SELF"]),
        ([], ["SELF"]),
    ],
)
async def test_where_the_servers_are(server, edge, listed, stored):
    server.servers[:] = [each.replace("SELF", server.endpoint) for each in listed]
    await look(edge)
    expected = [each.replace("SELF", server.endpoint) for each in stored]
    assert [str(each) for each in load_credentials(edge).servers] == expected


async def test_another_server_of_the_domain_is_no_node(server, edge, tmp_path):
    """What answers is a node that holds the server's address: it must not even hear what we trust."""
    identity = server.identity
    key = new_key()
    pem = identity.authority.issue_node(key.public_key(), "edge-2", [ip_address("127.0.0.1")])
    (tmp_path / "both.pem").write_bytes(key_pem(key) + pem.encode())
    server.listener.context.load_cert_chain(tmp_path / "both.pem")
    # OpenSSL itself refuses a certificate that is good for clients only.
    with pytest.raises(RenewError, match="refused"):
        await look(edge)


def answering(monkeypatch, **changed):
    """Let the server's answer be changed on its way."""
    asked = renew_module._ask

    def ask(client, state, credentials, path, body):
        return {**asked(client, state, credentials, path, body), **changed}

    monkeypatch.setattr(renew_module, "_ask", ask)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"certificate": None}, "something is missing"),
        ({"servers": "x"}, "something is missing"),
        ({"servers": ["a b"]}, "not an endpoint"),
        ({"ca": "nonsense"}, "cannot be used"),
        ({"certificate": "nonsense"}, "cannot be used"),
    ],
)
async def test_answers_that_cannot_be_used_change_nothing(server, edge, monkeypatch, changed, why):
    before = contents(edge)
    answering(monkeypatch, **changed)
    with pytest.raises(RenewError, match=why):
        await look(edge, due=True)
    assert contents(edge) == before


async def test_certificates_that_would_lock_it_out(server, edge, monkeypatch):
    before = contents(edge)
    authority = server.enrolment.authority
    stranger = type(authority).make(authority.domain)[0]
    own, other = new_key(), new_key()
    monkeypatch.setattr("certs.requests.new_key", lambda: own)
    for pem, ca, why in [
        (authority.issue_node(own.public_key(), "edge-2", []), authority.pem, "is for spiffe"),
        (authority.issue_node(other.public_key(), "edge-1", []), authority.pem, "for another key"),
        (stranger.issue_node(own.public_key(), "edge-1", []), authority.pem, "of none of its authorities"),
        (authority.issue_node(own.public_key(), "edge-1", []), stranger.pem, "of none of its authorities"),
        (authority.issue_node(own.public_key(), "edge-1", []), authority.pem * 9, "9 authorities"),
    ]:
        with monkeypatch.context() as patch:
            answering(patch, certificate=pem, ca=ca)
            with pytest.raises(RenewError, match=why):
                await look(edge, due=True)
        assert contents(edge) == before


async def test_who_has_joined_again_meanwhile_is_not_overwritten(server, edge, monkeypatch):
    asked = renew_module._ask

    def ask(client, state, credentials, path, body):
        answer = asked(client, state, credentials, path, body)
        if path == "/v1/renew":
            with state.transaction() as transaction:
                transaction.write({"node.crt": b"another"})
        return answer

    monkeypatch.setattr(renew_module, "_ask", ask)
    with pytest.raises(RenewError, match="somebody else has joined"):
        await look(edge, due=True)
    assert (edge / "node.crt").read_bytes() == b"another"


async def test_a_refusal_is_the_servers_own_words(server, edge):
    with server.state.transaction() as transaction:
        RevocationStore(server.state).add(transaction, Kind.NODE, "edge-1", "stolen")
    with pytest.raises(RenewError, match=r"node edge-1 was revoked at .* stolen"):
        await look(edge, due=True)


async def test_the_server_hears_what_is_trusted(server, edge):
    with server.state.transaction() as transaction:
        transaction.write({"nodes.json": b'{"nodes": {}}'})
    await look(edge, due=True)
    record = server.enrolment.nodes.load()["edge-1"]
    assert record.roots == fingerprints((edge / "ca.crt").read_text())
    assert record.issuer == record.roots[0]


async def test_not_joined(tmp_path):
    with pytest.raises((CredentialsError, StateError), match=r"does not exist|has not joined"):
        await look(tmp_path / "nowhere")


async def test_as_a_program(server, edge, monkeypatch, capsys):
    settings = dataclasses.asdict(Settings(str(edge), (), "none", 5.0, due=True))

    def program():
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(settings)))
        return main()

    assert await trio.to_thread.run_sync(program) == 0
    assert json.loads(capsys.readouterr().out)["renewed"] is True
    settings["servers"] = [str(Endpoint("127.0.0.1", 1))]
    assert await trio.to_thread.run_sync(program) == 1
    said = capsys.readouterr()
    assert said.err == "127.0.0.1:1: Connection refused\n"
    assert said.out == ""
