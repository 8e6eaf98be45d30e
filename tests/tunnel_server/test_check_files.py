"""What would stop a server that starts here is found beforehand, and nothing is changed by looking."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from certs.files import StateDirectory
from tests.folders import let_others_in
from tests.tunnel_server.identified import prepare
from tunnel_server.check_files import check_files
from tunnel_server.config import ServerConfig


@pytest.fixture
def config(tmp_path: Path) -> ServerConfig:
    prepare(tmp_path / "state")
    return ServerConfig(
        state_dir=tmp_path / "state",
        admin_socket=tmp_path / "run" / "admin.sock",
        connect_socket=Path("connect.sock"),
        audit_log=tmp_path / "audit.log",
    )


def tree(path: Path) -> dict[Path, tuple[int, int]]:
    return {each: (each.lstat().st_mtime_ns, each.lstat().st_mode) for each in path.rglob("*")}


def test_nothing_stops_it_and_nothing_is_made(config: ServerConfig, tmp_path: Path) -> None:
    before = tree(tmp_path)
    assert list(check_files(config)) == []
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("spoil", "key", "why"),
    [
        (lambda path: (path / "state").rename(path / "away"), "state-dir", "run `tunnelctl init`"),
        (lambda path: (path / "state" / "ca.key").unlink(), "state-dir", "ca.key"),
        (lambda path: (path / "state" / "ca.key").chmod(0o644), "state-dir", "can be read by others"),
        (lambda path: (path / "state" / "server.crt").unlink(), "state-dir", "no server.crt"),
        (lambda path: (path / "state" / "server.key").write_text("x"), "state-dir", "with server.key"),
        (lambda path: (path / "state" / "nodes.json").write_text("x"), "state-dir", "nodes.json"),
        (lambda path: (path / "state" / "mappings.json").write_text("x"), "state-dir", "mappings.json"),
        (lambda path: (path / "state" / "revocations.json").write_text("x"), "state-dir", "revocations.json"),
        (lambda path: (path / "audit.log").mkdir(), "audit-log", "audit.log: is a directory"),
        (lambda path: (path / "audit.log").symlink_to("x"), "audit-log", "can't append to"),
        (lambda path: (path / "run").write_text("x"), "admin-socket", "run is not a directory"),
        (lambda path: (path / "run" / "admin.sock").mkdir(parents=True), "admin-socket", "in the way"),
    ],
)  # fmt: skip
def test_what_would_stop_it(
    config: ServerConfig, tmp_path: Path, spoil: Callable[[Path], object], key: str, why: str
) -> None:
    spoil(tmp_path)
    before = tree(tmp_path)
    found = list(check_files(config))
    assert key in dict(found)
    assert why in dict(found)[key]
    assert {each for each, _ in found} <= {key, "connect-socket"}
    assert tree(tmp_path) == before


def test_places_that_are_not_there(tmp_path: Path) -> None:
    config = ServerConfig(
        state_dir=tmp_path,
        admin_socket=tmp_path / ("x" * 120),
        connect_socket=None,
        audit_log=tmp_path / "a" / "b",
    )
    found = dict(check_files(config))
    assert "too long for a Unix socket" in found["admin-socket"]
    assert found["audit-log"] == f"{tmp_path / 'a'} does not exist: make it"


def test_an_interrupted_change_is_left_to_the_server(config: ServerConfig) -> None:
    record = config.state_dir / ".pending"
    record.write_text('{"write": ["x"], "remove": []}')
    assert list(check_files(config)) == []
    assert record.exists()
    StateDirectory(config.state_dir)
    assert not record.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_as_another_user(config: ServerConfig, tmp_path: Path) -> None:
    let_others_in(tmp_path)
    program = (
        "import os, sys; from pathlib import Path;"
        "from tunnel_server.check_files import check_files; from tunnel_server.config import ServerConfig;"
        "path = Path(sys.argv[1]); os.setgroups([]); os.setgid(65534); os.setuid(64104);"
        "print(*check_files(ServerConfig(state_dir=path / 'state', admin_socket=path / 'run' / 'a',"
        " connect_socket=None, audit_log=path / 'audit.log')), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True, timeout=30
    )
    lines = done.stdout.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["('state-dir'", "('admin-socket'", "('audit-log'"]
    assert all("permission denied" in line.lower() for line in lines)
