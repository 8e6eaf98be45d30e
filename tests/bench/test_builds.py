"""Which build is measured: what is refused, and that what runs is what was asked for."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from bench.builds import (
    INTERPRETED,
    LIBRARY,
    NOT_BUILT,
    OURS,
    OURS_COMPILED,
    OURS_INTERPRETED,
    Build,
)
from bench.peers import tunnel
from bench.peers.peer import Absent, PeerFailed
from bench.peers.tunnel import OurPrograms, Tunnel, prepare_server, start_first_agent, start_server
from bench.routes import LOOPBACK
from bench.stage import open_stage

SOURCES = ("tunnel_wire/session.py", "tunnel_server/admin/views.py", "tunnelctl/cli.py", "certs/files.py")
LONG_AGO = (1_000_000_000, 1_000_000_000)
MAPS = """
import mmap, sys
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree, and in build/compiled what was made of it."""
    for top in (tmp_path, tmp_path / "build" / "compiled"):
        for name in SOURCES:
            (top / name).parent.mkdir(parents=True)
            (top / name).write_text("pass\n")
    for name in ("setup.py", "pyproject.toml"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, LONG_AGO)
    (tmp_path / "build" / "compiled" / ".made").touch()
    (tmp_path / "build" / "compiled" / f"{LIBRARY}{EXTENSION_SUFFIXES[0]}").write_text("a library\n")
    return tmp_path


def compiled(root: Path) -> Build:
    return Build("compiled", root / "build" / "compiled")


def test_one_that_was_made_of_these_sources_is_measured(root: Path) -> None:
    (root / "tunnel_wire" / "session.py").touch()  # its time alone says nothing
    (root / "bench").mkdir()
    (root / "bench" / "suite.py").touch()  # nor does what is not in it
    assert compiled(root).unusable(root) == ""


@pytest.mark.parametrize("name", SOURCES)
def test_one_of_another_text_is_refused_whatever_its_time(root: Path, name: str) -> None:
    (root / name).write_text("past\n")
    os.utime(root / name, LONG_AGO)
    refused = f"build/compiled is older than {name}: rm -r build/compiled, then make compiled"
    assert compiled(root).unusable(root) == refused


def test_a_file_that_is_new_or_gone_is_an_edit_too(root: Path) -> None:
    (root / "certs" / "names.py").touch()
    assert "is older than certs/names.py: " in compiled(root).unusable(root)
    (root / "certs" / "names.py").unlink()
    (root / "certs" / "files.py").unlink()
    assert "is older than certs/files.py: " in compiled(root).unusable(root)


@pytest.mark.parametrize("name", ["setup.py", "pyproject.toml"])
def test_what_it_was_made_with_is_looked_at_by_its_time(root: Path, name: str) -> None:
    made = (root / "build" / "compiled" / ".made").stat().st_mtime
    os.utime(root / name, (made + 1, made + 1))
    assert f"is older than {name}: " in compiled(root).unusable(root)


def test_one_for_another_python_is_refused(root: Path) -> None:
    library = root / "build" / "compiled" / f"{LIBRARY}{EXTENSION_SUFFIXES[0]}"
    library.rename(library.with_name(f"{LIBRARY}.cpython-32.so"))
    assert "build/compiled is for another Python: rm -r " in compiled(root).unusable(root)


def test_one_that_was_not_finished_is_not_built(root: Path) -> None:
    (root / "build" / "compiled" / ".made").unlink()
    assert compiled(root).unusable(root) == NOT_BUILT


def test_the_interpreted_one_is_always_there(root: Path) -> None:
    assert Build("interpreted", root / "nowhere").unusable(root) == ""


@contextmanager
def process_that_maps(path: Path) -> Iterator[int]:
    with subprocess.Popen(
        [sys.executable, "-c", MAPS, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        yield process.pid
        process.kill()


def test_what_a_process_has_loaded_says_which_it_is(root: Path, tmp_path: Path) -> None:
    build = compiled(root)
    library = build.folder / f"{LIBRARY}{EXTENSION_SUFFIXES[0]}"
    with process_that_maps(library) as pid:
        assert build.wrong(pid) == ""
        assert INTERPRETED.wrong(pid) == f"it has loaded {library}, and was to run interpreted"
        elsewhere = Build("compiled", tmp_path / "elsewhere")
        assert (
            elsewhere.wrong(pid) == f"it has loaded {library}, and was to run what is in {elsewhere.folder}"
        )
    with process_that_maps(root / "certs" / "files.py") as pid:
        assert INTERPRETED.wrong(pid) == ""
        assert build.wrong(pid) == "it runs interpreted, and was to run compiled"


def test_a_server_and_an_agent_of_another_build_than_asked_for_fail_in_one_line(tmp_path: Path) -> None:
    claimed = Build("compiled", tmp_path)  # where nothing is, so that the tree's own is found
    expected = "it runs interpreted, and was to run compiled"
    with open_stage(LOOPBACK) as stage, OurPrograms(stage, claimed) as programs:
        prepare_server(programs, stage)
        with pytest.raises(PeerFailed) as of_server:
            start_server(programs, stage)
        assert str(of_server.value) == f"tunnel-server: {expected}"
        with pytest.raises(PeerFailed) as of_agent:
            start_first_agent(programs, stage)
        assert str(of_agent.value) == f"tunnel-agent: {expected}"


def test_programs_are_of_the_folder_of_their_build_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, word in (("ours", "right"), ("others", "wrong")):
        (tmp_path / name / "tunnel_server").mkdir(parents=True)
        (tmp_path / name / "tunnel_server" / "__init__.py").touch()
        (tmp_path / name / "tunnel_server" / "cli.py").write_text(f"def main(): raise SystemExit('{word}')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "others"))
    build = Build("interpreted", tmp_path / "ours")
    with open_stage(LOOPBACK) as stage, OurPrograms(stage, build) as programs:
        programs.launch("server", [tunnel.BIN / "tunnel-server"]).wait()
        assert programs.last_lines(1).endswith("\nright")


def test_the_compiled_one_is_ours_where_it_is_there_and_else_listed_with_its_remedy(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usable, missing = Build("interpreted", root), Build("compiled", root)
    monkeypatch.setattr(tunnel, "COMPILED", usable)
    assert list(tunnel._peers()) == [Tunnel(OURS, usable), Tunnel(OURS_INTERPRETED, INTERPRETED)]
    monkeypatch.setattr(tunnel, "COMPILED", missing)
    first, other = tunnel._peers()
    assert first == Tunnel(OURS, INTERPRETED)
    assert not first.second
    assert (other.name, other.available()) == (OURS_COMPILED, Absent("not built (make compiled)"))
    assert other.second
