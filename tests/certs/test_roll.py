"""The authority's roll: each phase, whom it waits for, and what openssl says of the certificates."""

import subprocess
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from certs.authority import CA_CERTIFICATE, Authority
from certs.enrolment import Enrolment
from certs.files import StateDirectory, StateError
from certs.pins import ca_hash, find_ca
from certs.renewal import Renewals, create_caller
from certs.requests import make_request, new_key
from certs.revocations import Kind, RevocationStore
from certs.roll import NEXT_KEY, Phase, Roll, RollError
from certs.server_state import SERVER_CERTIFICATE, initialise
from certs.subjects import read_subject

DAY = timedelta(days=1)


@pytest.fixture
def state(tmp_path):
    state = StateDirectory.create(tmp_path / "state")
    initialise(state, addresses=(IPv4Address("127.0.0.1"),), dns_names=("tunnel.example.org",))
    return state


def join(state, name, life=90 * DAY, clock=lambda: datetime.now(UTC)):
    desk = Enrolment(state, Authority.load(state), node_life=life, is_own=lambda _: False, clock=clock)
    token, _ = desk.tokens.create(name, [], DAY)
    return desk.join(token, None, make_request(new_key())).certificate.encode()


def der(pem):
    return read_subject(pem).certificate.public_bytes(Encoding.DER)


def look(state, pem):
    """What a live agent does: hear, renew if it is told to, and say what it trusts."""
    authority = Authority.load(state)
    desk = Renewals(state, authority)
    if desk.seen(der(pem), authority.fingerprints):
        pem = desk.renew(der(pem), make_request(new_key())).certificate.encode()
        assert desk.seen(der(pem), authority.fingerprints) == ""
    return pem


def verifies(state, tmp_path, pem):
    (tmp_path / "leaf.pem").write_bytes(pem)
    command = ["openssl", "verify", "-CAfile", state.path / CA_CERTIFICATE, tmp_path / "leaf.pem"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_from_start_to_finish(state, tmp_path):
    roll, old = Roll(state), Authority.load(state)
    assert roll.status().phase is Phase.NONE
    first, second = join(state, "edge-1"), join(state, "edge-2")
    status = roll.start()
    assert (status.phase, status.issuing, status.nodes) == (
        Phase.DISTRIBUTING,
        old.hash,
        ("edge-1", "edge-2"),
    )
    both = Authority.load(state)
    assert both.certificate == old.certificate
    assert len(both.roots) == 2
    assert find_ca(both.pem.encode(), status.other)[0] == both.roots[1]
    first = look(state, first)
    assert roll.status().nodes == ("edge-2",)
    with pytest.raises(RollError, match="node edge-2 do not trust the new root yet"):
        roll.switch()
    second = look(state, second)
    assert roll.status().ready
    assert read_subject(first, issuer=old.certificate)  # nothing was issued meanwhile, nor of the new root

    status = roll.switch()
    assert (status.phase, status.issuing, status.other) == (Phase.REPLACING, ca_hash(both.roots[1]), old.hash)
    assert status.nodes == ("edge-1", "edge-2")
    new = Authority.load(state)
    assert new.certificate == both.roots[1]
    assert not state.exists(NEXT_KEY)
    server = read_subject(state.read(SERVER_CERTIFICATE), issuer=new.certificate)
    assert server.dns_names == ("tunnel.example.org",)
    assert initialise(state).issued == ""
    for pem in (first, second, join(state, "edge-3")):
        assert verifies(state, tmp_path, pem)
    with pytest.raises(RollError, match="edge-1, node edge-2 still show a certificate of the old root"):
        roll.finish()
    renewed, stale = look(state, first), second
    assert roll.status().nodes == ("edge-2",)
    second = look(state, second)

    status = roll.finish()
    assert (status.phase, status.issuing) == (Phase.NONE, new.hash)
    assert verifies(state, tmp_path, renewed)
    assert verifies(state, tmp_path, second)
    assert not verifies(state, tmp_path, stale)


def test_steps_out_of_turn(state):
    roll = Roll(state)
    for step in (roll.switch, roll.finish):
        with pytest.raises(RollError, match="no roll is on"):
            step(force=True)
    roll.start()
    with pytest.raises(RollError, match="a roll is on already"):
        roll.start()
    with pytest.raises(RollError, match="switch` comes first"):
        roll.finish(force=True)
    roll.switch()
    with pytest.raises(RollError, match="what is left is"):
        roll.switch(force=True)


def test_who_is_not_waited_for(state):
    roll = Roll(state)
    join(state, "expired", life=timedelta(seconds=1), clock=lambda: datetime.now(UTC) - DAY)
    join(state, "revoked")
    join(state, "back")
    with state.transaction() as transaction:
        RevocationStore(state).add(transaction, Kind.NODE, "revoked")
    with state.transaction() as transaction:
        RevocationStore(state).add(transaction, Kind.NODE, "back")
    join(state, "back")
    assert roll.start().nodes == ("back",)


def test_callers_and_join_lines_are_named(state):
    roll, authority = Roll(state), Authority.load(state)
    create_caller(state, authority, "ci", new_key().public_key(), life=DAY)
    status = roll.start()
    desk = Enrolment(state, Authority.load(state), is_own=lambda _: False)
    _, record = desk.tokens.create("edge-9", [], DAY)
    status = roll.status()
    assert status.callers == ("ci",)
    assert status.tokens == ((record.id, "edge-9"),)
    assert not status.ready
    create_caller(state, Authority.load(state), "ci", new_key().public_key(), life=DAY, again=True)
    assert roll.status().ready
    assert roll.switch().callers == ("ci",)


def test_forced(state):
    roll = Roll(state)
    join(state, "edge-1")
    roll.start()
    assert roll.switch(force=True).nodes == ("edge-1",)
    assert roll.finish(force=True).phase is Phase.NONE
    assert len(Authority.load(state).roots) == 1


def test_a_lost_next_key_is_told(state):
    roll = Roll(state)
    roll.start()
    (state.path / NEXT_KEY).write_text("nonsense")
    with pytest.raises(StateError, match=r"ca-next\.key is not an unencrypted private key"):
        roll.switch()
    assert roll.status().phase is Phase.DISTRIBUTING


def test_a_cut_switch_is_finished_by_the_next_who_opens(state, monkeypatch):
    """Everything is decided by one rename: before it nothing has happened, after it everything will."""
    from certs import files

    roll = Roll(state)
    roll.start()
    renames = []
    real = files.Transaction._rename

    def cut(self, name):
        real(self, name)
        renames.append(name)
        if name == files._RECORD:
            raise KeyboardInterrupt

    monkeypatch.setattr(files.Transaction, "_rename", cut)
    with pytest.raises(KeyboardInterrupt):
        roll.switch()
    monkeypatch.undo()
    assert Roll(StateDirectory(state.path)).status().phase is Phase.REPLACING
    assert not state.exists(NEXT_KEY)
