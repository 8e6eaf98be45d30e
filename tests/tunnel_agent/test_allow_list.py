import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel_agent.allow_list import AllowList, Rule, normal_name

NODE = ipaddress.ip_address("192.168.2.143")


DEFAULT = ["loopback:*", "node:*"]


def allowed(rules: list[str], target: str, port: int = 80, host: str | None = None) -> bool:
    address = ipaddress.ip_address(target)
    allow = AllowList(Rule.parse(rule) for rule in rules)
    return allow.refusal(host or target, address, port, {NODE}) is None


def test_keywords_are_loopback_and_the_nodes_own_addresses():
    assert allowed(DEFAULT, "127.0.0.1")
    assert allowed(DEFAULT, "127.8.8.8")
    assert allowed(DEFAULT, "::1")
    assert allowed(DEFAULT, "192.168.2.143", 65535)
    assert not allowed(DEFAULT, "192.168.2.144")
    assert not allowed(DEFAULT, "8.8.8.8")
    assert not allowed(DEFAULT, "2001:db8::1")


def test_no_rule_allows_nothing():
    assert not allowed([], "127.0.0.1")
    assert not allowed([], "192.168.2.143")


@pytest.mark.parametrize(
    ("rule", "target", "port", "expected"),
    [
        ("192.168.2.7:502", "192.168.2.7", 502, True),
        ("192.168.2.7:502", "192.168.2.7", 503, False),
        ("192.168.2.7:*", "192.168.2.7", 1, True),
        ("192.168.2.0/24:8000-8100", "192.168.2.255", 8100, True),
        ("192.168.2.0/24:8000-8100", "192.168.2.9", 8101, False),
        ("192.168.2.0/24:22, 80, 8000-8100", "192.168.2.9", 22, True),
        ("[2001:db8::1]:80", "2001:db8::1", 80, True),
        ("2001:db8::/32:80", "2001:db8:7::1", 80, True),
        ("2001:db8::/32:80", "2001:db9::1", 80, False),
        ("localhost:22", "127.0.0.1", 22, True),
        ("loopback:22", "127.0.0.1", 23, False),
        ("node:9081", "192.168.2.143", 9081, True),
        ("node:9081", "192.168.2.143", 22, False),
    ],
)
def test_rules(rule, target, port, expected):
    assert allowed([rule], target, port) is expected


def test_a_wide_network_opens_no_special_address():
    anywhere = ["0.0.0.0/0:*", "::/0:*"]
    assert allowed(anywhere, "8.8.8.8")
    assert allowed(anywhere, "2001:db8::1")
    for special in ("127.0.0.1", "::1", "169.254.169.254", "169.254.1.1", "fe80::1", "100.100.100.200",
                    "168.63.129.16", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:42::42",
                    "fe80::1%1"):  # fmt: skip
        assert not allowed(anywhere, special), special


def test_special_addresses_can_be_named():
    assert allowed(["169.254.169.254:80"], "169.254.169.254")
    assert allowed(["169.254.0.0/16:*"], "169.254.7.7")
    assert not allowed(["169.254.0.0/16:*"], "169.254.169.254")
    assert allowed(["fe80::/10:*"], "fe80::1%1")
    assert allowed(["127.0.0.0/8:*"], "127.0.0.1")


def test_some_addresses_are_never_dialled():
    rules = [
        "0.0.0.0/0:*",
        "::/0:*",
        "0.0.0.0:*",
        "[::]:*",
        "224.0.0.0/4:*",
        "ff00::/8:*",
        "255.255.255.255:*",
    ]
    for address in ("0.0.0.0", "0.1.2.3", "::", "224.0.0.1", "ff02::1", "255.255.255.255"):
        assert not allowed(rules, address), address


def test_no_rule_opens_a_special_address_in_ipv6_form():
    rules = ["loopback:*", "169.254.0.0/16:*", "::/0:*", "[64:ff9b::a9fe:a9fe]:*", "64:ff9b::/96:*"]
    for address in ("64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254", "2002:7f00:1::", "::169.254.1.1"):
        assert not allowed(rules, address), address
        allow = AllowList(map(Rule.parse, rules))
        assert "stands for" in (allow.refusal("x", ipaddress.ip_address(address), 80, ()) or "")
    assert allowed(rules, "64:ff9b::10.0.0.1")


def test_a_name_allows_what_it_resolves_to_but_nothing_special():
    rules = ["PLC.factory.example.:502"]
    assert allowed(rules, "10.1.2.3", 502, host="plc.Factory.example")
    assert allowed(rules, "10.1.2.3", 502, host="plc.factory.example.")
    assert not allowed(rules, "10.1.2.3", 502, host="10.1.2.3")
    assert not allowed(rules, "10.1.2.3", 502, host="other.example")
    assert not allowed(rules, "127.0.0.1", 502, host="plc.factory.example")
    assert not allowed(rules, "169.254.169.254", 502, host="plc.factory.example")


def test_refusals_name_target_and_reason():
    allow = AllowList([])
    assert allow.refusal("x", ipaddress.ip_address("10.0.0.1"), 22, ()) == (
        "10.0.0.1:22 is not on the agent's allow-list"
    )
    text = allow.refusal("x", ipaddress.ip_address("169.254.169.254"), 80, ())
    assert text is not None
    assert "metadata" in text


@pytest.mark.parametrize(
    "rule",
    ["", "10.0.0.1", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:9-8", "10.0.0.1:x", "10.0.0:80",
     "10.0.0.1/24:80", "2001:db8::1:80", "[10.0.0.1]:80", "[::1:80", ":80", "a b:80", "10.0.0.1:80-", "*:80",
     "10.0.0.1:+8", "10.0.0.1:٣"],
)  # fmt: skip
def test_malformed_rules_are_named(rule):
    with pytest.raises(ValueError, match=r".") as caught:
        Rule.parse(rule)
    assert repr(rule) in str(caught.value)


@given(st.text(max_size=40))
def test_parsing_never_fails_otherwise(text):
    try:
        Rule.parse(text)
    except ValueError:
        pass


@given(st.ip_addresses(), st.integers(1, 65535), st.ip_addresses(v=4), st.integers(0, 32))
def test_a_network_rule_never_covers_an_address_outside_it(address, port, base, bits):
    network = ipaddress.ip_network((base, bits), strict=False)
    if allowed([f"{network}:*"], str(address), port):
        assert address in network


def test_normal_name():
    assert normal_name("EXAMPLE.org.") == "example.org"
