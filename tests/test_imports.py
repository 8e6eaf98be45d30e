"""Who may import whom: the contracts in pyproject.toml hold, and are able to fail."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent
_PACKAGES = ("tunnel_wire", "tunnel_server", "tunnel_agent", "tunnel_daemon", "tunnelctl", "certs", "bench")


def _lint(where: Path) -> subprocess.CompletedProcess[str]:
    linter = Path(sys.executable).parent / "lint-imports"
    environment = {**os.environ, "PYTHONPATH": str(where), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "250"}
    return subprocess.run(
        [linter, "--no-cache"], cwd=where, env=environment, capture_output=True, text=True, check=False
    )


def test_contracts_hold() -> None:
    result = _lint(_ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("tunnel_wire/link.py", "import certs", "Imports go one way"),
        ("tunnel_daemon/logs.py", "import tunnel_wire", "Imports go one way"),
        ("tunnel_server/config.py", "import tunnel_agent", "Imports go one way"),
        ("tunnel_server/config.py", "import tunnelctl", "Imports go one way"),
        ("tunnel_server/config.py", "import pyroute2", "Only tunnel_server.intercept imports pyroute2"),
        ("tunnelctl/cli.py", "import pyroute2", "Only tunnel_server.intercept imports pyroute2"),
        ("tunnel_server/config.py", "import kubernetes", "Only tunnel_server.kube imports kubernetes"),
        ("tunnelctl/cli.py", "import urllib3", "Only tunnel_server.kube imports kubernetes"),
        ("tunnel_daemon/logs.py", "import prometheus_client", "The agent never loads"),
        ("certs/files.py", "import cryptography", "A running agent needs these of certs"),
        ("certs/identity.py", "from . import authority", "A running agent needs these of certs"),
        ("certs/tokens.py", "import trio", "certs has no event loop"),
    ],
)
def test_a_breach_is_found(tmp_path: Path, module: str, line: str, contract: str) -> None:
    for package in _PACKAGES:
        shutil.copytree(_ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(_ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "tunnel_agent" / "breach.py").write_text("import tunnel_daemon.logs\n")
    with (tmp_path / module).open("a") as source:
        source.write(f"\n{line}\n")
    result = _lint(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    broken = [text for text in result.stdout.splitlines() if " BROKEN" in text]
    assert len(broken) == 1, result.stdout
    assert broken[0].startswith(contract), result.stdout
