"""Interception in real network namespaces: who is captured, who is not, and what is left afterwards."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.tunnel_server.intercept.netns import Namespace, greeter, namespaces, server

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="plays the operator with nft (package nftables)"),
]

EDGE4, EDGE6 = "192.168.2.143", "fd00:2::143"
NOBODY = "timed out|unreachable|No route"
PORTS = {9081: 10264, 10250: 10263}


def neighbours(host: Namespace, far: Namespace) -> None:
    """Two machines on one wire: .1 and .2, of which `far` also has .3."""
    host.sh(
        f"ip link add wire type veth peer name wire netns {far.name}",
        "ip addr add 10.77.0.1/24 dev wire",
        "ip addr add fd77::1/64 dev wire nodad",
        "ip link set wire up",
    )
    far.sh(
        "ip addr add 10.77.0.2/24 dev wire",
        "ip addr add 10.77.0.3/24 dev wire",
        "ip addr add fd77::2/64 dev wire nodad",
        "ip link set wire up",
    )


def tables(namespace: Namespace) -> str:
    return namespace.sh("nft list ruleset")


def our_routes(namespace: Namespace) -> str:
    return namespace.sh("ip route show proto 126") + namespace.sh("ip -6 route show proto 126")


def eventually(what) -> None:
    """Wait until `what()` is true, on a machine that may have much else to do."""
    started = time.monotonic()
    while not what():
        assert time.monotonic() - started < 30
        time.sleep(0.02)


def test_a_caller_on_this_host_reaches_the_listener_and_its_destination_is_known():
    with namespaces("host") as (host,), server(host) as running:
        assert running.answer() == "ready"
        with pytest.raises(OSError, match="unreachable"):
            host.connect(EDGE4, 9081)
        change = running.apply([EDGE4, EDGE6], PORTS)
        assert change["added"] == [EDGE4, EDGE6]
        assert change["unrouted"] == change["refused"] == []
        # This host has not even an address or a route: the routes of our own get the packets to the hook.
        assert host.ask(EDGE4, 9081) == {"original": [EDGE4, 9081], "at": ["127.0.0.1", 10264]}
        assert host.ask(EDGE4, 10250) == {"original": [EDGE4, 10250], "at": ["127.0.0.1", 10263]}
        assert host.ask(EDGE6, 9081) == {"original": [EDGE6, 9081], "at": ["::1", 10264]}
        assert host.ask("127.0.0.1", 10264) == {"original": None, "at": ["127.0.0.1", 10264]}
        assert host.ask("::1", 10264) == {"original": None, "at": ["::1", 10264]}
        assert running.tell("statistics")["routes"] == [EDGE4, EDGE6]
        change = running.apply([EDGE6], PORTS)
        assert change["removed"] == [EDGE4]
        with pytest.raises(OSError, match="unreachable"):
            host.connect(EDGE4, 9081)
        assert EDGE4 not in our_routes(host)


def test_only_edge_addresses_on_mapped_ports_are_captured_and_never_a_marked_dial():
    with (
        namespaces("host", "far") as (host, far),
        server(host) as running,
        greeter(far, "0.0.0.0", 9081), greeter(far, "0.0.0.0", 9082), greeter(far, "::", 9083),
        greeter(host, "0.0.0.0", 9081),
    ):  # fmt: skip
        neighbours(host, far)
        running.answer()
        change = running.apply(["10.77.0.2", "fd77::2", "10.77.0.1"], {9081: 10264, 9083: 10264})
        assert change["refused"] == [{"address": "10.77.0.1", "reason": "an address of this host"}]
        assert host.ask("10.77.0.2", 9081)["original"] == ["10.77.0.2", 9081]
        assert host.ask("fd77::2", 9083) == {"original": ["fd77::2", 9083], "at": ["::1", 10264]}
        assert host.ask("10.77.0.3", 9081) == "direct"  # not an edge
        assert host.ask("10.77.0.2", 9082) == "direct"  # not mapped
        assert host.ask("10.77.0.2", 9081, mark=0x7E7E) == "direct"  # the server's own dial
        assert host.ask("fd77::2", 9083, mark=0x7E7E) == "direct"
        assert host.ask("10.77.0.1", 9081) == "direct"  # the host's own
        assert our_routes(host) == ""  # there is a route: none of ours is needed


def test_an_edge_address_that_becomes_the_hosts_own_is_the_hosts_own():
    with namespaces("host") as (host,), server(host) as running, greeter(host, "0.0.0.0", 9081):
        running.answer()
        running.apply([EDGE4], PORTS)
        assert host.ask(EDGE4, 9081)["original"] == [EDGE4, 9081]
        host.sh(f"ip addr add {EDGE4}/32 dev lo")
        assert host.ask(EDGE4, 9081) == "direct"


def pod(host: Namespace, name: Namespace, number: int) -> None:
    """A pod as Calico wires it: the host's side of the veth has no address, only a route to the pod."""
    address, link = f"10.99.0.{number}", f"cali{number}"
    host.sh(
        f"ip link add {link} type veth peer name eth0 netns {name.name}",
        f"sysctl -q -w net.ipv6.conf.{link}.accept_dad=0",
        f"ip link set {link} address ee:ee:ee:ee:ee:ee up",
        f"ip route add {address}/32 dev {link}",
        f"ip -6 route add fd99::{number}/128 dev {link}",
    )
    name.sh(
        "sysctl -q -w net.ipv6.conf.eth0.accept_dad=0",
        f"ip addr add {address}/32 dev eth0",
        f"ip addr add fd99::{number}/128 dev eth0 nodad",
        "ip link set eth0 up",
        "ip neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent",
        "ip neigh add fe80::1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent",
        "ip route add 169.254.1.1 dev eth0 scope link",
        "ip route add default via 169.254.1.1 dev eth0",
        "ip -6 route add default via fe80::1 dev eth0",
    )
    hardware = name.sh("cat /sys/class/net/eth0/address").strip()
    host.sh(f"ip -6 neigh add fd99::{number} lladdr {hardware} dev {link}")


