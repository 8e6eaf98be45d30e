"""What can never work is refused before anything is tried."""

from ipaddress import ip_address, ip_network

import pytest

from tunnel_server.intercept.config import InterceptConfig

V4, V6 = ip_network("10.0.0.0/8"), ip_network("fd00::/8")


def test_serving_by_family():
    config = InterceptConfig(
        caller_networks=(V4, V6),
        prerouting_address4=ip_address("10.1.1.1"),
        prerouting_address6=ip_address("fd00::1"),
    )
    assert list(config.prerouting()) == [
        (ip_address("10.1.1.1"), (V4,)),
        (ip_address("fd00::1"), (V6,)),
    ]
    assert list(InterceptConfig(prerouting_address4=ip_address("10.1.1.1")).prerouting()) == []


def test_callers_without_an_address_to_serve_them_at():
    with pytest.raises(
        ValueError, match=r"caller-networks names fd00::/8, but .* prerouting-address for IPv6"
    ):
        InterceptConfig(caller_networks=(V4, V6), prerouting_address4=ip_address("10.1.1.1"))


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "224.0.0.1", "169.254.0.1"])
def test_addresses_that_no_other_machine_reaches(address):
    with pytest.raises(ValueError, match="cannot be reached by callers"):
        InterceptConfig(caller_networks=(V4,), prerouting_address4=ip_address(address))


@pytest.mark.parametrize("mark", [0, 1 << 32])
def test_marks_that_are_none(mark):
    with pytest.raises(ValueError, match="not a packet mark"):
        InterceptConfig(mark=mark)
