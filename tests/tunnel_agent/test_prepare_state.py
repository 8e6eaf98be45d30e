"""A directory that root makes for another user, with CAP_CHOWN and nothing else."""

import os
import subprocess
import sys

import pytest

from tunnel_agent.cli import main
from tunnel_agent.prepare_state import PrepareError, prepare_state

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user, which needs root")

UID = 65532


def owner(path):
    found = path.lstat()
    return found.st_uid, found.st_gid, found.st_mode & 0o7777


def prepared(path, *words, capabilities="+chown"):
    """As an init container does it: all capabilities dropped but one."""
    command = [
        "setpriv", f"--bounding-set=-all,{capabilities}", f"--inh-caps=-all,{capabilities}", "--no-new-privs",
        sys.executable, "-W", "error", "-m", "tunnel_agent", "prepare-state",
        f"--state-dir={path}", f"--uid={UID}", *words,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_one_that_is_not_there(tmp_path):
    done = prepared(tmp_path / "a" / "b")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/a/b is user {UID}'s\n")
    assert owner(tmp_path / "a" / "b") == (UID, UID, 0o700)
    assert owner(tmp_path / "a") == (0, 0, 0o755)


def test_one_that_a_kubelet_made_and_again(tmp_path):
    path = tmp_path / "state"
    path.mkdir(mode=0o755)
    for _ in range(2):
        done = prepared(path)
        assert done.returncode == 0, done.stderr
        assert owner(path) == (UID, UID, 0o700)


def test_an_agent_that_ran_as_root_before(tmp_path):
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    (path / "node.key").touch(0o600)
    (path / "node.crt").write_text("kept")
    (path / "node.crt").chmod(0o644)
    (path / ".pending").touch(0o600)
    os.chown(path / ".pending", UID, UID)
    done = prepared(path, "--gid=7")
    assert done.returncode == 0, done.stderr
    assert owner(path) == (UID, 7, 0o700)
    assert {each.name: owner(each) for each in path.iterdir()} == {
        "node.key": (UID, 7, 0o600), "node.crt": (UID, 7, 0o600), ".pending": (UID, 7, 0o600),
    }  # fmt: skip
    assert (path / "node.crt").read_text() == "kept"


def test_a_directory_that_its_user_has_opened_to_others(tmp_path):
    path = tmp_path / "state"
    path.mkdir()
    (path / "node.key").touch()
    for each in (path / "node.key", path):
        os.chown(each, UID, UID)
        each.chmod(0o777)
    done = prepared(path)
    assert done.returncode == 0, done.stderr
    assert (owner(path), owner(path / "node.key")) == ((UID, UID, 0o700), (UID, UID, 0o600))


def link(path):
    path.symlink_to("/nonexistent")


def file(path):
    path.touch()


def of_another(path):
    path.mkdir(mode=0o700)
    os.chown(path, 1234, 1234)


def with_(make):
    def made(path):
        path.mkdir(mode=0o750)
        os.chown(path, UID, UID)
        (path / "node.key").touch(0o640)
        make(path / "other")

    return made


def file_of_another(path):
    path.touch()
    os.chown(path, 1234, 1234)


def second_name(path):
    (path.parent.parent / "shadow").write_text("root's")
    os.link(path.parent.parent / "shadow", path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (link, "state is a symbolic link"),
        (file, "state is in the way"),
        (of_another, "state is user 1234's"),
        (with_(link), "other is no file of an agent"),
        (with_(lambda path: path.mkdir()), "other is no file of an agent"),
        (with_(os.mkfifo), "other is no file of an agent"),
        (with_(file_of_another), "other is user 1234's"),
        (with_(second_name), "other is a second name for a file of root's"),
    ],
)
def test_what_is_not_ours_is_refused_and_left(tmp_path, make, says):
    path = tmp_path / "state"
    make(path)
    before = {each: owner(each) for each in tmp_path.rglob("*")}
    done = prepared(path)
    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert {each: owner(each) for each in tmp_path.rglob("*")} == before


def test_without_the_capability(tmp_path):
    done = prepared(tmp_path / "state", capabilities="-chown")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "Operation not permitted; is this root?" in done.stderr


@pytest.mark.parametrize(("uid", "gid"), [(-1, 0), (2**32 - 1, 0), (0, 2**32)])
def test_no_user(tmp_path, uid, gid):
    with pytest.raises(PrepareError, match="is no "):
        prepare_state(tmp_path / "state", uid, gid)
    assert list(tmp_path.iterdir()) == []


def test_it_needs_a_user(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["prepare-state", "--state-dir", str(tmp_path)])
    assert "--uid" in capsys.readouterr().err
