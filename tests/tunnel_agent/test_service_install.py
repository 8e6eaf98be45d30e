"""Installing and removing for real: in a mount namespace with an /etc and a /run of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunnel_agent.service_install import Installation, ServiceError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a service is installed by root")

STAGE = """
set -e
mount --make-rprivate /
cp -a /etc "$1/etc" && mount --bind "$1/etc" /etc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /etc/systemd/system
shift
exec "$@"
"""
INSTALL = """
import sys
from pathlib import Path
from tunnel_agent.service_install import Installation, ServiceError
try:
    print(*Installation().install(Path("/usr/bin/true"), Path(sys.argv[1])), sep="\\n")
except ServiceError as error:
    sys.exit(f"error: {error}")
"""
SYSTEMCTL = '#!/bin/sh\necho "systemctl $*" >> {log}\n'


class Machine:
    """Commands see its /etc and /run, and nothing outside of them changes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.calls = directory / "calls"

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a shell script; `$install` and `$agent` are commands in it."""
        words = {
            "install": f"{sys.executable} {self._file('install.py', INSTALL)} {self.state}",
            "agent": f"{sys.executable} -m tunnel_agent",
            "state": str(self.state),
        }
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", STAGE, "stage", self._fresh(), "sh", "-ec", script],
            env={**os.environ, **words}, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    def with_systemd(self) -> str:
        """Shell that makes systemd seem to run, its systemctl noting what it is asked."""
        path = self._file("bin/systemctl", SYSTEMCTL.format(log=self.calls))
        path.chmod(0o755)
        return f"mkdir -p /run/systemd/system; PATH={path.parent}:$PATH; "

    def join(self) -> None:
        self.state.mkdir()
        for name in ("node.key", "agent.json"):
            (self.state / name).write_text("{}")

    def _fresh(self) -> Path:
        made = self.directory / f"stage-{len(list(self.directory.iterdir()))}"
        made.mkdir()
        return made

    def _file(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.join()
    return made


def test_user_state_and_unit(machine: Machine) -> None:
    done = machine.run(
        "mkdir -p /etc/edge-tunnel; echo 'proxy = \"x\"' > /etc/edge-tunnel/agent.toml; $install; "
        "getent passwd tunnel-agent; stat -c '%U %a %n' $state $state/node.key; "
        "stat -c '%U:%G %a' /etc/edge-tunnel/agent.toml /etc/systemd/system/tunnel-agent.service; "
        "grep ExecStart /etc/systemd/system/tunnel-agent.service"
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "made the user tunnel-agent"
    assert "systemd does not run here; where it does: systemctl enable --now tunnel-agent.service" in lines
    assert any(line.startswith("tunnel-agent:x:") and line.endswith("/usr/sbin/nologin") for line in lines)
    assert f"tunnel-agent 755 {machine.state}" in lines
    assert f"tunnel-agent 644 {machine.state / 'node.key'}" in lines
    assert "root:tunnel-agent 640" in lines, "the proxy's password is for root and the service only"
    assert "root:root 644" in lines
    assert lines[-1] == f"ExecStart=/usr/bin/true run --state-dir {machine.state}"


def test_it_is_started_where_systemd_runs_and_may_be_done_again(machine: Machine) -> None:
    done = machine.run(machine.with_systemd() + "$install; $install")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("made the user") == 1
    each = ["systemctl daemon-reload", "systemctl enable tunnel-agent.service"]
    each.append("systemctl restart tunnel-agent.service")
    assert machine.calls.read_text().splitlines() == each * 2


def test_uninstalling_keeps_the_identity_unless_told(machine: Machine) -> None:
    script = machine.with_systemd() + (
        "$install; $agent uninstall-service --state-dir $state; ls /etc/systemd/system $state; "
        "getent passwd tunnel-agent; $agent uninstall-service --state-dir $state --purge; "
        "ls $state 2>&1 || true; getent passwd tunnel-agent || echo no user; $agent uninstall-service"
    )
    done = machine.run(script)
    assert done.returncode == 0, done.stderr
    told, _, after = done.stdout.partition("removed the user tunnel-agent\n")
    assert "removed /etc/systemd/system/tunnel-agent.service" in told
    assert "node.key" in told
    assert "this machine has to join again" in told
    assert "No such file" in after
    assert "no user" in after
    assert after.endswith("nothing was installed\n")
    assert "systemctl disable --now tunnel-agent.service" in machine.calls.read_text()


def test_purging_removes_an_identity_and_nothing_else(machine: Machine) -> None:
    (machine.state / "agent.json").unlink()
    done = machine.run("$agent uninstall-service --state-dir $state --purge")
    assert done.returncode == 1
    assert done.stderr.endswith("holds no agent's identity: nothing was removed from it\n")
    assert (machine.state / "node.key").exists()


def test_joining_asks_first_whether_it_can_be_installed(machine: Machine) -> None:
    join = "$agent join 192.0.2.1 --token x --ca-hash y --state-dir $state --install-service"
    done = machine.run(f"rm -r /etc/systemd/system; {join}")
    message = "tunnel-agent join: /etc/systemd/system does not exist: this machine has no systemd\n"
    assert (done.returncode, done.stderr) == (1, message)


def test_a_systemctl_that_fails_is_told(machine: Machine) -> None:
    done = machine.run(
        machine.with_systemd()
        + "printf '#!/bin/sh\\necho nope >&2; exit 1' > ${PATH%%:*}/systemctl; $install"
    )
    assert done.returncode == 1
    assert done.stderr == "error: systemctl daemon-reload: nope\n"


def test_programs_that_the_service_could_not_run(tmp_path: Path) -> None:
    units = tmp_path / "units"
    units.mkdir()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "tunnel-agent").touch(mode=0o755)
    installation = Installation(units=units)
    for program, message in (
        (closed / "tunnel-agent", "is closed to other users"),
        (Path("/root/venv/bin/tunnel-agent"), "is in a home directory"),
        (Path("/nonexistent/tunnel-agent"), "does not exist"),
    ):
        with pytest.raises(ServiceError, match=message):
            installation.check(program, Path("/var/lib/edge-tunnel-agent"))
    with pytest.raises(ServiceError, match="home directory"):
        installation.check(Path("/usr/bin/true"), Path("/home/pi/state"))
    assert list(units.iterdir()) == []
