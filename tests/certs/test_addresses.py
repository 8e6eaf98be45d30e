"""Which addresses an edge may claim."""

import os
import socket
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.addresses import (
    DEFAULT_EDGE_NETWORKS,
    check_edge_address,
    embedded_ipv4,
    format_endpoint,
    is_own_address,
    never_dialled,
    parse_address,
    parse_endpoint,
    unmapped,
)
from tests.e2e.shortage import descriptors

EVERYTHING = [ip_network("0.0.0.0/0"), ip_network("::/0")]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [("192.168.2.143", "192.168.2.143"), (" 10.0.0.1 ", "10.0.0.1"), ("FD00:0::0001", "fd00::1")],
)
def test_addresses_have_one_form(text, canonical):
    assert str(parse_address(text)) == canonical


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not an IP"),
        ("192.168.2", "not an IP"),
        ("192.168.02.1", "not an IP"),
        ("192.168.2.0/24", "not an IP"),
        ("edge-1", "not an IP"),
        ("fe80::1%eth0", "zone"),
        ("::ffff:192.168.2.143", "write 192.168.2.143"),
    ],
)
def test_not_addresses(text, why):
    with pytest.raises(ValueError, match=why):
        parse_address(text)


@pytest.mark.parametrize("text", ["192.168.2.143", "10.0.0.1", "172.31.255.1", "100.64.0.9", "fd12:3456::1"])
def test_private_addresses_are_edges_by_default(text):
    check_edge_address(ip_address(text), DEFAULT_EDGE_NETWORKS)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("127.0.0.1", "loopback"),
        ("127.8.8.8", "loopback"),
        ("::1", "loopback"),
        ("169.254.1.1", "link-local"),
        ("fe80::1", "link-local"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("255.255.255.255", "broadcast"),
        ("::ffff:127.0.0.1", "IPv4 in IPv6"),
        ("::ffff:192.168.2.1", "IPv4 in IPv6"),
    ],
)
def test_never_an_edge_whatever_the_networks(text, why):
    with pytest.raises(ValueError, match=why):
        check_edge_address(ip_address(text), EVERYTHING)


def test_outside_the_networks_names_them_and_the_remedy():
    with pytest.raises(ValueError, match=r"8\.8\.8\.8 is outside.*192\.168\.0\.0/16.*edge-networks"):
        check_edge_address(ip_address("8.8.8.8"), DEFAULT_EDGE_NETWORKS)


def test_own_addresses():
    assert is_own_address(ip_address("127.0.0.1"))
    assert not is_own_address(ip_address("192.0.2.77"))
    assert not is_own_address(ip_address("2001:db8::77"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.77", 9))
        except OSError:
            return  # no route out of this machine: it has no other address to ask about
        assert is_own_address(ip_address(probe.getsockname()[0]))


def test_without_a_descriptor_nobody_knows_whose_an_address_is():
    with descriptors(os.getpid()), pytest.raises(OSError, match="Too many open files"):
        is_own_address(ip_address("127.0.0.1"))


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("tunnel.example.org", ("tunnel.example.org", 10262)),
        ("Tunnel.Example.org:443", ("tunnel.example.org", 443)),
        ("203.0.113.5:1", ("203.0.113.5", 1)),
        ("203.0.113.5", ("203.0.113.5", 10262)),
        ("[2001:DB8::1]:65535", ("2001:db8::1", 65535)),
        ("[2001:db8::1]", ("2001:db8::1", 10262)),
        ("2001:db8::1", ("2001:db8::1", 10262)),
    ],
)
def test_endpoints(text, endpoint):
    assert parse_endpoint(text, 10262) == endpoint
    assert parse_endpoint(format_endpoint(*endpoint), 1) == endpoint


@pytest.mark.parametrize(
    "text",
    ["", ":1", "a:", "a:0", "a:65536", "a:x", "a:1:2", "[::1", "[::1]1", "[a]:1", "a b:1", "1.2.3:1",
     "1.2.3.4.5", "https://a", "a:٣", "a:-1", "a/b"],
)  # fmt: skip
def test_not_endpoints(text):
    with pytest.raises(ValueError, match=r"."):
        parse_endpoint(text, 10262)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [("Edge-1.:80", ("edge-1.", 80)), ("edge-1.example.org.", ("edge-1.example.org.", 10262))],
)
def test_a_final_dot(text, endpoint):
    assert parse_endpoint(text, 10262, final_dot=True) == endpoint
    with pytest.raises(ValueError, match="not an endpoint"):
        parse_endpoint(text, 10262)


