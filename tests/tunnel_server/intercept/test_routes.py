"""What routing says of an address, and routes of our own."""

import os
from ipaddress import ip_address

import pytest

from tests.tunnel_server.intercept.netns import namespaces
from tunnel_server.intercept.routes import Reach, Routes, never_capturable

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root")

EDGE4, EDGE6 = ip_address("192.168.2.143"), ip_address("fd00:2::143")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.1.2.3", "loopback"), ("::1", "loopback"), ("169.254.1.1", "link-local"),
        ("fe80::1", "link-local"),
        ("224.0.0.1", "multicast"), ("ff02::1", "multicast"), ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"), ("255.255.255.255", "broadcast"),
    ],
)  # fmt: skip
def test_what_no_edge_can_have(address, reason):
    assert never_capturable(ip_address(address)) == reason


@pytest.mark.parametrize("address", ["::ffff:10.0.0.1", "fd00::1%eth0"])
def test_what_is_no_address_of_its_own(address):
    assert "not an address of its own" in never_capturable(ip_address(address))


@pytest.mark.parametrize("address", ["10.0.0.1", "192.168.2.143", "8.8.8.8", "fd00::1", "2001:db8::1"])
def test_what_an_edge_can_have(address):
    assert never_capturable(ip_address(address)) is None


def test_where_addresses_lead():
    expected = {
        "10.77.0.1": Reach.LOCAL, "10.77.0.9": Reach.ELSEWHERE, "10.77.0.255": Reach.BROADCAST,
        "10.88.0.1": Reach.NOWHERE, "10.89.0.1": Reach.NOWHERE, "192.168.2.143": Reach.NOWHERE,
        "fd77::1": Reach.LOCAL, "fd77::9": Reach.ELSEWHERE, "fd00:2::143": Reach.NOWHERE,
    }  # fmt: skip
    with namespaces("host") as (host,):
        host.sh(
            "ip link add v0 type veth peer name v1", "ip link set v0 up", "ip link set v1 up",
            "ip addr add 10.77.0.1/24 broadcast 10.77.0.255 dev v0", "ip addr add fd77::1/64 dev v0 nodad",
            "ip route add unreachable 10.88.0.0/16", "ip route add blackhole 10.89.0.0/16",
        )  # fmt: skip
        routes = host.run(Routes)
        found = routes.look_up([ip_address(address) for address in expected])
        routes.close()
    assert {str(address): reach for address, reach in found.items()} == expected


def test_routes_are_added_recognised_and_removed():
    with namespaces("host") as (host,):
        routes = host.run(Routes)
        host.sh("ip route add 203.0.113.1/32 dev lo")
        assert host.run(lambda: routes.add([EDGE4, EDGE6])) == []
        assert routes.look_up([EDGE4, EDGE6]) == {EDGE4: Reach.ELSEWHERE, EDGE6: Reach.ELSEWHERE}
        assert routes.leftovers() == routes.added == {EDGE4, EDGE6}
        assert routes.remove([EDGE4, ip_address("203.0.113.1")]) == [EDGE4]
        assert routes.leftovers() == {EDGE6}
        host.sh("ip -6 route flush proto 126")
        assert routes.remove([EDGE6]) == []  # somebody else was faster
        assert routes.added == set()
        assert "203.0.113.1" in host.sh("ip route show")
        routes.close()


def test_what_cannot_be_added_says_why():
    with namespaces("host") as (host,):
        host.sh("ip route add unreachable 192.168.2.143/32")
        routes = host.run(Routes)
        (refusal,) = host.run(lambda: routes.add([EDGE4]))
        assert "remove that route" in refusal.reason
        host.sh("ip link set lo down")
        (refusal,) = host.run(lambda: routes.add([ip_address("10.1.1.1")]))
        assert "ip link set lo up" in refusal.reason
        assert routes.added == set()
        routes.close()
