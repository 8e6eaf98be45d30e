"""Settings that can't be: one line that names file, key and remedy; and nothing starts."""

from pathlib import Path

import pytest

from tests.e2e.system import BIN, System


@pytest.mark.parametrize("program", [["tunnel-server"], ["tunnel-agent", "run"]])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("log-levle = 'info'\n", "log-level"),
        ("log-level = 7\n", "log-level"),
        ("log-level = 'loud'\n", "log-level"),
        ("log-level = 'info\n", "TOML"),
    ],
)
def test_malformed_files(system: System, tmp_path: Path, program: list[str], text: str, says: str) -> None:
    (config := tmp_path / "bad.toml").write_text(text)
    done = system.topology.cloud.run([BIN / program[0], *program[1:], "--config", config])
    assert done.returncode != 0
    assert says in done.stderr
    assert str(config) in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize("program", [["tunnel-server"], ["tunnel-agent", "run"]])
def test_missing_file(system: System, tmp_path: Path, program: list[str]) -> None:
    done = system.topology.cloud.run([BIN / program[0], *program[1:], "--config", tmp_path / "none.toml"])
    assert done.returncode != 0
    assert "none.toml" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize("listen", ["127.0.0.1:9081", "127.0.0.1=edge-1:80", "127.0.0.1:9081=edge-1:http"])
def test_bad_fixed_listeners(system: System, tmp_path: Path, listen: str) -> None:
    (config := tmp_path / "bad.toml").write_text(f'listen = ["{listen}"]\n')
    done = system.topology.cloud.run([BIN / "tunnel-server", "--config", config])
    assert done.returncode != 0
    assert listen in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words", [["nonsense"], ["map-port"], ["token"], ["nodes", "--nonsense"], ["token", "create"]]
)
def test_wrong_use_of_tunnelctl(system: System, words: list[str]) -> None:
    done = system.topology.cloud.run([BIN / "tunnelctl", *words])
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2, done.stderr


def test_no_server_is_said_in_one_line(system: System, tmp_path: Path) -> None:
    words = ["nodes", "--admin-socket", tmp_path / "none.sock"]
    done = system.topology.cloud.run([BIN / "tunnelctl", *words])
    assert done.returncode == 3
    assert "none.sock" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
