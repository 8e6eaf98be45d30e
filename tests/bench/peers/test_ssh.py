"""What sshd starts for an agent."""

import time
from pathlib import Path

from bench.peers.peer import Stage
from bench.peers.ssh import Ssh

START_S = 20.0


def test_a_sessions_shell_reads_nobodys_files(stage: Stage) -> None:
    with Ssh().start(stage) as running:
        deadline = time.monotonic() + START_S
        while "sleep\0infinity\0" not in (
            lines := [_read(pid, "cmdline") for pid in running.processes["server"]]
        ):
            assert time.monotonic() < deadline, lines
            time.sleep(0.02)
        session = running.processes["server"][lines.index("sleep\0infinity\0")]
        assert f"HOME={stage.scratch}" in _read(session, "environ").split("\0")


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""  # it has ended
