"""Backups: whole, checked, encrypted, and restored as a whole or not at all."""

import base64
import json
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certs.authority import Authority
from certs.backup import (
    BackupError,
    is_encrypted,
    make_backup,
    read_backup,
    restore_authority,
    restore_backup,
)
from certs.files import StateDirectory
from certs.server_state import initialise

PASSPHRASE = b"correct horse battery"


@pytest.fixture
def state(tmp_path):
    state = StateDirectory.create(tmp_path / "state")
    initialise(state, addresses=(IPv4Address("127.0.0.1"),))
    return state


@pytest.mark.parametrize("passphrase", [PASSPHRASE, None])
def test_there_and_back(state, tmp_path, passphrase):
    data = make_backup(state, passphrase)
    assert is_encrypted(data) is (passphrase is not None)
    other = StateDirectory.create(tmp_path / "other")
    restore_backup(read_backup(data, passphrase), other)
    names = {each.name for each in state.path.iterdir()}
    assert names == {each.name for each in other.path.iterdir()}
    for name in names:
        assert other.read_secret(name) == state.read_secret(name)  # 0600, too
    assert Authority.load(other).hash == Authority.load(state).hash


def test_nothing_readable_is_in_an_encrypted_one(state):
    data = make_backup(state, PASSPHRASE)
    key = state.read_secret("ca.key")
    assert key not in data
    assert base64.b64encode(key)[:40] not in data
    assert base64.b64encode(key)[:40] in make_backup(state, None)


def test_what_does_not_open_it(state):
    data = make_backup(state, PASSPHRASE)
    with pytest.raises(BackupError, match="passphrase is another"):
        read_backup(data, b"wrong horse battery")
    with pytest.raises(BackupError, match="--passphrase-file"):
        read_backup(data, None)


@pytest.mark.parametrize("passphrase", [PASSPHRASE, None])
def test_every_damage_is_noticed(state, passphrase):
    data = make_backup(state, passphrase)
    head = data.index(b"\n")
    for position in (3, head - 3, head + 10, len(data) // 2, len(data) - 2):
        damaged = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        with pytest.raises(BackupError):
            read_backup(damaged, passphrase)
    for length in (0, 10, head, head + 1, len(data) - 1):
        with pytest.raises(BackupError):
            read_backup(data[:length], passphrase)


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_anything_else_is_no_backup(data):
    with pytest.raises(BackupError, match="no backup"):
        read_backup(data, PASSPHRASE)


def _changed(data, **fields):
    line, _, payload = data.partition(b"\n")
    return json.dumps({**json.loads(line), **fields}).encode() + b"\n" + payload


def test_a_later_version_and_other_parameters(state):
    data = make_backup(state, PASSPHRASE)
    with pytest.raises(BackupError, match="version 2"):
        read_backup(_changed(data, version=2), PASSPHRASE)
    with pytest.raises(BackupError, match="parameters unknown"):
        read_backup(_changed(data, n=2**30), PASSPHRASE)
    with pytest.raises(BackupError, match="in a way unknown"):
        read_backup(_changed(data, encryption="rot13"), PASSPHRASE)
    with pytest.raises(BackupError):
        read_backup(_changed(data, created="2020-01-01T00:00:00+00:00"), PASSPHRASE)


def test_an_unencrypted_name_that_leads_elsewhere(state, tmp_path):
    import hashlib

    entry = {"sha256": hashlib.sha256(b"x").hexdigest(), "data": base64.b64encode(b"x").decode()}
    payload = json.dumps({"files": {"../evil": entry}}).encode()
    data = _changed(make_backup(state, None), sha256=hashlib.sha256(payload).hexdigest())
    with pytest.raises(BackupError, match="cannot be read"):
        read_backup(data.partition(b"\n")[0] + b"\n" + payload, None)


def test_only_into_an_empty_directory(state, tmp_path):
    backup = read_backup(make_backup(state, None), None)
    other = StateDirectory.create(tmp_path / "other")
    (other.path / "mappings.json").write_text("{}")
    with pytest.raises(BackupError, match=r"not empty \(mappings.json\)"):
        restore_backup(backup, other)
    assert [each.name for each in other.path.iterdir()] == ["mappings.json"]


def test_no_authority_no_backup(tmp_path):
    empty = StateDirectory.create(tmp_path / "empty")
    with pytest.raises(BackupError, match=r"no ca\.key"):
        make_backup(empty, None)


def lose_authority(state):
    for name in ("ca.crt", "ca.key"):
        (state.path / name).unlink()


def test_the_authority_alone(state):
    before = Authority.load(state).hash
    backup = read_backup(make_backup(state, None), None)
    with pytest.raises(BackupError, match="has that authority: nothing was changed"):
        restore_authority(backup, state)
    (state.path / "nodes.json").write_bytes(b"of later")
    lose_authority(state)
    assert sorted(restore_authority(backup, state)) == ["ca.crt", "ca.key"]
    assert Authority.load(state).hash == before
    assert state.read("nodes.json") == b"of later"
    (state.path / "ca.key").unlink()
    restore_authority(backup, state)
    assert Authority.load(state).hash == before


def test_an_authority_that_the_edges_do_not_know(state, tmp_path):
    other = StateDirectory.create(tmp_path / "other")
    initialise(other, addresses=(IPv4Address("127.0.0.1"),))
    foreign = read_backup(make_backup(other, None), None)
    before = Authority.load(state).hash
    with pytest.raises(BackupError, match="has an authority already"):
        restore_authority(foreign, state)
    assert Authority.load(state).hash == before
    lose_authority(state)
    with pytest.raises(BackupError, match=r"is not the one of .*server\.crt"):
        restore_authority(foreign, state)
    assert not state.exists("ca.crt")
