"""Everybody of a family ends, also who is in a session of its own and lost its parent."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.family import family_ends

PARENT = """
import subprocess, sys
child = subprocess.Popen(["sleep", "60"], start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""


def test_an_orphan_in_a_session_of_its_own_ends_too() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        with family_ends(parent.pid):
            parent.kill()
            parent.wait()
            assert _lives(child)
        assert not _lives(child)


def test_it_is_thorough_when_ending_politely_failed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        with pytest.raises(RuntimeError), family_ends(parent.pid):
            raise RuntimeError
        assert parent.wait() == -9
        assert not _lives(child)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
