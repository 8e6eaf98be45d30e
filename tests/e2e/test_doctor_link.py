"""`tunnelctl doctor` names what stands between a server and an agent, and between a caller and an address."""

import signal
from collections.abc import Callable

import pytest

from tests.e2e.clock import clock, missing_clock
from tests.e2e.doctor import Doctor
from tests.e2e.system import BIN, EDGE_1, System, curl

NAT = "203.0.113.11"
"""What the server sees of every edge."""

needs_clock = pytest.mark.skipif(bool(missing_clock()), reason=missing_clock())


@pytest.fixture(scope="module")
def own(deploy_for_module: Callable[..., System]) -> System:
    """One edge with its service, 9081 mapped. Each test leaves it linked."""
    made = deploy_for_module()
    made.start_server()
    made.serve(made.topology.edge(1), "http", 9081)
    made.add_edge(made.topology.edge(1))
    made.map_port("9081=10264")
    return made


@pytest.mark.parametrize(
    ("signum", "said"),
    [(signal.SIGTERM, "the other end closed the link"), (signal.SIGKILL, "the connection was cut")],
)
def test_an_agent_that_ended(own: System, signum: int, said: str) -> None:
    own.kill("edge-1", signum)
    own.until(lambda: not own.connected(), "server")
    found = Doctor(own, "edge-1", "9081")
    own.start_agent(own.topology.edge(1))
    own.wait_ready("edge-1")
    assert (found.code, found.failed) == (1, ["link"]), found.checks
    assert f"its link from {NAT} ended: {said}" in found.told("link")
    assert "systemctl status tunnel-agent" in found.told("link")
    assert found.skipped == ["heartbeat", "dial"]


def test_a_server_that_is_away_and_one_that_has_just_come(own: System) -> None:
    own.kill("edge-1")
    own.kill("server")
    away = Doctor(own, "edge-1")
    own.start_server()
    fresh = Doctor(own, "edge-1")
    own.start_agent(own.topology.edge(1))
    own.wait_ready("edge-1")
    assert (away.code, away.failed) == (1, ["server"])
    assert (fresh.code, fresh.failed) == (1, ["link"])
    assert "since the server started" in fresh.told("link")


def test_a_network_that_the_server_does_not_allow(own: System) -> None:
    own.configure(edge_networks=["10.0.0.0/8"])
    own.hang_up()
    own.until(lambda: not own.nodes()["edge-1"]["captured"], "server")
    found = Doctor(own, "edge-1", "9081")
    own.configure(edge_networks=["192.168.0.0/16"])
    own.hang_up()
    own.wait_ready("edge-1")
    assert (found.code, found.failed) == (1, ["address"]), found.checks
    assert f"{EDGE_1} is not captured: outside the edge networks (10.0.0.0/8)" in found.told("address")


def test_a_configuration_that_is_not_in_force(own: System) -> None:
    own.configure(http_proxy_ports="9081, http")
    own.hang_up()
    own.until(lambda: own.status()["mapping_problems"], "server")
    found = Doctor(own, "edge-1", "9081")
    own.configure(http_proxy_ports="")
    own.hang_up()
    assert (found.code, found.failed) == (0, []), found.checks
    assert '"http"' in found.checks[0]["text"]


def test_a_route_that_forbids(own: System) -> None:
    cloud = own.topology.cloud
    assert cloud.run(["ip", "route", "add", "unreachable", EDGE_1]).returncode == 0
    found = Doctor(own, "edge-1", "9081")
    cloud.run(["ip", "route", "del", "unreachable", EDGE_1])
    assert (found.code, found.failed) == (1, ["address"]), found.checks
    assert "this host has no route to it" in found.told("address")


def test_somebody_elses_flush(own: System) -> None:
    """The kernel keeps our table, or the server puts it back and doctor says so: callers get through."""
    assert own.topology.cloud.run(["nft", "flush", "ruleset"]).returncode == 0
    own.within(6, lambda: curl(own.topology.cloud, f"http://{EDGE_1}:9081/").returncode == 0, "server")
    restored = own.status()["interception"]["restored"]
    found = Doctor(own, "edge-1", "9081")
    assert (found.code, found.failed) == (0, []), found.checks
    assert any("put back" in check["text"] for check in found.checks) == bool(restored)


