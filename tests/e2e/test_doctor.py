"""`tunnelctl doctor` names the step that fails, for each failure that the other end-to-end tests make."""

import shutil
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.doctor import Doctor
from tests.e2e.network import dropping
from tests.e2e.system import EDGE_1, System

DIAL_TIMEOUT = 1.0


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
    assert (found.code, found.failed) == (0, []), found.checks
    names = [check["name"] for check in found.checks]
    assert names == [
        "server", "name", "token", "certificate", "link", "heartbeat", "address", "port", "dial"
    ]  # fmt: skip
    assert {check["state"] for check in found.checks} == {"ok"}


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
    assert (found.code, found.failed) == (1, [step]), found.checks
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
    assert (found.code, found.failed) == (1, ["name"])
    assert "did you mean edge-1?" in found.told("name")
    targets.join_line("edge-12", "192.168.2.150")
    found = Doctor(targets, "edge-12")
    assert (found.code, found.failed) == (1, ["token"])
    assert "not used yet" in found.told("token")
    targets.join_line("edge-13", "192.168.2.151", ttl="1s")
    targets.until(lambda: "before it was used" in Doctor(targets, "edge-13").told("token"))


def test_json_tells_what_the_text_does(targets: System) -> None:
    for words in (["edge-1", "9082"], ["edge-1", "9085"], ["edge-11"]):
        found = Doctor(targets, *words)
        text = found.ask_in_words()
        signs = {"ok": "✓", "failed": "✗", "warning": "!", "skipped": "-"}
        stated = [line.split()[:2] for line in text.splitlines() if "->" not in line]
        assert stated == [[signs[check["state"]], check["name"]] for check in found.checks]
        for check in found.checks:
            assert (check["state"] == "failed") == bool(check["remedy"]), check
            assert f"-> {check['remedy']}\n" in text or not check["remedy"]


def test_a_server_that_was_set_up_anew(deploy: Callable[..., System]) -> None:
    own = deploy()
    own.start_server()
    own.add_edge(own.topology.edge(1))
    own.kill("server")
    own.state.rename(own.directory / "lost")
    own.init()
    own.start_server()
    own.join_line("edge-1", EDGE_1)  # the operator begins anew; the edge knows nothing of it
    found = Doctor(own, "edge-1")
    assert (found.code, found.failed) == (1, ["token"])
    assert "not used yet" in found.told("token")


def test_a_revoked_node(deploy: Callable[..., System]) -> None:
    own = deploy()
    own.start_server()
    own.add_edge(own.topology.edge(1))
    own.ctl("revoke", "edge-1", "--state-dir", own.state)
    own.until(lambda: not own.connected(), "server")
    found = Doctor(own, "edge-1")
    assert (found.code, found.failed) == (1, ["certificate"]), found.checks
    assert "was revoked at" in found.told("certificate")


def test_a_cloned_certificate(deploy: Callable[..., System]) -> None:
    own = deploy()
    own.start_server()
    original, clone = own.topology.edge(1), own.topology.edge(2)
    own.add_edge(original)
    shutil.copytree(own.agent_state(original), own.agent_state(clone))
    own.start_agent(clone)
    found = own.until(lambda: (found := Doctor(own, "edge-1")).failed and found, "server", "edge-2")
    assert found.failed == ["link"], found.checks
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
        assert (found.code, found.failed) == (1, ["address"]), found.checks
        assert f"{EDGE_1} is claimed by {rival} (connected) too" in found.told("address")
        assert f"tunnelctl port-forward {name}" in found.told("address")
    own.ctl("revoke", "edge-2", "--state-dir", own.state)
    own.until(lambda: own.connected() == {"edge-1"}, "server")
    freed = own.until(lambda: (found := Doctor(own, "edge-1")).code == 0 and found, "server")
    assert freed.failed == []
    found = Doctor(own, "edge-2")
    assert (found.failed, found.skipped) == (["certificate"], ["link", "heartbeat", "address"]), found.checks
    own.ctl("nodes", "forget", "edge-2")
    found = Doctor(own, "edge-2")
    assert (found.code, found.failed) == (1, ["token"])
    assert "the node was forgotten since" in found.told("token")
