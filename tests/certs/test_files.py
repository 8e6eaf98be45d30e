"""A state directory: private, and changed as a whole or not at all."""

import errno
import os
import subprocess
import sys
import threading

import pytest

from certs.files import StateDirectory, StateError, StateNotEmptyError


def mode(path):
    return path.stat().st_mode & 0o777


def contents(state):
    return {path.name: path.read_bytes() for path in state.path.iterdir()}


@pytest.fixture
def state(tmp_path):
    return StateDirectory.create(tmp_path / "deep" / "state")


def test_it_is_private(state):
    assert mode(state.path) == 0o700
    with state.transaction() as transaction:
        transaction.write({"a.key": b"1", "a.crt": b"2"})
    assert contents(state) == {"a.key": b"1", "a.crt": b"2"}
    assert {mode(path) for path in state.path.iterdir()} == {0o600}


def test_a_loose_umask_changes_nothing(tmp_path):
    old = os.umask(0)
    try:
        state = StateDirectory.create(tmp_path / "state")
        with state.transaction() as transaction:
            transaction.write({"a.key": b"1"})
    finally:
        os.umask(old)
    assert mode(state.path) == 0o700
    assert mode(state.path / "a.key") == 0o600


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o644, 0o620])
def test_a_key_that_others_can_read_is_refused_with_the_remedy(state, bits):
    key = state.path / "a.key"
    key.write_bytes(b"1")
    key.chmod(bits)
    with pytest.raises(StateError, match=f"chmod 600 {key}"):
        state.read_secret("a.key")
    key.chmod(0o600)
    assert state.read_secret("a.key") == b"1"


def test_a_directory_that_others_can_change_is_refused(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(StateError, match=r"chmod go-w"):
        StateDirectory(tmp_path)
    tmp_path.chmod(0o755)
    StateDirectory(tmp_path)


def test_missing_and_in_the_way(tmp_path):
    with pytest.raises(StateError, match="nowhere does not exist"):
        StateDirectory(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="in the way"):
        StateDirectory.create(tmp_path / "file")
    with pytest.raises(StateError, match="in the way"):
        StateDirectory.create(tmp_path / "file" / "below")
    with pytest.raises(StateError, match=r"a\.key does not exist"):
        StateDirectory(tmp_path).read("a.key")


def test_prepared_removes_what_it_made_when_the_work_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), StateDirectory.prepared(tmp_path / "a" / "b"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    with pytest.raises(ZeroDivisionError), StateDirectory.prepared(tmp_path / "a"):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


class Crash(BaseException):
    pass


def crash_at(monkeypatch, name, count):
    """Let the process end, as seen by the files, before the count-th call of os.`name`."""
    real, left = getattr(os, name), [count]

    def call(*args, **kwargs):
        if left[0] == 0:
            raise Crash
        left[0] -= 1
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, call)
    return left


@pytest.mark.parametrize("name", ["open", "fsync", "rename", "unlink"])
def test_a_crash_anywhere_leaves_all_or_nothing(state, monkeypatch, name):
    old, new = {"a.key": b"1", "a.crt": b"1"}, {"a.key": b"2", "a.crt": b"2"}
    outcomes = set()
    for count in range(100):
        with state.transaction() as transaction:
            transaction.write(old)
        with monkeypatch.context() as patch:
            left = crash_at(patch, name, count)
            try:
                with state.transaction() as transaction:
                    transaction.write(new)
            except Crash:
                pass
            crashed = left[0] == 0
        after = StateDirectory(state.path)
        with after.transaction():
            pass
        assert contents(after) in (old, new)
        outcomes.add(contents(after) == new)
        if not crashed:
            break
    assert True in outcomes
    assert False in outcomes or name == "unlink"


def test_a_full_disk_changes_nothing_and_says_so(state, monkeypatch):
    with state.transaction() as transaction:
        transaction.write({"a.key": b"1", "a.crt": b"1"})

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, state.transaction() as transaction:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StateError, match=r"No space left.*nothing was changed"):
            transaction.check_room(10)
        with pytest.raises(StateError, match=r"No space left.*nothing was changed"):
            transaction.write({"a.key": b"2", "a.crt": b"2"})
    assert contents(state) == {"a.key": b"1", "a.crt": b"1"}


def test_room_is_asked_for_and_given_back(state):
    with state.transaction() as transaction:
        transaction.check_room(100_000)
    assert contents(state) == {}


def test_a_transaction_excludes_threads_and_processes(state):
    code = (
        "import sys; from pathlib import Path; from certs.files import *\n"
        "try:\n with StateDirectory(Path(sys.argv[1])).transaction(wait=0): print('held')\n"
        "except StateError as error: print(error)"
    )
    said = []

    def other_thread():
        try:
            with state.transaction(wait=0):
                said.append("held")
        except StateError as error:
            said.append(str(error))

    with state.transaction():
        thread = threading.Thread(target=other_thread)
        thread.start()
        thread.join()
        process = [sys.executable, "-c", code, str(state.path)]
        said.append(subprocess.run(process, capture_output=True, text=True, check=True).stdout)
    assert len(said) == 2
    assert all("in use by another process" in text for text in said)
    with state.transaction(wait=0):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_belongs_to_the_directorys_owner(state):
    os.chown(state.path, 12345, 12346)
    with StateDirectory(state.path).transaction() as transaction:
        transaction.write({"a.key": b"1"})
    found = (state.path / "a.key").stat()
    assert (found.st_uid, found.st_gid) == (12345, 12346)


def test_a_running_agent_loads_no_cryptography():
    code = "import sys, certs.files, certs.identity, certs.addresses; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_a_store_asks_of_any_place(state):
    before = state.version("a.key", "b.crt")
    state.change(lambda change: change.write({"a.key": b"1", "b.crt": b"2"}))
    assert state.version("a.key", "b.crt") != before
    assert state.names() == ["a.key", "b.crt"]
    assert (str(state), state.place("a.key")) == (str(state.path), str(state.path / "a.key"))
    with pytest.raises(StateNotEmptyError, match=r"not empty \(a\.key\)"):
        state.change(lambda change: change.fill({"c": b"3"}))
    assert state.names() == ["a.key", "b.crt"]
    with pytest.raises(ZeroDivisionError):
        state.change(lambda _change: 1 / 0)
    assert state.change(lambda _change: state.read("b.crt")) == b"2"