def test_an_edge_that_has_another_address_now(own: System) -> None:
    edge = own.topology.edge(1)
    own.kill("edge-1")
    _readdress(own, EDGE_1, "192.168.2.150")
    own.start_agent(edge)
    own.wait_ready("edge-1")
    found = Doctor(own, "edge-1", "9081")
    own.kill("edge-1")
    _readdress(own, "192.168.2.150", EDGE_1)
    own.start_agent(edge)
    own.wait_ready("edge-1")
    assert (found.code, found.failed) == (1, ["dial"]), found.checks
    assert "not-on-this-node" in found.told("dial")
    assert "tunnelctl token create --node edge-1" in found.told("dial")


def _readdress(system: System, before: str, after: str) -> None:
    for words in (
        f"addr del {before}/24 dev lan",
        f"addr add {after}/24 dev lan",
        "route add default via 192.168.2.1",
    ):
        assert system.topology.edge(1).run(["ip", *words.split()]).returncode == 0, words


@needs_clock
def test_a_clock_that_is_off_by_little(own: System) -> None:
    own.kill("edge-1")
    own.until(lambda: not own.connected(), "server")
    own.start_agent(own.topology.edge(1), env=clock("-3m"))
    own.wait_ready("edge-1")
    found = Doctor(own, "edge-1")
    own.kill("edge-1")
    own.start_agent(own.topology.edge(1))
    own.wait_ready("edge-1")
    assert (found.code, found.failed) == (0, []), found.checks
    said, later = (
        next(each for each in doctor.checks if each["name"] == "link")
        for doctor in (found, Doctor(own, "edge-1"))
    )
    assert (said["state"], later["state"]) == ("warning", "ok")
    assert "its clock was 3m" in said["text"]
    assert "behind the server's when it linked" in said["text"]


@needs_clock
@pytest.mark.parametrize(
    ("shift", "finds", "remedy"),
    [("-2d", "not valid yet", "it may be behind"), ("+400d", "expired", "it may be ahead")],
)
def test_an_agent_whose_clock_is_wrong(own: System, shift: str, finds: str, remedy: str) -> None:
    own.kill("edge-1")
    own.until(lambda: not own.connected(), "server")
    own.start_agent(own.topology.edge(1), env=clock(shift))
    found = own.until(lambda: finds in (found := Doctor(own, "edge-1")).told("link") and found, "edge-1")
    own.kill("edge-1")
    own.start_agent(own.topology.edge(1))
    own.wait_ready("edge-1")
    assert (found.code, found.failed) == (1, ["link"]), found.checks
    assert f"an agent at {NAT}, where it was linked from, finds the server's certificate" in found.told(
        "link"
    )
    assert remedy in found.told("link")


@needs_clock
@pytest.mark.parametrize(
    ("shift", "said"), [("+120d", "expired"), ("-2d", "valid from")], ids=["expired", "not yet valid"]
)
def test_a_certificate_that_the_servers_clock_refuses(own: System, shift: str, said: str) -> None:
    own.kill("edge-1")  # or it would wait ever longer between its tries
    own.kill("server")
    argv = [BIN / "tunnel-server", "--config", own.directory / "server.toml"]
    own.start("server", own.topology.cloud, *argv, env=clock(shift))
    own.until(own.answers, "server")
    found = Doctor(own, "edge-1", "9081")
    own.kill("server")
    own.start_server()
    own.start_agent(own.topology.edge(1))
    own.wait_ready("edge-1")
    assert (found.code, found.failed) == (1, ["certificate"]), found.checks
    assert said in found.told("certificate")
    assert "the server's clock says" in found.told("certificate")
    assert "set it (NTP)" in found.told("certificate")
    assert found.skipped == ["link", "heartbeat", "dial"]
