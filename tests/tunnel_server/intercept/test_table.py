"""The table is, letter for letter, what its docstring says: as the nft program reads it back."""

import errno
import os
import shutil
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tunnel_server.intercept.netns import namespaces
from tunnel_server.intercept import table
from tunnel_server.intercept.config import InterceptConfig
from tunnel_server.intercept.messages import DELSETELEM, NEWSETELEM
from tunnel_server.intercept.netlink import NETLINK_NETFILTER, NetlinkError, NetlinkSocket

real = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="plays the operator with nft (package nftables)"),
]


def with_marks(function):
    for mark in real:
        function = mark(function)
    return function


def listed(config: InterceptConfig, elements) -> str:
    with namespaces("host") as (host,):
        sock = host.run(lambda: NetlinkSocket(NETLINK_NETFILTER))
        with sock:
            sock.transact([*table.build(config, port=77, owned=False), *elements])
            text = " ".join(host.sh("nft --numeric-priority list ruleset").split())
            # What `tcp dport` implies only nft before 1.1 writes out. Without it, either says `th dport`.
            return text.replace("meta l4proto tcp ", "")


@with_marks
def test_without_caller_networks():
    text = listed(InterceptConfig(mark=0x1234), [])
    assert text == (
        'table inet edge-tunnel { comment "tunnel-server, netlink port 77" '
        "set edges4 { type ipv4_addr } "
        "set edges6 { type ipv6_addr } "
        "map ports { type inet_service : inet_service } "
        "chain output { type nat hook output priority -105; policy accept; "
        "fib daddr type local return "
        "meta mark 0x00001234 return "
        "ip daddr @edges4 redirect to :tcp dport map @ports "
        "ip6 daddr @edges6 redirect to :tcp dport map @ports } }"
    )


@with_marks
def test_with_caller_networks():
    networks = ("10.0.0.0/24", "10.0.0.128/25", "10.0.1.0/24", "192.168.0.0/16",
        "255.0.0.0/8", "fd00::/64")  # fmt: skip
    config = InterceptConfig(
        caller_networks=tuple(map(ip_network, networks)),
        prerouting_address4=ip_address("10.9.9.9"),
        prerouting_address6=ip_address("fd09::9"),
    )
    text = listed(config, [])
    assert "set callers4-0 { type ipv4_addr flags interval" in text
    assert "elements = { 10.0.0.0/23, 192.168.0.0/16, 255.0.0.0/8 } }" in text
    assert "set callers6-0 { type ipv6_addr flags interval elements = { fd00::/64 } }" in text
    assert text.endswith(
        "chain prerouting { type nat hook prerouting priority -105; policy accept; "
        "fib daddr type local return "
        "ip saddr @callers4-0 ip daddr @edges4 dnat ip to 10.9.9.9:tcp dport map @ports "
        "ip6 saddr @callers6-0 ip6 daddr @edges6 dnat ip6 to [fd09::9]:tcp dport map @ports } }"
    )


def callers(*networks: str, host4: str | None = None, host6: str | None = None) -> InterceptConfig:
    return InterceptConfig(
        caller_networks=tuple(map(ip_network, networks)),
        prerouting_address4=ip_address(host4) if host4 else None,
        prerouting_address6=ip_address(host6) if host6 else None,
    )


