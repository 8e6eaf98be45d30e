"""What the command line of install cannot be."""

from pathlib import Path

import pytest

from tunnelctl.cli import main
from tunnelctl.errors import WRONG_USE


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--config", "nowhere.toml"], "--config: nowhere.toml: No such file or directory"),
        (["--config", "wrong.toml"], "--config: wrong.toml:1: nonsense: unknown key"),
        (["--caller-networks", "10.244.0.0/33"], "--caller-networks: '10.244.0.0/33' does not appear"),
        (["--by-name", ","], "--by-name names none"),
    ],
)
def test_wrong_use_is_one_line(
    words: list[str],
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wrong.toml").write_text("nonsense = 1\n")
    assert main(["install", *words]) == WRONG_USE
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line
