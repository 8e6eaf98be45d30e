"""A token for an identity, against a server's real API: what is stored, what is refused and never sent."""

import dataclasses
import io
import json
import sys
from datetime import timedelta

import pytest
import trio

from certs.authority import Authority
from certs.files import StateError
from certs.subjects import read_subject
from tests.tunnel_agent.vouching import in_a_cluster
from tunnel_agent import attest as attest_module
from tunnel_agent.attest import AttestError, Settings, attest, main
from tunnel_agent.ca_file import CaFileError
from tunnel_agent.credentials import load_credentials
from tunnel_agent.join import join
from tunnel_agent.join_client import Answer


@pytest.fixture
async def cluster(tmp_path):
    async with in_a_cluster(tmp_path) as running:
        yield running


async def ask(cluster, *servers, **changed):
    settings = Settings(**{**cluster.settings(*servers), **changed})
    return await trio.to_thread.run_sync(attest, settings)


def contents(path):
    return {each.name: each.read_bytes() for each in path.iterdir()} if path.exists() else {}


async def test_an_identity(cluster):
    outcome = await ask(cluster)
    assert (outcome.server, outcome.node) == (cluster.server.endpoint, "edge-1")
    held = load_credentials(cluster.state)
    assert (held.identity.name, held.addresses) == ("edge-1", frozenset())
    assert [str(each) for each in held.servers] == [cluster.server.endpoint]
    assert cluster.state.stat().st_mode & 0o777 == 0o700
    assert all(each.stat().st_mode & 0o777 == 0o600 for each in cluster.state.iterdir())
    assert b"token-of" not in b"".join(contents(cluster.state).values())


async def test_another_identity_takes_the_place_of_the_first(cluster):
    await ask(cluster)
    before = contents(cluster.state)
    await ask(cluster)
    after = contents(cluster.state)
    assert before.keys() == after.keys()
    assert before["node.key"] != after["node.key"]
    assert before["node.crt"] != after["node.crt"]


async def test_the_next_server_is_asked(cluster):
    away = "127.0.0.1:1"
    assert (await ask(cluster, away, cluster.server.endpoint)).server == cluster.server.endpoint
    with pytest.raises(AttestError, match=r"127\.0\.0\.1:1: Connection refused"):
        await ask(cluster, away)


async def test_the_apiserver_is_away(cluster):
    cluster.vouching.away = True
    with pytest.raises(AttestError, match="cannot ask its apiserver") as caught:
        await ask(cluster)
    assert caught.value.code == ""
    assert contents(cluster.state) == {}


async def test_what_the_server_refuses(cluster):
    cluster.token_file.write_text("another")
    with pytest.raises(AttestError, match="refused: the apiserver does not accept the token") as caught:
        await ask(cluster)
    assert caught.value.code == "token-refused"
    cluster.token_file.write_text("token-of-edge-2")
    with pytest.raises(AttestError, match="runs on edge-2, and asks for a certificate of edge-1") as caught:
        await ask(cluster)
    assert caught.value.code == "other-node"
    assert contents(cluster.state) == {}


async def test_a_server_of_another_authority_does_not_see_the_token(cluster):
    """From the first byte on: what the CA file does not vouch for is told nothing."""
    cluster.ca_file.write_text(Authority.make("edge-tunnel")[0].pem)
    with pytest.raises(AttestError, match=r"not of an authority in .*ca\.crt; the token was not sent"):
        await ask(cluster)
    assert cluster.vouching.asked == 0


async def test_a_server_that_is_none_does_not_see_the_token(cluster, pki, monkeypatch):
    """A node of the same authority, which names the address that is dialled."""
    monkeypatch.setattr(pki, "authority", cluster.server.identity.authority)
    cluster.server.listener.context = pki.server_context(as_node=True, alpn="http/1.1")
    with pytest.raises(AttestError, match="the token was not sent"):
        await ask(cluster)
    assert cluster.vouching.asked == 0