def test_a_pod_behind_an_address_less_veth_is_captured_if_it_is_a_caller():
    with namespaces("host", "pod", "stranger") as (host, caller, stranger):
        host.sh("ip addr add 10.50.0.1/32 dev lo", "ip addr add fd50::1/128 dev lo nodad")
        pod(host, caller, 2)
        pod(host, stranger, 3)
        with server(
            host,
            caller_networks=["10.99.0.2/32", "fd99::2/128"],
            host4="10.50.0.1",
            host6="fd50::1",
            listen=["127.0.0.1", "::1", "10.50.0.1", "fd50::1"],
        ) as running:
            running.answer()
            running.apply([EDGE4, EDGE6], PORTS)
            assert caller.ask(EDGE4, 9081) == {"original": [EDGE4, 9081], "at": ["10.50.0.1", 10264]}
            assert caller.ask(EDGE4, 10250) == {"original": [EDGE4, 10250], "at": ["10.50.0.1", 10263]}
            assert caller.ask(EDGE6, 9081) == {"original": [EDGE6, 9081], "at": ["fd50::1", 10264]}
            assert caller.ask("10.50.0.1", 10264)["original"] is None
            assert host.ask(EDGE4, 9081)["at"] == ["127.0.0.1", 10264]
            for address in (EDGE4, EDGE6):
                with pytest.raises(OSError, match=NOBODY):
                    stranger.connect(address, 9081, timeout=0.5)
            with pytest.raises(OSError, match=NOBODY):
                caller.connect(EDGE4, 9082, timeout=0.5)


def test_callers_change_and_nobody_who_stays_one_is_missed():
    """Two threads call all the while, one in the pod and one on the host: each call is captured."""
    first = {"caller_networks": ["10.99.0.2/32"], "host4": "10.50.0.1"}
    second = {"caller_networks": ["10.99.0.0/24", "10.98.0.0/24"], "host4": "10.50.0.2"}
    with namespaces("host", "pod") as (host, caller):
        host.sh("ip addr add 10.50.0.1/32 dev lo", "ip addr add 10.50.0.2/32 dev lo")
        pod(host, caller, 2)
        with server(host, listen=["127.0.0.1", "10.50.0.1", "10.50.0.2"], **first) as running:
            running.answer()
            running.apply([EDGE4], PORTS)
            asked: dict[str, int] = {}
            changed = threading.Event()

            def call(who: Namespace) -> None:
                while not changed.is_set():
                    assert who.ask(EDGE4, 9081)["original"] == [EDGE4, 9081]
                    asked[who.name] = asked.get(who.name, 0) + 1

            with ThreadPoolExecutor(2) as threads:
                calls = [threads.submit(call, who) for who in (host, caller)]
                try:
                    for number in itertools.count():
                        if number >= 30 and len(asked) == 2 and min(asked.values()) > 60:
                            break
                        assert not any(each.done() for each in calls), "a call was missed"
                        for settings in (second, first):
                            assert "error" not in running.apply([EDGE4], PORTS, settings=settings)
                finally:
                    changed.set()
                for each in calls:
                    each.result()
            assert caller.ask(EDGE4, 9081)["at"] == ["10.50.0.1", 10264]
            away = {"caller_networks": ["10.99.0.2/32"], "host4": "10.50.0.9"}
            refused = running.apply([], {}, settings=away)
            assert refused["error"].startswith("prerouting-address 10.50.0.9 is not an address of this host")
            assert caller.ask(EDGE4, 9081)["at"] == ["10.50.0.1", 10264]
            running.apply([EDGE4], PORTS, settings={})
            assert "prerouting" not in tables(host)
            with pytest.raises(OSError, match=NOBODY):
                caller.connect(EDGE4, 9081, timeout=0.5)


