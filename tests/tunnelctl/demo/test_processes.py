"""Every program started is ended, by TERM or by KILL, and its words are kept."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tunnelctl.demo.processes import Processes

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]


def _wait_for(processes: Processes, name: str, word: str) -> None:
    deadline = time.monotonic() + 10
    while word not in processes.tail(name):
        assert time.monotonic() < deadline, f"{name} never said {word}"
        os.sched_yield()


def test_all_are_ended_on_leaving(tmp_path: Path) -> None:
    with Processes(tmp_path, grace=0.2) as processes:
        children = [processes.start("polite", SLEEPER), processes.start("deaf", DEAF)]
        _wait_for(processes, "polite", "up")
        _wait_for(processes, "deaf", "up")
        assert processes.names() == ["polite", "deaf"]
        assert processes.end_all() == ["deaf"]
    assert [child.returncode for child in children] == [-signal.SIGTERM, -signal.SIGKILL]


def test_one_is_ended_and_may_start_again_in_the_same_log(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        for _ in range(2):
            processes.start("one", [sys.executable, "-c", "print('word')"]).wait()
            assert processes.end("one") == 0
        assert processes.tail("one") == "word\nword"
        assert processes.tail("one", lines=1) == "word"
        assert processes.names() == []


def test_those_that_ended_by_themselves_are_told(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        processes.start("gone", [sys.executable, "-c", "raise SystemExit(3)"]).wait()
        processes.start("here", SLEEPER)
        assert processes.ended() == {"gone": 3}


def test_no_such_program(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes, pytest.raises(FileNotFoundError):
        processes.start("none", [tmp_path / "none"])
    assert processes.tail("other") == ""


def test_they_end_when_we_are_killed(tmp_path: Path) -> None:
    parent = (
        "import os, sys; from pathlib import Path; from tunnelctl.demo.processes import Processes\n"
        "child = Processes(Path(sys.argv[1])).start('orphan', [sys.executable, '-c', sys.argv[2]])\n"
        "print(child.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    orphan = "import time; time.sleep(60)"
    done = subprocess.run(
        [sys.executable, "-c", parent, str(tmp_path), orphan], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while _alive(pid):
        assert time.monotonic() < deadline, f"process {pid} outlived its parent"
        os.sched_yield()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
