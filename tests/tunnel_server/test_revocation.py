"""Revocations in force: asked, watched, read again, and never lost to a damaged file."""

from datetime import UTC, datetime

import pytest

from certs.files import StateDirectory, StateError
from certs.identity import Identity, Role
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


@pytest.mark.parametrize(("kind", "value"), [(Kind.NODE, "edge-1"), (Kind.SERIAL, "abc")])
def test_who_is_watched_is_told_once(state, kind, value):
    revocations, told = Revocations(state), []
    with revocations.watch(CERTIFICATE, told.append):
        revoke(state, Kind.NODE, "edge-2")
        revocations.reload()
        assert told == []
        revoke(state, kind, value)
        revocations.reload()
        revocations.reload()
        assert len(told) == 1
    with revocations.watch({**CERTIFICATE, "serialNumber": "FF"}, told.append):
        pass
    assert len(told) == (2 if kind is Kind.NODE else 1)


def test_who_has_left_is_not(state):
    revocations, told = Revocations(state), []
    with revocations.watch(CERTIFICATE, told.append):
        pass
    revoke(state)
    revocations.reload()
    assert told == []


def test_one_may_leave_while_another_is_told(state):
    revocations, told = Revocations(state), []
    inner = revocations.watch(CERTIFICATE, told.append)

    def leave(why):
        told.append(why)
        inner.__exit__(None, None, None)

    with revocations.watch(CERTIFICATE, leave):
        inner.__enter__()
        revoke(state)
        revocations.reload()
    assert len(told) == 1


def test_a_damaged_file_changes_nothing(state):
    revoke(state)
    revocations = Revocations(state)
    (state.path / REVOCATIONS_FILE).write_text("{")
    with pytest.raises(StateError):
        revocations.reload()
    assert revocations.check(NODE, "abc")
    with pytest.raises(StateError, match="would be let in again"):
        Revocations(state)