def test_a_routed_caller_that_is_not_listed_is_left_alone():
    with namespaces("host", "far") as (host, far), server(host) as running:
        neighbours(host, far)
        running.answer()
        running.apply([EDGE4], PORTS)
        far.sh("ip route add default via 10.77.0.1")
        assert "prerouting" not in tables(host)
        with pytest.raises(OSError, match=NOBODY):
            far.connect(EDGE4, 9081, timeout=0.5)


def test_a_long_connection_survives_changes_in_place():
    with namespaces("host") as (host,), server(host) as running:
        running.answer()
        running.apply([EDGE4], {9081: 10264})
        with host.connect(EDGE4, 9081) as long, long.makefile("rb") as lines:
            lines.readline()

            def alive() -> bool:
                long.sendall(b"still there?\n")
                return lines.readline() == b"still there?\n"

            assert alive()
            change = running.apply([EDGE4, EDGE6], {9081: 10264, 22: 10264})
            assert change["ports_set"] == {"22": 10264}
            assert host.ask(EDGE4, 22)["original"] == [EDGE4, 22]
            assert alive()
            running.apply([EDGE4], {9081: 10263})
            assert host.ask(EDGE4, 9081)["at"] == ["127.0.0.1", 10263]
            change = running.apply([], {})
            assert change["ports_removed"] == [9081]
            assert change["removed"] == [EDGE4]
            assert alive()
            assert "elements" not in tables(host)
            assert EDGE4 in our_routes(host)  # for that connection alone
        eventually(lambda: EDGE4 not in our_routes(host))


def test_bad_addresses_are_refused_by_name_and_good_ones_stand():
    with namespaces("host") as (host,), server(host) as running:
        running.answer()
        bad = [
            "127.0.0.1",
            "::1",
            "169.254.7.7",
            "fe80::7",
            "224.0.0.1",
            "ff02::1",
            "0.0.0.0",
            "255.255.255.255",
        ]
        change = running.apply([*bad, EDGE4], PORTS)
        assert {refusal["address"] for refusal in change["refused"]} == set(bad)
        assert change["added"] == [EDGE4]
        assert host.ask(EDGE4, 9081)["original"] == [EDGE4, 9081]
        assert {refusal["address"] for refusal in running.tell("statistics")["refused"]} == set(bad)
        answer = running.apply([EDGE4], {70000: 10264})
        assert answer["error"] == "port mapping 70000=10264 is outside 1-65535"
        assert running.tell("statistics")["ports"] == {"9081": 10264, "10250": 10263}


@pytest.mark.parametrize("owner", [True, False])
def test_sigterm_leaves_nothing(owner: bool):
    with namespaces("host") as (host,), server(host, owner=owner) as running:
        running.answer()
        running.apply([EDGE4, EDGE6], PORTS)
        assert "edge-tunnel" in tables(host)
        assert EDGE4 in our_routes(host)
        log = running.end(signal.SIGTERM)
        assert running.process.returncode == 0, log
        assert tables(host) == our_routes(host) == ""


def test_sigkill_leaves_no_table():
    with namespaces("host") as (host,), server(host) as running:
        running.answer()
        running.apply([EDGE4], PORTS)
        assert running.tell("statistics")["owned"]
        running.end(signal.SIGKILL)
        assert tables(host) == ""


@pytest.mark.parametrize("owner", [True, False])
def test_after_sigkill_the_next_start_takes_over_what_is_left(owner: bool):
    with namespaces("host") as (host,):
        with server(host, owner=owner) as killed:
            killed.answer()
            killed.apply([EDGE4, EDGE6], PORTS)
            killed.end(signal.SIGKILL)
        assert ("edge-tunnel" in tables(host)) is not owner
        assert EDGE4 in our_routes(host)
        with server(host, owner=owner) as running:
            running.answer()
            assert EDGE4 not in tables(host)
            running.apply([EDGE4], PORTS)
            assert EDGE6 not in our_routes(host)
            assert host.ask(EDGE4, 9081)["original"] == [EDGE4, 9081]
            running.end(signal.SIGTERM)
            assert tables(host) == our_routes(host) == ""


