"""The last release's agent and server work with this tree's: one of the two is always upgraded first."""

import signal
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import tunnel_wire
from tests.e2e.network import rebind
from tests.e2e.system import CLOUD, EDGE_1, System, curl_json
from tests.e2e.transfers import Transfers

RELEASES = Path(__file__).parents[1] / "releases"
KINDS = {"download": 2, "upload": 2, "ssh": 1, "websocket": 1, "half-closed": 1}
SECONDS = 6
"""Of the transfers: all that happens is over by then, on an idle machine."""


@pytest.fixture
def released(tmp_path: Path) -> tuple[str, dict[str, str]]:
    """The release's version, and the variables with which our programs are its."""
    (wheel,) = RELEASES.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "released")
    return wheel.name.split("-")[1], {"PYTHONPATH": str(tmp_path / "released")}


@pytest.mark.parametrize("old", ["server", "agent"])
def test_with_the_last_release(
    deploy: Callable[..., System], released: tuple[str, dict[str, str]], old: str
) -> None:
    """Joins, carries, resumes, renews, is drained and upgraded: no byte is lost."""
    version, variables = released
    theirs, ours = (variables, {}) if old == "server" else ({}, variables)
    versions = {"server": tunnel_wire.__version__, "agent": tunnel_wire.__version__, old: version}
    assert versions["server"] != versions["agent"], "the tree's version is to be the next one"
    own = deploy()
    own.environment = theirs
    own.ctl("init", "--state-dir", own.directory / "released-state", "--cert-ips", CLOUD)
    own.state = own.directory / "released-state"
    own.start_server(**{"state-dir": own.state, "limits.drain-timeout": 30})
    edge, nat = own.topology.edge(1), own.topology.host("nat")
    joined = own.join(edge, own.join_line(edge.name, edge.address), env=ours)
    assert joined.returncode == 0, joined.stderr
    own.start_agent(edge, env=ours, refresh_interval=1, backoff_max=1)
    own.wait_ready(edge.name)
    assert own.status()["version"] == versions["server"]
    assert own.nodes()[edge.name]["agent_version"] == versions["agent"]

    transfers = Transfers(own, KINDS, SECONDS)
    transfers.start()
    every = sum(KINDS.values())
    own.until(lambda: own.nodes()[edge.name]["open_calls"] == every, "server", edge.name)
    own.until(lambda: min(transfers.arrived()) > 0, "server", edge.name)
    rebind(nat, nat.address, elsewhere := "203.0.113.12")
    own.until(lambda: elsewhere in own.nodes()[edge.name]["remote_address"], "server", edge.name)
    own.until(lambda: own.nodes()[edge.name]["open_calls"] == every, "server", edge.name)

    for step in ("start", "switch"):
        own.until(
            lambda step=step: own.try_ctl("ca", "roll", step, "--state-dir", own.state).returncode == 0,
            "server",
        )
    own.until(lambda: "has renewed this agent's certificate" in own.log(edge.name), "server", edge.name)

    own.processes["server"].send_signal(signal.SIGTERM)
    own.until(lambda: "retires this link: shutdown" in own.log(edge.name), "server", edge.name)
    assert transfers.open() > 0, "they were over before all had happened"
    transfers.finish()
    own.until(lambda: "server" in own.processes.ended(), "server")
    assert own.kill("server") == 0

    # The upgrade: this tree's server finds the state of the last one.
    own.environment = {}
    own.start_server()
    own.wait_ready(edge.name)
    assert own.status()["version"] == tunnel_wire.__version__
    assert curl_json(own.topology.cloud, f"http://{EDGE_1}:9081/")["machine"] == edge.name
    assert "Traceback" not in own.log("server") + own.log(edge.name)
