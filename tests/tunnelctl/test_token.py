"""`tunnelctl token`, as the command line calls it."""

import argparse
import json
import shlex
from datetime import datetime, timedelta

import pytest

from certs.authority import Authority
from certs.enrolment import Enrolment
from certs.files import StateDirectory
from certs.requests import make_request, new_key
from certs.tokens import TokenRefusedError
from tunnelctl import init, token
from tunnelctl.errors import CommandError, RefusedError, UsageError


@pytest.fixture
def bare(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tunnelctl.local_server.DEFAULT_CONFIG", tmp_path / "server.toml")
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    for module in (init, token):
        module.add_parser(subparsers)

    def run(*args):
        given = parser.parse_args([*args, "--state-dir", str(tmp_path / "state")])
        assert given.run(given) == 0
        return capsys.readouterr()

    return run


@pytest.fixture
def command(bare):
    bare("init", "--cert-ips", "203.0.113.5,2001:db8::5", "--cert-dns-names", "tunnel.example.org")
    return bare


@pytest.fixture
def enrolment(tmp_path, command):
    state = StateDirectory(tmp_path / "state")
    return Enrolment(state, Authority.load(state))


def parts(line):
    words = shlex.split(line)
    return words[2], words[4], words[6]


def test_one_line_that_works(command, enrolment):
    said = command("token", "create", "--node", "edge-1", "--ip", "192.168.2.143")
    assert said.err == ""
    assert said.out.count("\n") == 1
    server, secret, ca_hash = parts(said.out)
    assert said.out == f"tunnel-agent join {server} --token {secret} --ca-hash {ca_hash}\n"
    assert (server, ca_hash) == ("203.0.113.5:10262", enrolment.authority.hash)
    assert enrolment.join(secret, "edge-1", make_request(new_key())).node == "edge-1"


def test_server_addresses(tmp_path, command):
    create = ("token", "create", "--node", "edge-1")
    line = command(*create, "--server", "tunnel.example.org:443", "--server", "[2001:db8::5]").out
    assert line.startswith("tunnel-agent join tunnel.example.org:443 '[2001:db8::5]:10262' --token")
    (tmp_path / "server.toml").write_text("tunnel-port = 4433\n")
    assert command(*create).out.startswith("tunnel-agent join 203.0.113.5:4433 --token")
    (tmp_path / "server.toml").write_text('server-addresses = ["tunnel.example.org:443"]\n')
    assert command(*create).out.startswith("tunnel-agent join tunnel.example.org:443 --token")


def test_json(command):
    report = json.loads(
        command("token", "create", "--node", "e", "--ip", "10.0.0.1,fd00:0::1", "--ttl", "30m", "--json").out
    )
    assert report["addresses"] == ["10.0.0.1", "fd00::1"]
    life = datetime.fromisoformat(report["expires"]) - datetime.fromisoformat(report["created"])
    assert life == timedelta(minutes=30)
    assert {report["expires"][-1], report["created"][-1], str(report["used"])} == {"Z", "None"}
    assert report["token"] in report["command"]
    listed = command("token", "list", "--json").out
    assert report["token"].partition(".")[2] not in listed
    assert json.loads(listed)[0]["id"] == report["id"]


def test_listing_and_revoking(command, enrolment):
    lines = [command("token", "create", "--node", f"edge-{i}", "--ip", f"10.0.0.{i}").out for i in range(3)]
    secrets = [parts(line)[1] for line in lines]
    ids = [secret.partition(".")[0] for secret in secrets]
    enrolment.join(secrets[0], None, make_request(new_key()))
    assert ids[1] in command("token", "revoke", ids[1]).out
    rows = [row.split() for row in command("token", "list").out.splitlines()]
    assert rows[0][:4] == ["ID", "NODE", "ADDRESSES", "STATE"]
    assert {tuple(row[:4]) for row in rows[1:]} == {
        (ids[0], "edge-0", "10.0.0.0", "used"),
        (ids[1], "edge-1", "10.0.0.1", "revoked"),
        (ids[2], "edge-2", "10.0.0.2", "live"),
    }
    with pytest.raises(TokenRefusedError, match="revoked"):
        enrolment.join(secrets[1], None, make_request(new_key()))
    with pytest.raises(RefusedError, match="already used") as caught:
        command("token", "revoke", ids[0], secrets[2])
    assert caught.value.exit_code == 4
    with pytest.raises(TokenRefusedError, match="revoked"):  # the other one was revoked all the same
        enrolment.join(secrets[2], None, make_request(new_key()))
    with pytest.raises(CommandError, match="no token 00000000") as caught:
        command("token", "revoke", "00000000")
    assert caught.value.exit_code == 1


def test_a_shared_address_is_warned_of(command, enrolment):
    first = command("token", "create", "--node", "edge-1", "--ip", "10.0.0.1")
    enrolment.join(parts(first.out)[1], None, make_request(new_key()))
    assert command("token", "create", "--node", "edge-1", "--ip", "10.0.0.1").err == ""
    second = command("token", "create", "--node", "edge-2", "--ip", "10.0.0.1")
    assert "warning: 10.0.0.1 is also edge-1's" in second.err
    assert second.out.startswith("tunnel-agent join")
    third = command("token", "create", "--node", "edge-3", "--ip", "10.0.0.1")
    assert "also edge-1, edge-2's" in third.err  # edge-2 has not joined, but its token is out


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["--node", "Edge_1"], "'Edge_1' is not a name"),
        (["--node", "10.0.0.1"], "'10.0.0.1' is not a name for a node"),
        (["--node", "localhost"], "'localhost' is not a name for a node"),
        (["--node", "e", "--ip", "10.0.0"], "not an IP address"),
        (["--node", "e", "--ip", "8.8.8.8"], "--ip: 8.8.8.8 is outside the edge networks.*edge-networks"),
        (["--node", "e", "--ip", "127.0.0.1"], "--ip: 127.0.0.1 is a loopback"),
        (["--node", "e", "--ip", "169.254.0.1"], "--ip: 169.254.0.1 is a link-local"),
        (["--node", "e", "--ip", "::ffff:10.0.0.1"], "write 10.0.0.1"),
        (["--node", "e", "--ttl", "soon"], "'soon' is not a duration"),
        (["--node", "e", "--ttl", "400d"], "at most 365 days"),
        (["--node", "e", "--server", "a:b:c"], "--server: "),
        (
            ["--node", "e", "--server", "other.example"],
            "names 203.0.113.5.*not other.example.*tunnelctl init",
        ),
    ],
)
def test_wrong_use_costs_one_line_and_makes_nothing(command, args, why):
    with pytest.raises(UsageError, match=why) as caught:
        command("token", "create", *args)
    assert "\n" not in str(caught.value)
    assert json.loads(command("token", "list", "--json").out) == []


def test_edge_networks_of_the_configuration_count(tmp_path, command):
    (tmp_path / "server.toml").write_text('edge-networks = ["198.51.100.0/24"]\n')
    command("token", "create", "--node", "e", "--ip", "198.51.100.7")
    with pytest.raises(UsageError, match="outside"):
        command("token", "create", "--node", "e", "--ip", "10.0.0.1")
    (tmp_path / "server.toml").write_text("edge-netwroks = []\n")
    with pytest.raises(UsageError, match="edge-networks"):
        command("token", "list")


def test_before_init(tmp_path, bare):
    with pytest.raises(CommandError, match="does not exist: run `tunnelctl init` first"):
        bare("token", "list")
    (tmp_path / "state").mkdir()
    with pytest.raises(CommandError, match=r"no ca\.crt: run `tunnelctl init`"):
        bare("token", "create", "--node", "e")