@pytest.mark.parametrize("text", [".", "..", "edge-1..", ".edge-1", "1.2.3.4.", "5."])
def test_not_a_final_dot(text):
    with pytest.raises(ValueError, match=r"."):
        parse_endpoint(text, 10262, final_dot=True)


@given(st.text() | st.from_regex(r"[A-Za-z0-9.:-]{1,20}", fullmatch=True), st.booleans())
def test_an_endpoint_is_refused_or_survives(text, final_dot):
    try:
        endpoint = parse_endpoint(text, 1, final_dot=final_dot)
    except ValueError:
        return
    assert parse_endpoint(format_endpoint(*endpoint), 2, final_dot=final_dot) == endpoint


def test_unmapped() -> None:
    assert unmapped(ip_address("::ffff:127.0.0.1")) == ip_address("127.0.0.1")
    assert unmapped(ip_address("2001:db8::1")) == ip_address("2001:db8::1")


IN_IPV6 = ["::{}", "::ffff:{}", "::ffff:0:{}", "64:ff9b::{}", "64:ff9b:1::{}", "64:ff9b:1:ab:cd:ef:{}"]


def forms(ipv4: str) -> list[str]:
    """What an IPv4 address looks like to translators and tunnels."""
    a, b, c, d = ip_address(ipv4).packed
    return [
        *(form.format(ipv4) for form in IN_IPV6),
        f"64:ff9b:1:{a:02x}{b:02x}:{c:04x}:{d << 8:04x}::",  # /48
        f"64:ff9b:1:ff{a:02x}:{b:04x}:{c:02x}{d:02x}::",  # /56
        f"64:ff9b:1:ffff:{a:04x}:{b:02x}{c:02x}:{d << 8:04x}:0",  # /64
        f"2002:{a:02x}{b:02x}:{c:02x}{d:02x}::1",
        f"2001:0:5db8:d822:8000:63bf:{0xFFFF ^ (a << 8 | b):04x}:{0xFFFF ^ (c << 8 | d):04x}",
    ]


@given(st.ip_addresses(v=4).filter(lambda address: address.packed[0] > 0))
def test_what_translators_and_tunnels_make_of_an_address(ipv4):
    for form in forms(str(ipv4)):
        assert ipv4 in embedded_ipv4(ip_address(form)), form


@pytest.mark.parametrize(
    "text",
    ["::", "::1", "10.0.0.1", "2001:db8::7f00:1", "fd00::a9fe:a9fe", "64:ff9b:2::7f00:1", "2003:7f00:1::"],
)
def test_others_stand_for_themselves(text):
    assert embedded_ipv4(ip_address(text)) == ()


@pytest.mark.parametrize("form", forms("169.254.169.254"))
def test_a_special_address_in_ipv6_form_is_never_dialled(form):
    why = never_dialled(ip_address(form))
    assert why is not None
    assert why.endswith("stands for 169.254.169.254, a cloud metadata service")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0.0.0.0", "not the address of one machine"),
        ("ff02::1", "not the address of one machine"),
        ("64:ff9b::127.0.0.1", "stands for 127.0.0.1, a loopback address"),
        ("2002:7f01:203::", "stands for 127.1.2.3, a loopback address"),
        ("::169.254.7.7", "stands for 169.254.7.7, a link-local address"),
        ("64:ff9b::224.0.0.1", "stands for 224.0.0.1, which is not the address of one machine"),
    ],
)
def test_what_nobody_may_dial(text, why):
    assert why in (never_dialled(ip_address(text)) or "")


@pytest.mark.parametrize(
    "text", ["::1", "127.0.0.1", "10.0.0.1", "fe80::1", "2001:db8::1", *forms("198.51.100.7")]
)
def test_what_a_rule_may_open(text):
    assert never_dialled(ip_address(text)) is None
