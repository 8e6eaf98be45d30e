"""The unit: what it may do, as systemd reads it, and that the one in deploy/ is the same."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from tunnel_agent.service_unit import unit_text
from tunnel_server.limits import ServerLimits

DEPLOY = Path(__file__).parents[2] / "deploy" / "systemd"
UNITS = {"agent": 1.5, "server": 2.0}
"""Of each: the most that `systemd-analyze security` may find exposed, of 10."""

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing: apt-get install systemd"
)


def test_the_one_in_deploy_is_what_is_installed() -> None:
    assert (DEPLOY / "tunnel-agent.service").read_text() == unit_text()


@needs_systemd
@pytest.mark.parametrize("unit", ["tunnel-agent.service", "tunnel-server.service", "tunnel-server.socket"])
def test_systemd_understands_every_line(unit: str, tmp_path: Path) -> None:
    for name in UNITS:
        text = (DEPLOY / f"tunnel-{name}.service").read_text()
        text = text.replace(f"/opt/edge-tunnel/bin/tunnel-{name}", "/bin/true")
        (tmp_path / f"tunnel-{name}.service").write_text(text)
    if unit.endswith(".socket"):
        shutil.copy(DEPLOY / unit, tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", tmp_path / unit],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
@pytest.mark.parametrize("name", UNITS)
def test_little_is_exposed(name: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", DEPLOY / f"tunnel-{name}.service"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    exposure = float(done.stdout.rpartition(": ")[2].split()[0])
    assert exposure <= UNITS[name], done.stdout


def test_the_server_has_one_capability_and_the_agent_none() -> None:
    for name, capability in (("agent", ""), ("server", "CAP_NET_ADMIN")):
        service = _read((DEPLOY / f"tunnel-{name}.service").read_text())
        assert service["CapabilityBoundingSet"] == service["AmbientCapabilities"] == capability
        assert service["NoNewPrivileges"] == "yes"
        assert service["ProtectSystem"] == "strict"
        assert service["User"] not in {"", "root"}


def test_two_servers_fit_where_one_takes_over() -> None:
    service = _read((DEPLOY / "tunnel-server.service").read_text())
    assert service["OOMPolicy"] == "continue"  # else one that runs out of memory ends the other
    assert int(service["MemoryMax"].removesuffix("G")) << 30 > 2 * ServerLimits().memory_budget


def test_other_places_are_in_it() -> None:
    service = _read(unit_text(Path("/srv/t/bin/tunnel-agent"), Path("/data/agent"), Path("/etc/agent.toml")))
    assert (
        service["ExecStart"] == "/srv/t/bin/tunnel-agent run --state-dir /data/agent --config /etc/agent.toml"
    )
    assert service["ReadWritePaths"] == "/data/agent"
    assert "StateDirectory" not in service
    assert _read(unit_text(state_dir=Path("/var/lib/other")))["StateDirectory"] == "other"


@pytest.mark.parametrize("path", ["relative/agent", "/a\nExecStartPre=/b", "/a b", "/%h", "/$HOME", '/"'])
def test_paths_that_no_unit_can_have(path: str) -> None:
    with pytest.raises(ValueError, match="can't stand in a unit"):
        unit_text(Path(path))
    with pytest.raises(ValueError, match="can't stand in a unit"):
        unit_text(state_dir=Path(path))


def _read(text: str) -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    return parser["Service"]