@with_marks
def test_callers_change_in_place_from_any_to_any():
    """As if the table had been built so, with what it holds besides left as it is."""
    elements = ([ip_address("10.0.0.1")], {80: 10264})
    configs = [
        callers(),
        callers("10.0.0.0/8", host4="10.9.9.9"),
        callers("10.0.0.0/16", "10.7.0.0/16", host4="10.9.9.8"),
        callers("fd00::/64", host6="fd09::9"),
        callers("10.0.0.0/8", "fd00::/64", host4="10.9.9.9", host6="fd09::9"),
    ]
    with namespaces("host") as (host,), host.run(lambda: NetlinkSocket(NETLINK_NETFILTER)) as sock:

        def build(config: InterceptConfig, change: int) -> str:
            made = table.build(config, port=77, owned=False, change=change)
            sock.transact([*made, *table.difference(((), {}), elements)])
            return host.sh("nft -n list ruleset")

        texts = {config: build(config, 8) for config in configs}
        for old in configs:
            for new in configs:
                build(old, 7)
                if old == new:
                    assert table.change_callers(old, new, 7) == []
                    continue
                for transaction in table.change_callers(old, new, 7):
                    sock.transact(transaction)
                # Sets are listed in the order in which they were made.
                now = host.sh("nft -n list ruleset")
                assert sorted(now.splitlines()) == sorted(texts[new].splitlines())


@with_marks
def test_what_a_failed_change_left_lends_no_callers_to_the_next():
    old, new = callers("10.0.0.0/8", host4="10.9.9.9"), callers("10.1.0.0/16", host4="10.9.9.9")
    with namespaces("host") as (host,), host.run(lambda: NetlinkSocket(NETLINK_NETFILTER)) as sock:
        sock.transact(table.build(old, port=77, owned=False))
        sock.transact(table.change_callers(old, callers("11.0.0.0/8", host4="10.9.9.9"), 0)[0])
        with pytest.raises(NetlinkError) as caught:
            sock.transact(table.change_callers(old, new, 0)[0])
    assert caught.value.errno == errno.EEXIST


@with_marks
def test_everybody_may_be_a_caller():
    config = InterceptConfig(
        caller_networks=(ip_network("0.0.0.0/0"),), prerouting_address4=ip_address("10.9.9.9")
    )
    assert "elements = { 0.0.0.0/0 }" in listed(config, [])


@with_marks
def test_elements_by_differences():
    first = ([ip_address("10.0.0.1"), ip_address("fd00::1")], {80: 10264, 443: 10263, 81: 10264})
    second = ([ip_address("10.0.0.2"), ip_address("fd00::1")], {80: 10263, 443: 10263})
    text = listed(InterceptConfig(), [*table.difference(((), {}), first), *table.difference(first, second)])
    assert "set edges4 { type ipv4_addr elements = { 10.0.0.2 } }" in text
    assert "set edges6 { type ipv6_addr elements = { fd00::1 } }" in text
    assert "map ports { type inet_service : inet_service elements = { 80 : 10263, 443 : 10263 } }" in text


ADDRESSES = st.lists(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), max_size=20)
PORTS = st.dictionaries(st.integers(1, 65535), st.sampled_from([10263, 10264]), max_size=10)


@given(ADDRESSES, PORTS, ADDRESSES, PORTS)
def test_a_difference_touches_only_what_differs(old, old_ports, new, new_ports):
    keys = {NEWSETELEM: set(), DELSETELEM: set()}
    for message in table.difference((old, old_ports), (new, new_ports)):
        attributes = dict(message.attributes)
        for element in attributes["NFTA_SET_ELEM_LIST_ELEMENTS"]:
            key = dict(dict(element["attrs"])["NFTA_SET_ELEM_KEY"]["attrs"])["NFTA_DATA_VALUE"]
            keys[message.kind % 256].add((attributes["NFTA_SET_ELEM_LIST_SET"], key))

    def elements(addresses, ports):
        sets = {(f"edges{address.version}", address.packed) for address in addresses}
        return sets, {("ports", port.to_bytes(2, "big")): to for port, to in ports.items()}

    (old_set, old_map), (new_set, new_map) = elements(old, old_ports), elements(new, new_ports)
    changed = {key for key in old_map.keys() & new_map.keys() if old_map[key] != new_map[key]}
    assert keys[NEWSETELEM] == (new_set - old_set) | (new_map.keys() - old_map.keys()) | changed
    assert keys[DELSETELEM] == (old_set - new_set) | (old_map.keys() - new_map.keys()) | changed
