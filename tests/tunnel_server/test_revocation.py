"""Revocations in force: asked, read again, and never lost to a damaged file."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from certs.files import StateDirectory, StateError
from certs.identity import Identity, Role
from certs.nodes import NodeRecord
from certs.revocations import REVOCATIONS_FILE, Kind, RevocationStore
from tunnel_server.revocation import Revocations

NODE = Identity("edge.test", Role.NODE, "edge-1")
CERTIFICATE = {
    "subjectAltName": (("URI", NODE.uri),),
    "serialNumber": "0ABC",
    "notBefore": "Jan 31 11:00:00 2026 GMT",
    "notAfter": "Apr 30 12:00:00 2026 GMT",
}


@pytest.fixture
def state(tmp_path):
    return StateDirectory.create(tmp_path / "state")


def revoke(state, kind=Kind.NODE, value="edge-1", at=datetime(2026, 2, 1, tzinfo=UTC)):
    with state.transaction() as transaction:
        RevocationStore(state, lambda: at).add(transaction, kind, value)


def test_read_at_the_start(state):
    revoke(state)
    revocations = Revocations(state)
    assert "node edge-1 was revoked" in (revocations.check(NODE, "abc") or "")
    assert "node edge-1 was revoked" in (revocations.check_certificate(CERTIFICATE) or "")
    assert revocations.check(Identity("edge.test", Role.NODE, "edge-2"), "abc") is None


def test_issued_since(state):
    # One hour after it begins, a certificate was issued: in the same second it is refused, not later.
    for at, refused in (
        (datetime(2026, 1, 31, 12, tzinfo=UTC), True),
        (datetime(2026, 1, 31, 11, tzinfo=UTC), False),
    ):
        revoke(state, at=at)
        assert (Revocations(state).check_certificate(CERTIFICATE) is not None) is refused


def test_read_again(state):
    revocations = Revocations(state)
    revoke(state)
    assert revocations.check_certificate(CERTIFICATE) is None
    revocations.reload()
    assert revocations.check_certificate(CERTIFICATE)


def test_what_a_node_was_issued_last(state):
    begun = datetime(2026, 1, 31, 12, tzinfo=UTC)
    record = NodeRecord("edge-1", (), "abc", begun, issued=begun)
    revoke(state)
    assert "node edge-1 was revoked" in (Revocations(state).check_node(record) or "")
    assert Revocations(state).check_node(replace(record, issued=datetime(2026, 2, 2, tzinfo=UTC))) is None


def test_a_damaged_file_changes_nothing(state):
    revoke(state)
    revocations = Revocations(state)
    (state.path / REVOCATIONS_FILE).write_text("{")
    with pytest.raises(StateError):
        revocations.reload()
    assert revocations.check(NODE, "abc")
    with pytest.raises(StateError, match="would be let in again"):
        Revocations(state)
