"""Ports come and go without disturbing what runs, and only edge addresses are touched."""

import socket

import pytest

from tests.e2e.network import accept, dial, listen
from tests.e2e.system import EDGE_1, System, curl, curl_json

OTHER = "203.0.113.20"


def test_a_mapping_comes_and_goes_while_a_transfer_on_another_goes_on(system: System) -> None:
    edge, cloud = system.topology.edge(1), system.topology.cloud
    system.map_port("9091=10264")
    with (
        listen(edge, ("0.0.0.0", 9091)) as one,
        listen(edge, ("0.0.0.0", 9092)) as two,
        dial(cloud, (EDGE_1, 9091)) as caller,
        accept(one) as served,
    ):
        _exchange(caller, served)
        with pytest.raises(OSError, match=r"unreachable|No route|refused"):
            dial(cloud, (EDGE_1, 9092))
        system.map_port("9092=10264")
        _exchange(caller, served)
        with dial(cloud, (EDGE_1, 9092)) as other, accept(two) as other_served:
            _exchange(other, other_served)
            system.map_port("9092=10264", "--remove")
            _exchange(other, other_served)
            _exchange(caller, served)
        with pytest.raises(OSError, match=r"unreachable|No route|refused"):
            dial(cloud, (EDGE_1, 9092))
        system.map_port("9091=10264", "--remove")
        _exchange(caller, served)


def test_a_non_edge_address_on_a_mapped_port_is_untouched(system: System) -> None:
    with (
        listen(system.topology.host("other"), ("0.0.0.0", 9081)) as target,
        dial(system.topology.cloud, (OTHER, 9081)) as caller,
    ):
        served, (address, _) = target.accept()
        served.close()
        assert address == system.topology.cloud.address
        assert caller.getpeername() == (OTHER, 9081)


def test_a_host_that_is_no_edge_in_the_edges_network_is_untouched(system: System) -> None:
    """192.168.2.1 is the router: an address in the same network that no edge has claimed."""
    refused = curl(system.topology.cloud, "--max-time", "20", "http://192.168.2.1:9081/")
    assert refused.returncode == 7, f"the call was captured: {refused.stderr}"


def test_this_hosts_own_port_is_untouched(system: System) -> None:
    with (
        listen(system.topology.cloud, ("203.0.113.10", 9081)) as target,
        dial(system.topology.cloud, ("203.0.113.10", 9081)),
    ):
        target.accept()[0].close()


def test_a_bad_mapping_costs_one_line_and_changes_nothing(system: System) -> None:
    before = system.ctl("map-port", "--list")
    for bad in ["9081=10999", "http=10264", "0=10264", "70000=10264", "10262=10264"]:
        done = system.try_ctl("map-port", bad)
        assert done.returncode != 0, bad
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert "Traceback" not in done.stderr
    assert system.ctl("map-port", "--list") == before
    assert curl_json(system.topology.cloud, f"http://{EDGE_1}:9081/")["machine"] == "edge-1"


def _exchange(one: socket.socket, other: socket.socket) -> None:
    for here, there in [(one, other), (other, one)]:
        here.sendall(b"still here")
        assert there.recv(10, socket.MSG_WAITALL) == b"still here"
