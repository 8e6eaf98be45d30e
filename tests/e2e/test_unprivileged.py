"""Server and agent with what their systemd units leave them: a user of their own, one capability or none,
no new privileges, a read-only system, no home directories, no memory both writable and executable.

By hand (unshare, mount, setpriv, prctl), since there need be no systemd here.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tunnel_wire
from tests.e2e.network import dial
from tests.e2e.system import EDGE_1, System, build_of, curl_json, toml
from tunnel_wire.build import build
from tunnelctl.demo.topology import Host

UID = 64738
CAP_NET_ADMIN = 12
_SOURCE = Path(tunnel_wire.__file__).parents[1]
_PACKAGES = Path(pytest.__file__).parents[1]

# What both need is bound below /mnt, whose every folder is open: a checkout may lie in a home directory.
SANDBOX = """
set -e
uid=$1 base=$2 packages=$3 source=$4 state=$5 run=$6 caps=$7
shift 7
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/base /mnt/packages /mnt/source /mnt/state /mnt/run
mount --bind "$base" /mnt/base
mount --bind "$packages" /mnt/packages
mount --bind "$source" /mnt/source
mount --bind "$state" /mnt/state
mount --bind "$run" /mnt/run
for closed in /root /home /tmp; do mount -t tmpfs -o mode=000 tmpfs "$closed"; done
for each in /mnt/base /mnt/packages /mnt/source /; do mount -o remount,bind,ro "$each"; done
mount -o remount,ro /mnt
cd /
exec setpriv --reuid="$uid" --regid="$uid" --clear-groups --no-new-privs \\
    --inh-caps="$caps" --ambient-caps="$caps" --bounding-set="$caps" \\
    env -i LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 \\
    LD_LIBRARY_PATH=/mnt/base/lib PYTHONPATH=/mnt/source:/mnt/packages "$@"
"""
LAUNCH = """
import ctypes, os, sys
PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1  # MemoryDenyWriteExecute=, where the kernel can (6.3)
ctypes.CDLL(None).prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0)
try:
    open("/mnt/source/written", "w")
except OSError:
    pass
else:
    sys.exit("the system is not read-only")
os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])
"""


class Sandbox:
    """Starts our programs on a host, with state and sockets that belong to their user."""

    def __init__(self, system: System, directory: Path) -> None:
        self.system = system
        self.directory = directory

    def start(
        self, name: str, host: Host, state: Path, capabilities: str, *words: str
    ) -> subprocess.Popen[bytes]:
        run = self.directory / f"{name}-run"
        run.mkdir(exist_ok=True)
        for path in (run, state, *state.rglob("*")):
            os.chown(path, UID, UID)
        places = [sys.base_prefix, _PACKAGES, _SOURCE, state, run]
        sandbox = ["unshare", "--mount", "sh", "-c", SANDBOX, "sandbox", str(UID), *places, capabilities]
        python = f"/mnt/base/bin/{Path(sys.executable).resolve().name}"
        return self.system.start(name, host, *sandbox, python, "-c", LAUNCH, *words)


@pytest.fixture
def own(deploy: Callable[..., System]) -> System:
    return deploy()


@pytest.fixture
def sandbox(own: System, tmp_path: Path) -> Sandbox:
    return Sandbox(own, tmp_path)


def test_the_agent_works_without_any_privilege(own: System, sandbox: Sandbox) -> None:
    own.start_server()
    edge = own.topology.edge(1)
    own.serve(edge, "http", 9081)
    assert own.join(edge, own.join_line("edge-1", edge.address)).returncode == 0
    process = sandbox.start(
        "edge-1", edge, own.agent_state(edge), "-all", "tunnel_agent", "run", "--state-dir", "/mnt/state"
    )
    own.wait_ready("edge-1")
    assert build_of(process) == build()
    own.map_port("9081=10264")
    assert curl_json(own.topology.cloud, f"http://{EDGE_1}:9081/")["machine"] == "edge-1"
    status = _status(process.pid)
    assert (status["Uid"], status["NoNewPrivs"]) == (str(UID), "1")
    assert {status[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}


def test_the_server_captures_with_one_capability_and_leaves_nothing(own: System, sandbox: Sandbox) -> None:
    cloud, edge = own.topology.cloud, own.topology.edge(1)
    settings = {
        "state-dir": "/mnt/state",
        "admin-socket": "/mnt/run/admin.sock",
        "connect-socket": "/mnt/run/c.sock",
    }
    (own.state / "server.toml").write_text(toml(settings))
    words = ["tunnel_server", "--config", "/mnt/state/server.toml"]
    process = sandbox.start("server", cloud, own.state, "-all,+net_admin", *words)
    own.admin = sandbox.directory / "server-run" / "admin.sock"
    own.until(own.answers, "server")
    status = _status(process.pid)
    assert (status["Uid"], status["NoNewPrivs"]) == (str(UID), "1")
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {
        1 << CAP_NET_ADMIN
    }
    own.serve(edge, "http", 9081)
    own.add_edge(edge)
    own.map_port("9081=10264")
    # Over nftables, and over a route of ours: the cloud has none to the factory's network.
    assert curl_json(cloud, f"http://{EDGE_1}:9081/")["machine"] == "edge-1"
    assert "table inet edge-tunnel" in cloud.run(["nft", "list", "ruleset"]).stdout
    # root's tunnelctl changes the state, and the server still reads it; so do its own writes.
    assert own.join(own.topology.edge(2), own.join_line("edge-2", "192.168.2.144")).returncode == 0
    assert {path.stat().st_uid for path in own.state.iterdir()} == {UID}
    own.kill("server", 15)
    assert cloud.run(["nft", "list", "ruleset"]).stdout == ""
    with pytest.raises(OSError, match=r"unreachable|timed out"):
        dial(cloud, (EDGE_1, 9081), timeout=1)


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    words = [(name, rest.split()) for name, _, rest in (line.partition(":") for line in lines)]
    return {name: values[0] for name, values in words if values}
