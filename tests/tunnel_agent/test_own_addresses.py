import ipaddress
import os
import subprocess
import sys

import pytest

from tunnel_agent.own_addresses import OwnAddresses, machine_addresses

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace, which needs root")

PRINT = "from tunnel_agent.own_addresses import machine_addresses as m; print(sorted(map(str, m())))"


def test_loopback_is_ours_and_a_documentation_address_is_not():
    found = machine_addresses()
    assert ipaddress.ip_address("127.0.0.1") in found
    assert ipaddress.ip_address("203.0.113.77") not in found


def in_namespace(commands: list[str], python: str = PRINT) -> str:
    """Run in a namespace that is gone when the command ends."""
    script = " && ".join([*commands, 'exec "$0" -c "$1"'])
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script, sys.executable, python],
        capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip
    return done.stdout.strip()


@needs_root
def test_a_namespace_without_anything_has_nothing():
    assert in_namespace([]) == "[]"


@needs_root
def test_every_usable_address_is_found_and_the_peers_is_not():
    found = in_namespace(
        [
            "ip link set lo up",
            "ip link add d0 type veth peer name d1",
            "ip link set d1 up",
            "ip link set d0 up",
            "ip address add 192.168.2.143/24 dev d0",
            "ip address add 10.9.9.1 peer 10.9.9.2 dev d0",
            "ip address add fd00:1::1/64 dev d0 nodad",
        ]
    )
    for address in ("127.0.0.1", "::1", "192.168.2.143", "10.9.9.1", "fd00:1::1"):
        assert f"'{address}'" in found, address
    assert "10.9.9.2" not in found


@needs_root
def test_the_addresses_of_a_clusters_services_are_no_machines_own():
    found = in_namespace(
        [
            "ip link add kube-ipvs0 type veth peer name d0",  # a dummy there
            "ip address add 10.96.0.1/32 dev kube-ipvs0",
            "ip address add 192.168.2.143/24 dev d0",
        ]
    )
    assert found == "['192.168.2.143']"


@needs_root
def test_nonlocal_bind_deceives_nobody():
    found = in_namespace(["ip link set lo up", "echo 1 > /proc/sys/net/ipv4/ip_nonlocal_bind"])
    assert found == "['127.0.0.1', '::1']"


@needs_root
def test_an_ipv6_address_that_duplicate_detection_refused_is_somebody_elses():
    found = in_namespace(
        [
            "ip link add d0 type veth peer name d1",
            "ip link set d1 up",
            "ip link set d0 up",
            "ip address add fd00:1::1/64 dev d0",  # tentative for a second: not ours yet
        ]
    )
    assert "fd00:1::1" not in found


@needs_root
def test_very_many_addresses():
    lines = [f"address add 10.{n // 250}.{n % 250}.1/32 dev lo" for n in range(3000)]
    make = "printf '%s\\n' " + " ".join(f"'{line}'" for line in lines) + " | ip -batch -"
    python = "from tunnel_agent.own_addresses import machine_addresses as m; print(len(m()))"
    assert int(in_namespace(["ip link set lo up", make], python)) >= 3000


def test_answers_are_kept_for_a_moment_only():
    now, reads = [0.0], []
    address = ipaddress.ip_address("192.168.2.143")

    def read():
        reads.append(now[0])
        return frozenset({address} if now[0] < 10 else ())

    own = OwnAddresses(keep=1.0, read=read, clock=lambda: now[0])
    assert own.has(address)
    assert own.has(address)
    assert len(reads) == 1
    now[0] = 10.0
    assert not own.has(address)


def test_a_failed_reading_is_not_remembered_as_nothing():
    def read():
        raise PermissionError(1, "Operation not permitted")

    own = OwnAddresses(read=read)
    for _ in range(2):
        with pytest.raises(PermissionError):
            own.has(ipaddress.ip_address("192.168.2.143"))
