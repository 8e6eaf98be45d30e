"""Two demos never share a stage; a killed one's is taken over, empty; nothing stays."""

import subprocess
import sys
from pathlib import Path

import pytest

from tunnelctl.demo.stage import claim


def test_two_demos_have_two_stages_and_leave_nothing(tmp_path: Path) -> None:
    base = tmp_path / "demos"
    with claim(base) as one, claim(base) as two:
        assert (one.prefix, two.prefix) == ("et-demo", "et-demo2")
        assert one.make("state").stat().st_mode & 0o777 == 0o700
        assert two.directory.is_dir()
    assert not base.exists()


def test_a_failure_leaves_nothing_either(tmp_path: Path) -> None:
    def fail() -> None:
        with claim(tmp_path / "demos") as stage:
            stage.make("state")
            raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        fail()
    assert not (tmp_path / "demos").exists()


def test_what_a_killed_demo_left_is_cleared(tmp_path: Path) -> None:
    killed = (
        "import os, sys; from pathlib import Path; from tunnelctl.demo.stage import claim\n"
        "with claim(Path(sys.argv[1])) as stage: stage.make('old'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", killed, str(tmp_path)], check=False)
    assert (tmp_path / "et-demo" / "old").is_dir()
    with claim(tmp_path) as stage:
        assert stage.prefix == "et-demo"
        assert list(stage.directory.iterdir()) == []
