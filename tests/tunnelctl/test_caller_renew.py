"""`tunnelctl caller renew` against a server's real API: what is replaced, and what changes nothing."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import trio

from certs.files import StateDirectory
from certs.renewal import create_caller
from certs.requests import key_pem, new_key
from certs.revocations import Kind, RevocationStore
from certs.subjects import read_subject
from tests.tunnel_server.identified import identified, prepare
from tunnelctl.caller import AUTHORITY, CERTIFICATE, KEY
from tunnelctl.cli import main

LIFE = timedelta(days=100)


@pytest.fixture
async def server(tmp_path):
    prepare(tmp_path / "server")
    async with identified(tmp_path / "server") as running:
        yield running


@pytest.fixture
def bundle(server, tmp_path):
    return write_bundle(server, tmp_path / "ci")


def write_bundle(server, path, **options):
    key = new_key()
    options = {"life": LIFE, "now": datetime.now(UTC) - timedelta(days=50)} | options
    made = create_caller(server.state, server.identity.authority, "ci", key.public_key(), **options)
    path.mkdir(mode=0o700)
    (path / KEY).write_bytes(key_pem(key))
    (path / CERTIFICATE).write_text(made.certificate)
    (path / AUTHORITY).write_text(made.ca)
    return path


def contents(path):
    return {each.name: each.read_bytes() for each in path.iterdir()}


@pytest.fixture
def renew(capsys):
    async def run(server, bundle, *words, code=0):
        options = ["--server", server if isinstance(server, str) else server.endpoint]
        argv = ["caller", "renew", *options, "--identity", str(bundle), *words]
        assert await trio.to_thread.run_sync(main, argv) == code
        said = capsys.readouterr()
        assert len(said.err.splitlines()) == (1 if code else 0)
        return said.err if code else said.out

    return run


async def test_another_certificate_of_the_same_name_and_life(server, bundle, renew):
    before = contents(bundle)
    said = await renew(server, bundle)
    after = contents(bundle)
    subject = read_subject(after[CERTIFICATE])
    until = subject.certificate.not_valid_after_utc
    assert said == f"caller ci, until {until:%Y-%m-%d %H:%M} UTC, in {bundle}\n"
    assert abs(until - datetime.now(UTC) - LIFE) < timedelta(minutes=1)
    assert subject.identity == read_subject(before[CERTIFICATE]).identity
    assert after[KEY] != before[KEY]
    assert after[AUTHORITY] == before[AUTHORITY]
    assert all(each.stat().st_mode & 0o777 == 0o600 for each in bundle.iterdir())
    again = json.loads(await renew(server, bundle, "--json"))  # with what it has got
    serial = read_subject((bundle / CERTIFICATE).read_bytes()).certificate.serial_number
    assert (again["name"], again["serial"]) == ("ci", f"{serial:x}")
    assert again["expires"].endswith("Z")


async def test_one_that_has_ended_or_was_revoked(server, tmp_path, renew):
    late = write_bundle(server, tmp_path / "late", life=timedelta(days=49))
    before = contents(late)
    said = await renew(server, late, code=4)
    assert "expired at" in said
    assert "`tunnelctl caller create ci --renew` on the server's host" in said
    assert contents(late) == before
    revoked = write_bundle(server, tmp_path / "revoked", again=True)
    with server.state.transaction() as transaction:
        RevocationStore(server.state).add(transaction, Kind.CALLER, "ci")
    said = await renew(server, revoked, code=4)
    assert "revoked" in said
    assert "caller create ci --renew" in said


async def test_too_often_is_told_as_that(server, bundle, renew):
    for _ in range(5):
        await renew(server, bundle)
    said = await renew(server, bundle, code=4)
    assert "renews too often" in said
    assert "caller create" not in said


async def test_an_answer_that_cannot_be_used_changes_nothing(server, bundle, renew, monkeypatch):
    before = contents(bundle)
    authority, other = server.identity.authority, new_key()
    foreign = authority.issue_caller(other.public_key(), "ci", life=LIFE)
    answer = {"certificate": foreign, "ca": authority.pem}
    for changed, why in (
        ({}, "for another key"),
        ({"ca": "none"}, "can't be used"),
        ({"certificate": 1}, ""),
    ):
        monkeypatch.setattr("tunnel_agent.renew.ask_server", lambda *_, now=answer | changed: now)
        said = await renew(server, bundle, code=1)
        assert why in said
        assert "nothing was changed" in said
        assert contents(bundle) == before


async def test_what_it_cannot_work_with(server, bundle, renew, tmp_path):
    assert "Connection refused" in await renew("127.0.0.1:1", bundle, code=3)
    assert f"{tmp_path / 'none'} does not exist" in await renew(server, tmp_path / "none", code=1)
    assert "--server: 'a b' is not an endpoint" in await renew("a b", bundle, code=2)
    StateDirectory.create(tmp_path / "empty")
    assert "it has no caller.crt" in await renew(server, tmp_path / "empty", code=1)
    (bundle / CERTIFICATE).write_text("no PEM")
    assert "caller.crt can't be used" in await renew(server, bundle, code=1)


async def test_after_a_roll_it_trusts_the_new_root_too(server, bundle, renew):
    from certs.roll import Roll

    Roll(server.state).start()
    with trio.fail_after(10):
        while len(server.identity.authority.fingerprints) < 2:
            await trio.sleep(0.05)
    await renew(server, bundle)
    assert (bundle / AUTHORITY).read_text().count("BEGIN") == 2
