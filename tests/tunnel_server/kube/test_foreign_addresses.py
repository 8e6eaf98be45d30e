"""Whose an address is, if no edge's: for certain, and by the word of other Nodes."""

from __future__ import annotations

import errno
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

import pytest

from tunnel_server.kube import foreign_addresses
from tunnel_server.kube.foreign_addresses import ForeignAddresses, RememberedAnswers
from tunnel_server.kube.nodes import NodeFacts

if TYPE_CHECKING:
    from certs.addresses import IPAddress

CP = NodeFacts(
    "cp-1", "", {}, (ip_address("192.168.1.1"),), (ip_network("10.244.0.0/24"), ip_network("fd01::/64"))
)


def foreign(**given: Any) -> ForeignAddresses:
    return ForeignAddresses(
        [CP],
        apiservers=[ip_address("192.168.1.250")],
        services=[ip_network("10.96.0.0/12"), ip_network("fd02::/108")],
        is_own=lambda address: address == ip_address("192.168.1.2"),
        **{"pods": [], **given},
    )


@pytest.mark.parametrize(
    ("address", "certain", "said"),
    [
        ("192.168.1.250", "an address of kube-apiserver", None),
        ("10.111.255.255", "in the cluster's service range 10.96.0.0/12", None),
        ("10.112.0.0", None, None),
        ("fd02::a:1", "in the cluster's service range fd02::/108", None),
        ("192.168.1.2", "an address of this host itself", None),
        ("192.168.1.1", None, "an address of cp-1, which is no edge"),
        ("10.244.0.7", None, "in the pod range 10.244.0.0/24"),
        ("fd01::9", None, "in the pod range fd01::/64"),
        ("192.168.2.1", None, None),
    ],
)
def test_what_an_address_is(address: str, certain: str | None, said: str | None) -> None:
    made = foreign()
    assert (made.certain(ip_address(address)), made.said(ip_address(address))) == (certain, said)


def test_configured_pod_ranges_are_certain_and_the_only_ones() -> None:
    made = foreign(pods=[ip_network("10.244.0.0/16"), ip_network("10.244.3.0/24")])
    for address in ("10.244.0.7", "10.244.200.1"):
        assert made.certain(ip_address(address)) == "in the pod range 10.244.0.0/16"
    assert made.said(ip_address("fd01::9")) is None
    assert made.said(ip_address("192.168.1.1"))


def test_answers_are_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[IPAddress] = []
    now = 1000.0
    monkeypatch.setattr(foreign_addresses.time, "monotonic", lambda: now)
    made = RememberedAnswers(lambda address: bool(asked.append(address)))
    for _ in range(3):
        assert made.ask(ip_address("192.168.1.2")) is False
    assert len(asked) == 1
    now += 61
    made.ask(ip_address("192.168.1.2"))
    assert len(asked) == 2


def test_what_cannot_be_told_now_is_asked_again() -> None:
    failures = [OSError(errno.EMFILE, "Too many open files")]

    def ask(_address: IPAddress) -> bool:
        if failures:
            raise failures.pop()
        return True

    made = RememberedAnswers(ask)
    assert [made.ask(ip_address("192.168.1.2")) for _ in range(2)] == [False, True]
