"""`tunnelctl revoke`, as the command line calls them: what is done, said, and refused."""

import json
from datetime import timedelta

import pytest

from certs.authority import Authority
from certs.enrolment import Enrolment
from certs.files import StateDirectory
from certs.requests import make_request, new_key
from certs.revocations import RevocationStore


@pytest.fixture
def node(tmp_path, local_tunnelctl):
    state = StateDirectory(tmp_path / "state")
    desk = Enrolment(state, Authority.load(state), is_own=lambda _: False)
    token, _ = desk.tokens.create("edge-1", [], timedelta(days=1))
    return desk.join(token, None, make_request(new_key()))


def test_a_node_and_its_tokens(local_tunnelctl, node, tmp_path):
    local_tunnelctl("token", "create", "--node", "edge-1")
    assert local_tunnelctl("revoke", "edge-1", "--reason", "stolen").startswith("revoked node edge-1:")
    tokens = json.loads(local_tunnelctl("token", "list", "--json"))
    assert sorted(each["state"] for each in tokens) == ["revoked", "used"]
    assert [each["used"][-1] for each in tokens if each["used"]] == ["Z"]
    (entry,) = json.loads(local_tunnelctl("revoke", "--list", "--json"))
    assert entry["at"].endswith("Z")
    assert (entry["kind"], entry["value"], entry["reason"]) == ("node", "edge-1", "stolen")
    assert "edge-1" in local_tunnelctl("revoke", "--list")
    assert "is let in again" in local_tunnelctl("revoke", "--undo", "edge-1")
    assert local_tunnelctl("revoke", "--list") == "nothing is revoked\n"
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
        (("--undo", "--readmit", "edge-1"), 2, "--readmit is for a NODE, and not with --undo"),
        (("--readmit", "--caller", "ci"), 2, "--readmit is for a NODE"),
        (("--readmit", "edge-9"), 4, "no node and no unused token is called edge-9"),
    ],
)
def test_refusals(local_tunnelctl, node, words, code, why):
    assert why in local_tunnelctl("revoke", *words, code=code)
    assert local_tunnelctl("revoke", "--list") == "nothing is revoked\n"


def test_readmitted(local_tunnelctl, node):
    local_tunnelctl("revoke", "edge-1", "--reason", "stolen")
    assert "is let in again, with a new certificate" in local_tunnelctl("revoke", "edge-1", "--readmit")
    (entry,) = json.loads(local_tunnelctl("revoke", "--list", "--json"))
    assert (entry["value"], entry["reason"], entry["readmitted"]) == ("edge-1", "stolen", True)
    assert "yes" in local_tunnelctl("revoke", "--list")
    local_tunnelctl("revoke", "edge-1")
    (entry,) = json.loads(local_tunnelctl("revoke", "--list", "--json"))
    assert entry["readmitted"] is False


def test_a_damaged_list_is_not_written_over(local_tunnelctl, node, tmp_path):
    path = tmp_path / "state" / "revocations.json"
    path.write_text("{")
    path.chmod(0o600)
    assert "would be let in again" in local_tunnelctl("revoke", "edge-1", code=1)
    assert path.read_text() == "{"
    path.unlink()
    assert list(RevocationStore(StateDirectory(tmp_path / "state")).load()) == []
