"""`tunnelctl doctor` names the step that fails, for each failure that the other end-to-end tests make."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.network import dropping
from tests.e2e.system import BIN, EDGE_1, System

DIAL_TIMEOUT = 1.0


class Doctor:
    """What doctor found, and its exit code."""

    def __init__(self, system: System, *words: str) -> None:
        argv = [BIN / "tunnelctl", "doctor", *words, "--admin-socket", system.admin]
        done = system.topology.cloud.run([*argv, "--json"])
        assert done.stderr == ""
        self.code = done.returncode
        self.checks: list[dict[str, Any]] = json.loads(done.stdout)["checks"]
        self.text = system.topology.cloud.run(argv).stdout

    @property
    def failed(self) -> list[str]:
        """The names of the steps that failed."""
        return [check["name"] for check in self.checks if check["state"] == "failed"]

    def told(self, name: str) -> str:
        """What is said of the first failure of that name, and its remedy."""
        check = next(each for each in self.checks if each["name"] == name and each["state"] == "failed")
        assert check["remedy"], check
        return f"{check['text']} -> {check['remedy']}"


@pytest.fixture(scope="module")
def targets(deploy_for_module: Callable[..., System]) -> Iterator[System]:
    """One edge that allows only some ports, gives up a dial soon, and has one port that answers nothing."""
    made = deploy_for_module()
    made.start_server()
    edge = made.topology.edge(1)
    made.serve(edge, "http", 9081)
    made.add_edge(edge, allow=["node:9081-9083", "loopback:*"], dial_timeout=DIAL_TIMEOUT)
    for port in (9081, 9082, 9083, 9084):
        made.map_port(f"{port}=10264")
    with dropping(edge, f"ip daddr {EDGE_1} tcp dport 9083", hook="input"):
        yield made


def test_a_sound_path(targets: System) -> None:
    found = Doctor(targets, "edge-1", "9081")
    assert (found.code, found.failed) == (0, []), found.text
    names = [check["name"] for check in found.checks]
    assert names == [
        "server", "name", "token", "certificate", "link", "heartbeat", "address", "port", "dial"
    ]  # fmt: skip
    assert all(line.startswith("✓ ") for line in found.text.splitlines())


@pytest.mark.parametrize(
    ("port", "step", "words"),
    [
        (9082, "dial", ["refused", "nothing listens there"]),
        (9083, "dial", ["timed-out", "firewall"]),
        (9084, "allow-list", ["not-allowed", "`allow` in the edge's agent.toml"]),
    ],
)
def test_a_target_that_fails(targets: System, port: int, step: str, words: list[str]) -> None:
    found = Doctor(targets, "edge-1", str(port))
    assert (found.code, found.failed) == (1, [step]), found.text
    for word in words:
        assert word in found.told(step)


def test_a_port_that_is_not_mapped(targets: System) -> None:
    found = Doctor(targets, "edge-1", "9085")
    assert found.code == 1
    assert found.failed[0] == "port"
    assert "tunnelctl map-port 9085=10264" in found.told("port")


def test_a_service_on_the_edges_loopback_only(targets: System) -> None:
    # 9082 answers nowhere but on 127.0.0.1.
    edge = targets.topology.edge(1)
    program = "import socket, time; s = socket.create_server(('127.0.0.1', 9082)); time.sleep(60)"
    targets.start("loopback", edge, sys.executable, "-c", program)
    targets.until(lambda: "0100007F:237A" in edge.run(["cat", "/proc/net/tcp"]).stdout, "loopback")
    told = Doctor(targets, "edge-1", "9082").told("dial")
    targets.kill("loopback")
    assert "own loopback only" in told
    assert "localhost-proxy-ports" in told


def test_names_that_are_no_node(targets: System) -> None:
    found = Doctor(targets, "edge-11")
    assert (found.code, found.failed) == (1, ["name", "token"])
    assert "did you mean edge-1?" in found.told("name")
    targets.join_line("edge-12", "192.168.2.150")
    found = Doctor(targets, "edge-12")
    assert "not used yet" in found.told("token")
    targets.join_line("edge-13", "192.168.2.151", ttl="1s")
    targets.until(lambda: "before it was used" in Doctor(targets, "edge-13").told("token"))


def test_an_agent_that_is_away(deploy: Callable[..., System]) -> None:
    own = deploy()
    own.start_server()
    own.add_edge(own.topology.edge(1))
    own.map_port("9081=10264")
    own.kill("edge-1")
    own.until(lambda: not own.connected(), "server", timeout=20)
    found = Doctor(own, "edge-1", "9081")
    assert (found.code, found.failed) == (1, ["link"]), found.text
    assert "last seen" in found.told("link")
    assert "systemctl status tunnel-agent" in found.told("link")
    assert [check["name"] for check in found.checks if check["state"] == "skipped"] == ["heartbeat", "dial"]
    own.kill("server")
    found = Doctor(own, "edge-1")
    assert (found.code, found.failed) == (1, ["server"])


def test_a_revoked_node(deploy: Callable[..., System]) -> None:
    own = deploy()
    own.start_server()
    own.add_edge(own.topology.edge(1))
    own.ctl("revoke", "edge-1", "--state-dir", own.state)
    own.until(lambda: not own.connected(), "server")
    found = Doctor(own, "edge-1")
    assert (found.code, found.failed) == (1, ["certificate", "link"]), found.text
    assert "was revoked at" in found.told("certificate")


def test_a_cloned_certificate(deploy: Callable[..., System]) -> None:
    own = deploy()
    own.start_server()
    original, clone = own.topology.edge(1), own.topology.edge(2)
    own.add_edge(original)
    shutil.copytree(own.agent_state(original), own.agent_state(clone))
    own.start_agent(clone)
    found = own.until(
        lambda: (found := Doctor(own, "edge-1")).failed and found, "server", "edge-2", timeout=20
    )
    assert found.failed == ["link"], found.text
    assert "two machines use the certificate of edge-1" in found.told("link")
    assert "a token of its own" in found.told("link")


def test_an_address_that_two_nodes_claim(deploy: Callable[..., System]) -> None:
    own = deploy()
    own.start_server()
    edge, other = own.topology.edge(1), own.topology.edge(2)
    own.add_edge(edge)
    joined = own.join(other, own.join_line("edge-2", EDGE_1))
    assert joined.returncode == 0, joined.stderr
    own.start_agent(other)
    own.until(lambda: "edge-2" in own.connected(), "server", "edge-2")
    for name, rival in (("edge-1", "edge-2"), ("edge-2", "edge-1")):
        found = Doctor(own, name)
        assert (found.code, found.failed) == (1, ["address"]), found.text
        assert f"{EDGE_1} is claimed by {rival} too" in found.told("address")
        assert f"tunnelctl port-forward {name}" in found.told("address")