@pytest.mark.parametrize(
    ("file", "content", "error", "says"),
    [
        ("ca_file", None, CaFileError, "cannot be read: No such file"),
        ("ca_file", b"", CaFileError, "holds no certificates of an authority"),
        ("ca_file", b"\xff\xfe", CaFileError, "holds no certificates of an authority"),
        ("ca_file", b"x" * 300_000, CaFileError, "has more than"),
        ("token_file", None, AttestError, "cannot be read: No such file"),
        ("token_file", b" \n", AttestError, "holds no token"),
        ("token_file", b"a\nb", AttestError, "holds no token"),
        ("token_file", "tökén".encode(), AttestError, "holds no token"),
        ("token_file", b"x" * 20_000, AttestError, "holds no token"),
    ],
)
async def test_files_that_cannot_be_used(cluster, file, content, error, says):
    path = getattr(cluster, file)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=says) as caught:
        await ask(cluster)
    assert str(path) in str(caught.value)
    assert cluster.vouching.asked == 0
    assert contents(cluster.state) == {}


async def test_a_state_directory_that_cannot_be_used(cluster, tmp_path):
    (tmp_path / "edge").write_text("in the way")
    with pytest.raises(StateError, match="no directory"):
        await ask(cluster)
    assert cluster.vouching.asked == 0


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"certificate": None}, "something is missing"),
        ({"ca": ""}, "cannot be used"),
        ({"servers": ["::::"]}, "cannot be used"),
        ({"certificate": "OTHER"}, "for another key"),
    ],
)
async def test_an_answer_that_cannot_be_used(cluster, monkeypatch, changed, says):
    if changed.get("certificate"):
        await ask(cluster)
        changed = {"certificate": (cluster.state / "node.crt").read_text()}
    before = contents(cluster.state)
    read = attest_module._document
    monkeypatch.setattr(attest_module, "_document", lambda *words: {**read(*words), **changed})
    with pytest.raises(AttestError, match=says):
        await ask(cluster)
    assert contents(cluster.state) == before


@pytest.mark.parametrize(
    ("answer", "says", "code"),
    [
        (Answer(200, b"nonsense"), "not JSON", ""),
        (Answer(404, b"{}"), "it answered 404", "404"),
        (Answer(503, b'{"error": {"code": "unavailable", "message": "later"}}'), "later", ""),
        (
            Answer(429, b'{"error": {"code": "too-many", "message": "wait"}}'),
            "wait",
            "too-many",
        ),
    ],
)
async def test_odd_answers(cluster, monkeypatch, answer, says, code):
    monkeypatch.setattr("tunnel_agent.join_client.Client.ask", lambda *_, **__: answer)
    with pytest.raises(AttestError, match=says) as caught:
        await ask(cluster)
    assert caught.value.code == code


async def test_the_proxy_that_joining_was_told_of_is_kept(cluster, tmp_path):
    token, ca_hash = cluster.server.join_line("edge-1", life=timedelta(hours=1))
    await trio.to_thread.run_sync(
        lambda: join([cluster.server.endpoint], token, ca_hash, state_dir=cluster.state, proxy="none")
    )
    await ask(cluster, proxy="")
    assert load_credentials(cluster.state).proxy == "none"


async def test_as_a_program(cluster, monkeypatch, capsys):
    settings = dataclasses.asdict(Settings(**cluster.settings()))

    def program():
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(settings)))
        return main()

    assert await trio.to_thread.run_sync(program) == 0
    assert json.loads(capsys.readouterr().out) == {"server": cluster.server.endpoint, "node": "edge-1"}
    subject = read_subject((cluster.state / "node.crt").read_bytes())
    assert subject.identity.name == "edge-1"
    cluster.token_file.write_text("a-secret-that-is-refused")
    assert await trio.to_thread.run_sync(program) == 1
    said = capsys.readouterr()
    assert json.loads(said.out) == {"refused": "token-refused"}
    assert said.err.count("\n") == 1
    assert "a-secret" not in said.err