def test_with_the_owner_flag_a_flush_does_not_touch_the_table():
    with namespaces("host") as (host,), server(host) as running:
        running.answer()
        running.apply([EDGE4], PORTS)
        host.sh("nft flush ruleset")
        assert host.ask(EDGE4, 9081)["original"] == [EDGE4, 9081]


@pytest.mark.parametrize(
    "tamper",
    ["nft flush ruleset", "nft delete table inet edge-tunnel", "nft flush chain inet edge-tunnel output"],
)
def test_without_it_the_table_is_back_within_five_seconds(tamper: str):
    with namespaces("host") as (host,), server(host, owner=False) as running:
        running.answer()
        running.apply([EDGE4], PORTS)
        before = tables(host)
        host.sh(tamper)
        eventually(lambda: running.tell("statistics")["restored"] == 1)
        assert tables(host) == before
        assert host.ask(EDGE4, 9081)["original"] == [EDGE4, 9081]
        assert running.tell("statistics")["problem"] is None
        assert running.tell("statistics")["owned"] is False


def test_other_tables_may_change_without_ours_being_rebuilt():
    with namespaces("host") as (host,), server(host, owner=False) as running:
        running.answer()
        host.sh("nft add table inet other", "nft delete table inet other")
        running.apply([EDGE4], PORTS)
        time.sleep(0.3)
        assert running.tell("statistics")["restored"] == 0


@pytest.mark.parametrize("owner", [True, False])
def test_a_second_server_fails_with_one_line_that_names_the_first(owner: bool):
    with namespaces("host") as (host,), server(host, owner=owner) as first:
        first.answer()
        first.apply([EDGE4], PORTS)
        with server(host, owner=owner, listen=[]) as second:
            message = second.answer()["unavailable"]
        assert "\n" not in message
        assert f"process {first.process.pid} " in message
        assert "intercept = false" in message
        assert host.ask(EDGE4, 9081)["original"] == [EDGE4, 9081]


def test_a_change_that_waited_while_another_server_took_over_is_not_made():
    """It would be on the socket that the other one uses by then."""
    with namespaces("host") as (host,), server(host) as running:
        running.answer()
        running.apply([EDGE4], PORTS)
        before = tables(host)
        assert running.tell("lose", addresses=[EDGE4, "192.168.2.144"]) == "interception is not running"
        assert tables(host) == before


def test_routes_follow_the_hosts_own():
    with namespaces("host", "far") as (host, far), server(host) as running:
        neighbours(host, far)
        host.sh("ip route add default via 10.77.0.2")
        running.answer()
        running.apply([EDGE4], PORTS)
        assert our_routes(host) == ""
        host.sh("ip link set wire down")  # which takes the default route along, unannounced
        eventually(lambda: EDGE4 in our_routes(host))
        assert host.ask(EDGE4, 9081)["original"] == [EDGE4, 9081]


def test_a_thousand_addresses_come_and_go_in_one_transaction():
    addresses = [f"192.168.{number // 250}.{number % 250 + 1}" for number in range(1000)]
    with namespaces("host") as (host,), server(host) as running:
        running.answer()
        change = running.apply(addresses, PORTS)
        assert len(change["added"]) == 1000
        assert change["seconds"] < 5
        assert host.ask(addresses[777], 9081)["original"] == [addresses[777], 9081]
        assert len(running.apply([], {})["removed"]) == 1000
        assert our_routes(host) == ""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"caller_networks": ["10.0.0.0/8"], "host4": "10.1.2.3"}, "10.1.2.3 is not an address of this host"),
    ],
)
def test_settings_that_do_not_fit_the_host(settings, words):
    with namespaces("host") as (host,), server(host, **settings) as running:
        assert words in running.answer()["unavailable"]
        assert tables(host) == ""


def test_without_privilege_one_line_says_what_to_do():
    code = (
        "import trio\n"
        "from tunnel_server.intercept.interception import Interception\n"
        "from tunnel_server.intercept.config import *\n"
        "try: trio.run(Interception(InterceptConfig()).run)\n"
        "except InterceptUnavailable as error: print(error)\n"
    )
    with namespaces("host") as (host,):
        done = subprocess.run(
            ["ip", "netns", "exec", host.name, "setpriv",
             "--bounding-set=-net_admin", "--inh-caps=-net_admin",
             sys.executable, "-c", code],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert "CAP_NET_ADMIN" in done.stdout
    assert "intercept = false" in done.stdout
    assert done.stdout.count("\n") == 1
