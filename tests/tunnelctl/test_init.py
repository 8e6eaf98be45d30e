"""`tunnelctl init`, as the command line calls it."""

import argparse
import json

import pytest

from tunnelctl import init
from tunnelctl.errors import CommandError, UsageError


@pytest.fixture
def command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tunnelctl.local_server.DEFAULT_CONFIG", tmp_path / "none.toml")
    parser = argparse.ArgumentParser()
    init.add_parser(parser.add_subparsers())

    def run(*args):
        given = parser.parse_args(["init", "--state-dir", str(tmp_path / "state"), *args])
        assert given.run(given) == 0
        return capsys.readouterr().out

    return run


def contents(tmp_path):
    return {path.name: path.read_bytes() for path in (tmp_path / "state").iterdir()}


def test_made_once_then_nothing_changes_and_it_says_so(tmp_path, command):
    made = command("--cert-ips", "203.0.113.5, 2001:db8::5", "--cert-dns-names", "Tunnel.example.org")
    assert "made the authority" in made
    assert "203.0.113.5, 2001:db8::5, tunnel.example.org" in made
    assert "tunnelctl token create" in made
    before = contents(tmp_path)
    assert command("--cert-ips", "2001:db8:0::5,203.0.113.5").startswith("nothing was changed")
    assert command().startswith("nothing was changed")
    assert contents(tmp_path) == before


def test_another_name_changes_one_file(tmp_path, command):
    command("--cert-ips", "203.0.113.5")
    before = contents(tmp_path)
    said = command("--cert-dns-names", "a.example")
    assert "issued the server's certificate for 203.0.113.5, a.example" in said
    assert "made the authority" not in said
    after = contents(tmp_path)
    assert [name for name in after if after[name] != before[name]] == ["server.crt"]


def test_json(tmp_path, command):
    made = json.loads(command("--cert-ips", "203.0.113.5", "--trust-domain", "d.example", "--json"))
    assert made["made_authority"] is made["issued_server_certificate"] is True
    assert (made["trust_domain"], made["names"]) == ("d.example", ["203.0.113.5"])
    assert made["server_certificate_expires"].endswith("Z")
    again = json.loads(command("--json"))
    assert again["made_authority"] is again["issued_server_certificate"] is False
    assert again["ca_hash"] == made["ca_hash"]


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ([], "give --cert-ips or --cert-dns-names"),
        (["--cert-ips", "203.0.113"], "--cert-ips: '203.0.113' is not an IP address"),
        (["--cert-ips", "203.0.113.5,0.0.0.0"], "nobody can dial 0.0.0.0"),
        (["--cert-dns-names", "203.0.113.5"], "addresses go to --cert-ips"),
        (["--cert-ips", "203.0.113.5", "--trust-domain", "A B"], "not a trust domain"),
        (["--cert-ips", "203.0.113.5", "--config", "/nowhere.toml"], "/nowhere.toml"),
    ],
)
def test_wrong_use_costs_one_line_and_leaves_nothing(tmp_path, command, args, why):
    with pytest.raises(UsageError, match=why) as caught:
        command(*args)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "state").exists()


def test_a_state_directory_that_cannot_be(tmp_path, command):
    (tmp_path / "state").write_text("")
    with pytest.raises(CommandError, match="in the way") as caught:
        command("--cert-ips", "203.0.113.5")
    assert caught.value.exit_code == 1
