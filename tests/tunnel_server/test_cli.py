"""`tunnel-server` as its operator meets it: help, and one line for what is wrong."""

import subprocess
import sys
from pathlib import Path


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tunnel_server", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_help_names_exit_codes() -> None:
    result = _run("--help")
    assert result.returncode == 0
    assert "Exit codes: 0 stopped in order, 1 failed, 2 wrong" in result.stdout


def test_an_unknown_key_is_one_line(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text("tunel-port = 1\n")
    result = _run("--config", str(config))
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "tunel-port" in line
    assert "tunnel-port" in line


def test_no_state_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text(f'state-dir = "{tmp_path / "none"}"\n')
    result = _run("--config", str(config))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "tunnelctl init" in line
