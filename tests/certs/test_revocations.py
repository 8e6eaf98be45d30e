"""Revocations: what they meet, what they leave alone, and that they are kept."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.files import StateDirectory, StateError
from certs.identity import Identity, Role
from certs.nodes import NodeRecord
from certs.revocations import REVOCATIONS_FILE, Kind, RevocationStore, normal_serial

NOW = datetime(2026, 1, 31, 12, 0, 0, 900_000, tzinfo=UTC)
NODE = Identity("edge.test", Role.NODE, "edge-1")
CALLER = Identity("edge.test", Role.CALLER, "edge-1")
SERVER = Identity("edge.test", Role.SERVER, "edge-1")
SECOND = NOW.replace(microsecond=0).timestamp()


@pytest.fixture
def state(tmp_path):
    return StateDirectory.create(tmp_path / "state")


@pytest.fixture
def store(state):
    return RevocationStore(state, lambda: NOW)


def add(state, store, *what, **more):
    with state.transaction() as transaction:
        return store.add(transaction, *what, **more)


def test_nothing_is_revoked_at_first(store):
    assert list(store.load()) == []
    assert store.load().find(NODE, "1f", SECOND) is None


@pytest.mark.parametrize(
    ("issued", "refused"), [(SECOND - 3600, True), (SECOND, True), (SECOND + 1, False), (None, True)]
)
def test_a_name_is_refused_as_it_was_issued_until_then(state, store, issued, refused):
    add(state, store, Kind.NODE, "edge-1", "stolen")
    found = store.load().find(NODE, "1f", issued)
    assert (found is not None) is refused
    if found:
        assert str(found) == "node edge-1 was revoked at 2026-01-31 12:00:00 UTC: stolen"


def test_what_a_server_with_a_clock_ahead_of_ours_has_issued_is_refused_too(state, store):
    ahead = NOW.replace(microsecond=0) + timedelta(seconds=30)
    add(state, store, Kind.NODE, "edge-1", issued=ahead)
    assert store.load().find(NODE, "1f", ahead.timestamp())
    assert add(state, store, Kind.NODE, "edge-1", issued=ahead - timedelta(days=1)).at.timestamp() == SECOND


def test_what_was_issued_last(state, store):
    add(state, store, Kind.NODE, "edge-1")
    add(state, store, Kind.SERIAL, "1f")
    known, day = store.load(), timedelta(days=1)

    def record(name, serial, issued):
        return NodeRecord(name, (), serial, NOW + day, issued)

    for serial, issued, kind in (
        ("2", NOW - day, Kind.NODE),
        ("2", None, Kind.NODE),
        ("2", NOW + day, None),
        ("1f", NOW + day, Kind.SERIAL),
    ):
        found = known.find_recorded(Role.NODE, record("edge-1", serial, issued))
        assert (found and found.kind) == kind
    assert known.find_recorded(Role.NODE, record("edge-2", "2", NOW - day)) is None
    assert known.find_recorded(Role.CALLER, record("edge-1", "2", NOW - day)) is None


def test_roles_are_apart(state, store):
    add(state, store, Kind.NODE, "edge-1")
    known = store.load()
    assert known.find(CALLER, "1f", 0) is None
    assert known.find(SERVER, "1f", 0) is None
    assert known.find(Identity("edge.test", Role.NODE, "edge-2"), "1f", 0) is None


@pytest.mark.parametrize("spelling", ["0A:bc:DE", "abcde", "0x0ABCDE", " 000abcde\n"])
def test_a_serial_is_met_however_it_is_spelled(state, store, spelling):
    add(state, store, Kind.SERIAL, spelling)
    for identity in (NODE, CALLER, SERVER):
        assert store.load().find(identity, "0ABCDE", SECOND + 9_999) is not None
    assert store.load().find(NODE, "abcdf", 0) is None


@given(st.integers(0, 2**160 - 1))
def test_every_serial_has_one_spelling(number):
    assert normal_serial(f"{number:x}") == normal_serial(f"0{number:X}") == f"{number:x}"


@pytest.mark.parametrize("text", ["", "xyz", "-1", "a" * 41, "1 2"])
def test_no_serial(state, store, text):
    if not text:
        assert normal_serial(text) == "0"
        return
    with pytest.raises(ValueError, match="is no serial"):
        add(state, store, Kind.SERIAL, text)


def test_what_is_issued_in_the_same_second_is_good(state, store):
    add(state, store, Kind.NODE, "edge-1")
    known = store.load()
    at = known.issue_time(NODE, NOW)
    assert at.replace(microsecond=0).timestamp() > SECOND
    assert known.find(NODE, "1f", at.replace(microsecond=0).timestamp()) is None
    assert known.issue_time(NODE, NOW + timedelta(hours=1)) == NOW + timedelta(hours=1)
    assert known.issue_time(CALLER, NOW) == NOW


def test_again_is_later_and_undone_is_gone(state, store):
    add(state, store, Kind.NODE, "edge-1")
    later = RevocationStore(state, lambda: NOW + timedelta(days=1))
    add(state, later, Kind.NODE, "edge-1", "again")
    (entry,) = store.load()
    assert entry.reason == "again"
    assert store.load().find(NODE, "1f", SECOND + 3600) is not None
    assert store.remove(Kind.NODE, "edge-1") == entry
    assert list(store.load()) == []
    with pytest.raises(KeyError):
        store.remove(Kind.NODE, "edge-1")


def test_what_comes_with_it_is_written_with_it(state, store):
    add(state, store, Kind.NODE, "edge-1", others={"other": b"x"})
    assert state.read("other") == b"x"


@pytest.mark.parametrize("text", ["{", "[]", '{"revocations": [{}]}', '{"revocations": [{"kind": "x"}]}'])
def test_a_damaged_file_is_never_taken_for_nobody(state, store, text):
    (state.path / REVOCATIONS_FILE).write_text(text)
    with pytest.raises(StateError, match="would be let in again"):
        store.load()
