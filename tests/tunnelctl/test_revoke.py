"""`tunnelctl revoke`, as the command line calls them: what is done, said, and refused."""

import json
from datetime import timedelta

import pytest

from certs.authority import Authority
from certs.enrolment import Enrolment
from certs.files import StateDirectory
from certs.requests import make_request, new_key
from certs.revocations import RevocationStore
from tunnelctl.cli import main


@pytest.fixture
def tunnelctl(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tunnelctl.local_server.DEFAULT_CONFIG", tmp_path / "server.toml")

    def run(*words, code=0):
        assert main([*words, "--state-dir", str(tmp_path / "state")]) == code
        said = capsys.readouterr()
        assert len(said.err.splitlines()) == (1 if code else 0)
        return said.err if code else said.out

    run("init", "--cert-ips", "127.0.0.1")
    return run


@pytest.fixture
def node(tmp_path, tunnelctl):
    state = StateDirectory(tmp_path / "state")
    desk = Enrolment(state, Authority.load(state), is_own=lambda _: False)
    token, _ = desk.tokens.create("edge-1", [], timedelta(days=1))
    return desk.join(token, None, make_request(new_key()))


def test_a_node_and_its_tokens(tunnelctl, node, tmp_path):
    tunnelctl("token", "create", "--node", "edge-1")
    assert tunnelctl("revoke", "edge-1", "--reason", "stolen").startswith("revoked node edge-1:")
    tokens = json.loads(tunnelctl("token", "list", "--json"))
    assert sorted(each["state"] for each in tokens) == ["revoked", "used"]
    assert [each["used"][-1] for each in tokens if each["used"]] == ["Z"]
    (entry,) = json.loads(tunnelctl("revoke", "--list", "--json"))
    assert entry["at"].endswith("Z")
    assert (entry["kind"], entry["value"], entry["reason"]) == ("node", "edge-1", "stolen")
    assert "edge-1" in tunnelctl("revoke", "--list")
    assert "is let in again" in tunnelctl("revoke", "--undo", "edge-1")
    assert tunnelctl("revoke", "--list") == "nothing is revoked\n"
    assert (tmp_path / "state" / "revocations.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        ((), 2, "name one of NODE"),
        (("edge-1", "--serial", "1f"), 2, "name one of NODE"),
        (("--list", "edge-1"), 2, "--list takes nothing else"),
        (("edge-9",), 4, "no node and no unused token is called edge-9"),
        (("--caller", "ci"), 4, "no caller is called ci"),
        (("--serial", "xyz"), 2, "is no serial"),
        (("edge-1", "--reason", "a\nb"), 2, "one printable line"),
        (("--undo", "edge-1"), 1, "node edge-1 is not revoked"),
    ],
)
def test_refusals(tunnelctl, node, words, code, why):
    assert why in tunnelctl("revoke", *words, code=code)
    assert tunnelctl("revoke", "--list") == "nothing is revoked\n"


def test_a_damaged_list_is_not_written_over(tunnelctl, node, tmp_path):
    path = tmp_path / "state" / "revocations.json"
    path.write_text("{")
    path.chmod(0o600)
    assert "would be let in again" in tunnelctl("revoke", "edge-1", code=1)
    assert path.read_text() == "{"
    path.unlink()
    assert list(RevocationStore(StateDirectory(tmp_path / "state")).load()) == []
