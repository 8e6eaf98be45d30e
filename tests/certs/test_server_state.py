"""Initialising: made once, changed only where asked, and never half."""

import subprocess
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest

from certs.authority import Authority
from certs.files import StateDirectory, StateError
from certs.requests import key_pem, new_key
from certs.server_state import ServerNames, initialise, load_server_key, server_names

IPS = (ip_address("203.0.113.5"), ip_address("2001:db8::5"))
DNS = ("tunnel.example.org",)


@pytest.fixture
def state(tmp_path):
    return StateDirectory.create(tmp_path / "state")


def contents(state):
    return {path.name: path.read_bytes() for path in state.path.iterdir()}


def test_all_is_made(state):
    done = initialise(state, addresses=IPS, dns_names=DNS)
    assert (done.made_authority, done.issued) == (True, "there was none")
    assert sorted(contents(state)) == ["ca.crt", "ca.key", "server.crt", "server.key"]
    assert {path.stat().st_mode & 0o777 for path in state.path.iterdir()} == {0o600}
    assert server_names(state) == ServerNames(IPS, DNS)
    assert done.names.hosts == ("203.0.113.5", "2001:db8::5", "tunnel.example.org")
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", DNS[0],
               "-CAfile", state.path / "ca.crt", state.path / "server.crt"]  # fmt: skip
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert load_server_key(state).public_key()


@pytest.mark.parametrize(
    "given", [{}, {"addresses": IPS}, {"dns_names": DNS}, {"addresses": IPS[::-1], "dns_names": DNS}]
)
def test_again_it_changes_nothing(state, given):
    initialise(state, addresses=IPS, dns_names=DNS)
    before = contents(state)
    done = initialise(state, **given)
    assert (done.made_authority, done.issued, done.names) == (
        False,
        "",
        ServerNames(IPS, DNS),
    )
    assert contents(state) == before


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"addresses": IPS[:1]}, ("203.0.113.5", "tunnel.example.org")),
        ({"dns_names": ("new.example.org",)}, ("203.0.113.5", "2001:db8::5", "new.example.org")),
        ({"dns_names": ()}, ("203.0.113.5", "2001:db8::5")),
        ({"server_name": "s-2"}, ("203.0.113.5", "2001:db8::5", "tunnel.example.org")),
    ],
)
def test_another_name_reissues_the_servers_certificate_only(state, given, names):
    initialise(state, addresses=IPS, dns_names=DNS)
    before = contents(state)
    done = initialise(state, **given)
    assert " from " in done.issued
    assert done.names.hosts == names == server_names(state).hosts
    after = contents(state)
    assert after.pop("server.crt") != before.pop("server.crt")
    assert after == before


def test_a_certificate_near_its_end_is_renewed(state):
    long_ago = datetime.now(UTC) - timedelta(days=340)
    initialise(state, addresses=IPS, now=long_ago)
    assert initialise(state).issued == "it would expire soon"
    assert initialise(state).issued == ""


@pytest.mark.parametrize(
    ("name", "why"), [("server.key", "its key was missing"), ("server.crt", "there was none")]
)
def test_what_is_missing_of_the_servers_is_made_again(state, name, why):
    initialise(state, addresses=IPS)
    (state.path / name).unlink()
    done = initialise(state, addresses=IPS)
    assert (done.made_authority, done.issued) == (False, why)
    assert initialise(state).issued == ""


def test_what_does_not_belong_together_is_issued_again(state):
    initialise(state, addresses=IPS)
    with state.transaction() as transaction:
        transaction.write({"server.key": key_pem(new_key())})
    assert initialise(state).issued == "it did not belong to the key"
    _, files = Authority.make("edge-tunnel")
    with state.transaction() as transaction:
        transaction.write(files)
    assert initialise(state).issued == "it was not the authority's"


@pytest.mark.parametrize("name", ["ca.key", "ca.crt"])
def test_half_an_authority_is_not_replaced(state, name):
    initialise(state, addresses=IPS)
    (state.path / name).unlink()
    before = contents(state)
    with pytest.raises(StateError, match=rf"{name} is missing: restore it from a backup"):
        initialise(state, addresses=IPS)
    assert contents(state) == before


def test_a_domain_cannot_be_changed(state):
    initialise(state, addresses=IPS, domain="one.example")
    with pytest.raises(StateError, match=r"of the trust domain one\.example, which cannot be changed"):
        initialise(state, domain="two.example")
    assert initialise(state, domain="one.example").issued == ""


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "give --cert-ips or --cert-dns-names"),
        ({"dns_names": ("a_b",)}, "not a name"),
        ({"dns_names": ("*.example.org",)}, "not a name"),
        ({"dns_names": ("203.0.113.5",)}, "addresses go to --cert-ips"),
        ({"addresses": IPS, "domain": "A"}, "not a trust domain"),
        ({"addresses": IPS, "server_name": "A"}, "not a name"),
    ],
)
def test_what_cannot_be_made_leaves_nothing(state, given, why):
    with pytest.raises(ValueError, match=why):
        initialise(state, **given)
    assert contents(state) == {}


def test_damaged_files_are_named(state):
    initialise(state, addresses=IPS)
    for name, data in [
        ("server.crt", b"x"),
        ("server.crt", (state.path / "ca.crt").read_bytes()),
        ("server.key", b"x"),
    ]:
        good = (state.path / name).read_bytes()
        with state.transaction() as transaction:
            transaction.write({name: data})
        with pytest.raises(StateError, match=rf"{name}.*remove it and run"):
            initialise(state)
        with state.transaction() as transaction:
            transaction.write({name: good})
    (state.path / "server.crt").unlink()
    with pytest.raises(StateError, match="run `tunnelctl init`"):
        server_names(state)


@pytest.mark.parametrize(
    "left", ["server.crt", "nodes.json", "tokens.json", "callers.json", "revocations.json"]
)
def test_a_lost_authority_is_never_replaced(state, left):
    initialise(state, addresses=IPS)
    for name in ("ca.crt", "ca.key"):
        (state.path / name).unlink()
    (state.path / "server.crt").rename(state.path / left)
    before = contents(state)
    with pytest.raises(StateError, match=rf"no authority any more, although there is {left}: .*--authority"):
        initialise(state, addresses=IPS)
    assert contents(state) == before


def test_one_is_made_only_where_it_may(state):
    with pytest.raises(StateError, match="no authority any more: "):
        initialise(state, addresses=IPS, new=False)
    assert not contents(state)
