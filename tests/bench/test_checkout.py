"""Which commit is measured: of a real checkout, and of what is none."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import tunnel_wire
from bench.checkout import ROOT, commit
from bench.peers.tunnel import Tunnel

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
WHO = ["-c", "user.name=somebody", "-c", "user.email=somebody@edge.example", "-c", "commit.gpgsign=false"]


def git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", root, *WHO, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """One commit of one file."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "program.py").write_text("print()\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def test_the_commit_in_short(checkout: Path) -> None:
    found = commit(checkout)
    assert len(found) == 7
    assert git(checkout, "rev-parse", "HEAD").startswith(found)


@pytest.mark.parametrize("name", ["program.py", "another.py"])
def test_what_differs_from_it_or_is_not_in_it(checkout: Path, name: str) -> None:
    before = commit(checkout)
    (checkout / name).write_text("print('changed')\n")
    assert commit(checkout) == f"{before}+changes"


def test_what_the_suite_writes_is_no_change(checkout: Path) -> None:
    before = commit(checkout)
    (checkout / "bench" / "results").mkdir(parents=True)
    (checkout / "bench" / "results" / "results.json").write_text("{}")
    assert commit(checkout) == before
    (checkout / "bench" / "suite.py").write_text("")
    assert commit(checkout) == f"{before}+changes"


def test_what_is_no_checkout_or_only_lies_in_one_has_none(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (checkout / "unpacked").mkdir()
    assert commit(checkout / "unpacked") == ""
    assert commit(tmp_path_factory.mktemp("nowhere")) == ""


def test_a_checkout_without_a_commit_has_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    assert commit(tmp_path) == ""


def test_without_git_there_is_none(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.fspath(checkout))
    assert commit(checkout) == ""


def test_our_version_names_it() -> None:
    named = filter(None, [tunnel_wire.__version__, commit(ROOT), "interpreted"])
    assert Tunnel().available() == ", ".join(named)
