"""The kernel's side by itself: all or nothing, bounded, and gone when it is told to go."""

import json
import os
import shutil
import subprocess
from ipaddress import ip_address, ip_network

import pytest

from tests.tunnel_server.intercept.netns import namespaces
from tunnel_server.intercept import table
from tunnel_server.intercept.config import InterceptConfig, InterceptUnavailable
from tunnel_server.intercept.held_table import HeldTable, Predecessor
from tunnel_server.intercept.kernel import KernelState
from tunnel_server.intercept.netlink import NETLINK_NETFILTER, NetlinkSocket
from tunnel_server.intercept.ownership import find_table

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root")

A, B, C = (ip_address(f"192.168.2.{number}") for number in (1, 2, 3))


def there() -> bool:
    with NetlinkSocket(NETLINK_NETFILTER) as sock:
        return find_table(sock) is not None


def test_the_number_of_addresses_is_bounded_and_those_captured_stay():
    def work() -> None:
        state = KernelState(InterceptConfig(max_addresses=2))
        assert state.apply([C], {}).added == (C,)
        change = state.apply([A, B, C], {})
        assert change.added == (A,)
        assert [refusal.address for refusal in change.refused] == [B]
        assert "more than 2" in change.refused[0].reason
        assert state.apply([B, C], {}).added == (B,)
        state.remove()

    with namespaces("host") as (host,):
        host.run(work)


def test_nothing_to_change_changes_nothing():
    def work() -> None:
        state = KernelState(InterceptConfig())
        state.apply([A], {80: 10264})
        change = state.apply([A], {80: 10264})
        assert (change.added, change.removed, change.ports_set, change.ports_removed) == ((), (), {}, ())
        state.remove()

    with namespaces("host") as (host,):
        host.run(work)


def test_a_change_that_cannot_be_leaves_all_as_it_was():
    def work() -> None:
        state = KernelState(InterceptConfig())
        state.apply([A], {80: 10264})
        with pytest.raises(ValueError, match="0=10264"):
            state.apply([B], {0: 10264})
        assert (state.addresses, state.ports) == ({A}, {80: 10264})
        state.remove()

    with namespaces("host") as (host,):
        host.run(work)


def test_a_change_finds_the_table_removed_and_puts_all_of_it_back(monkeypatch):
    monkeypatch.setattr(table, "FLAG_OWNER", 0x8000)  # as on a kernel that has no owner flag

    def work() -> None:
        state = KernelState(InterceptConfig())
        assert not state.owned
        state.apply([A], {80: 10264})
        with NetlinkSocket(NETLINK_NETFILTER) as somebody:
            somebody.transact(table.delete())
        assert not state.check()
        assert state.apply([A, B], {80: 10264}).added == (B,)
        assert state.check()
        state.remove()
        assert not there()

    with namespaces("host") as (host,):
        host.run(work)


def test_a_table_that_another_has_taken_over_is_not_fought_for(monkeypatch):
    monkeypatch.setattr(table, "FLAG_OWNER", 0x8000)

    def work() -> None:
        state = KernelState(InterceptConfig())
        with NetlinkSocket(NETLINK_NETFILTER) as other:
            other.transact(table.build(InterceptConfig(), port=other.port, owned=False))
            assert not state.check()
            with pytest.raises(InterceptUnavailable, match="belongs to process"):
                state.build()
            state.remove()
            assert there()  # theirs

    with namespaces("host") as (host,):
        host.run(work)


def test_it_starts_whole_or_not_at_all():
    def work() -> None:
        config = InterceptConfig(
            caller_networks=(ip_network("10.0.0.0/8"),), prerouting_address4=ip_address("10.1.2.3")
        )
        with pytest.raises(InterceptUnavailable, match=r"10\.1\.2\.3 is not an address of this host"):
            KernelState(config)
        assert not there()

    with namespaces("host") as (host,):
        host.run(work)


