"""`tunnel-server check-config`: every problem in a line, and an exit code for scripts."""

import json
from pathlib import Path

import pytest

from tests.tunnel_server.identified import prepare
from tunnel_server.cli import main


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str]]:
    code = main(["check-config", *words])
    return code, capsys.readouterr().out.splitlines()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    prepare(tmp_path / "state")
    return tmp_path / "server.toml"


def write(path: Path, text: str) -> None:
    """Under two lines that name what a server needs and has."""
    places = {"state-dir": path.parent / "state", "admin-socket": path.parent / "admin.sock"}
    path.write_text("".join(f"{key} = '{place}'\n" for key, place in places.items()) + text)


def test_a_good_file(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(path, "http-proxy-ports = '9081'\n[callers.prom]\nnodes = 'edge-*'\nports = '9100'\n")
    assert run(capsys, str(path)) == (0, ["ok"])
    code, lines = run(capsys, str(path), "--json")
    assert (code, json.loads("\n".join(lines))) == (0, {"ok": True, "problems": [], "warnings": []})


def test_every_problem_is_told(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text("tunnel-port = 'x'\nlog-levle = 'info'\n[callers.prom]\nports = '0'\n")
    code, lines = run(capsys, str(path))
    assert code == 2
    assert [line.split(": ")[:2] for line in lines] == [
        [f"{path}:1", "tunnel-port"], [f"{path}:2", "log-levle"], [f"{path}:4", "callers.prom.ports"]
    ]  # fmt: skip


def test_an_entry_that_would_not_count_is_a_warning(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(path, "# ours\nhttp-proxy-ports = '9081, x'\n")
    code, lines = run(capsys, str(path))
    assert code == 0
    assert lines == [
        f'warning: {path}:4: http-proxy-ports: "x" names "x", which is not a port from 1 to 65535', "ok"
    ]  # fmt: skip
    found = json.loads("\n".join(run(capsys, str(path), "--json")[1]))
    assert (found["ok"], len(found["warnings"])) == (True, 1)


def test_no_file(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = run(capsys, str(path))
    assert code == 2
    assert lines == [f"{path}: can't be read: No such file or directory"]


def test_wrong_use_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["check-config", "--jsno"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("tunnel-server check-config: unrecognized arguments: --jsno")


def test_what_would_stop_a_server_here_is_a_warning(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It may be another host's file, or another user's."""
    write(path, f"audit-log = '{path.parent}'\n")
    (path.parent / "state" / "ca.key").unlink()
    code, lines = run(capsys, str(path))
    assert (code, lines[-1]) == (0, "ok")
    state, log = lines[:-1]
    assert state.startswith(f"warning: {path}:1: state-dir: a server would not start here: ")
    assert log == (
        f"warning: {path}:3: audit-log: a server would not start here: can't append to {path.parent}: "
        "is a directory"
    )