def test_other_callers_whole_or_not_at_all():
    hosts = ("10.1.2.3", "10.1.2.4")

    def config(host: str) -> InterceptConfig:
        return InterceptConfig(
            caller_networks=(ip_network("10.0.0.0/8"),), prerouting_address4=ip_address(host)
        )

    def work() -> None:
        state = KernelState(config(hosts[0]))
        state.apply([A], {80: 10264})
        with pytest.raises(InterceptUnavailable, match=r"10\.9\.9\.9 is not an address of this host"):
            state.apply([A, B], {81: 10264}, config("10.9.9.9"))
        assert (state.addresses, state.ports) == ({A}, {80: 10264})
        with pytest.raises(ValueError, match="0=10264"):
            state.apply([A], {0: 10264}, config(hosts[1]))
        state.build()
        listed.append(host.sh("nft list ruleset"))
        state.apply([A], {80: 10264}, config(hosts[1]))
        state.build()  # whoever removes the table gets the callers of now
        listed.append(host.sh("nft list ruleset"))
        host.sh(f"ip addr del {hosts[1]}/32 dev lo")
        assert state.apply([A, B], {80: 10264}).added == (B,)  # an address that went since is no obstacle
        state.remove()

    listed: list[str] = []
    with namespaces("host") as (host,):
        host.sh(*(f"ip addr add {address}/32 dev lo" for address in hosts))
        host.run(work)
    assert [f"dnat ip to {each}:" in text for each, text in zip(hosts, listed, strict=True)] == [True, True]


def lent(state: KernelState, **changed) -> Predecessor:
    """What another process would get of it."""
    held = HeldTable.from_json({**json.loads(json.dumps(state.held().to_json())), **changed})
    return Predecessor(os.dup(state.owner), held)


CALLERS = InterceptConfig(
    caller_networks=(ip_network("10.0.0.0/8"),), prerouting_address4=ip_address("10.77.0.1")
)


def elements() -> str:
    return subprocess.run(
        ["nft", "list", "table", "inet", "edge-tunnel"], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.skipif(shutil.which("nft") is None, reason="looks with nft (package nftables)")
def test_a_successor_has_the_table_as_it_stands():
    with namespaces("host") as (host,):
        host.sh("ip link add wire type veth peer name far", "ip addr add 10.77.0.1/24 dev wire")

        def work() -> None:
            old = KernelState(InterceptConfig())
            old.apply([A, B], {80: 10264})
            with NetlinkSocket(NETLINK_NETFILTER) as sock:
                before = find_table(sock)
                new = KernelState(CALLERS, lent(old))
                assert (new.addresses, new.ports, new.port) == ({A, B}, {80: 10264}, old.port)
                old.leave()
                old.remove()
                new.own()
                assert find_table(sock) == before
                assert new.check()
                assert "10.0.0.0/8" in elements()
                assert new.apply([B, C], {80: 10264}).added == (C,)
                assert str(A) not in elements()
                # Again, with callers that stay.
                last = KernelState(CALLERS, lent(new))
                new.leave()
                new.remove()
                last.own()
                assert find_table(sock) == before
                last.remove()
                assert find_table(sock) is None

        host.run(work)


@pytest.mark.skipif(shutil.which("nft") is None, reason="looks with nft (package nftables)")
def test_a_table_of_another_layout_is_made_anew_with_all_that_it_holds():
    def work() -> None:
        old = KernelState(InterceptConfig())
        old.apply([A], {80: 10264})
        handle = old.held().handle
        new = KernelState(InterceptConfig(), lent(old, layout="of another release"))
        assert new.held().handle != handle
        assert str(A) in elements()
        # The successor fails: it removes nothing, and the old one makes it what it was.
        new.remove()
        assert there()
        old.recover()
        assert old.check()
        assert old.apply([A, B], {80: 10264}).added == (B,)
        old.remove()
        assert not there()

    with namespaces("host") as (host,):
        host.run(work)


@pytest.mark.skipif(shutil.which("nft") is None, reason="looks with nft (package nftables)")
def test_what_a_successor_does_not_understand_is_made_anew_when_it_knows_as_what():
    def work() -> None:
        old = KernelState(InterceptConfig())
        old.apply([A], {80: 10264})
        new = KernelState(InterceptConfig(), Predecessor(os.dup(old.owner), None))
        assert new.addresses == set()
        assert new.check()
        # Until then it captures as before.
        assert str(A) in elements()
        new.own()
        old.leave()
        old.remove()
        new.apply([B], {80: 10264})
        assert str(A) not in elements()
        assert str(B) in elements()
        assert new.check()
        new.remove()
        assert not there()

    with namespaces("host") as (host,):
        host.run(work)
