"""No packet gets by while the table changes: a connection that is captured before and after is so meanwhile.

One and the same SYN is sent as fast as it goes. An observer behind the table counts those that were not
captured, and drops all, so that connection tracking keeps none and each is a first packet again.
"""

import contextlib
import ipaddress
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.tunnel_server.intercept.netns import Namespace, namespaces
from tunnel_server.intercept.config import InterceptConfig
from tunnel_server.intercept.kernel import KernelState

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="observes with nft (package nftables)"),
]

CALLER, EDGE = "10.77.0.2", "10.77.2.143"
HOSTS = ("10.77.0.1", "10.77.0.3")
CHANGES = 100

OBSERVER = f"""
table inet observer {{
    chain behind {{
        type filter hook prerouting priority 0
        ip daddr {EDGE} counter drop
        tcp dport {{ 10263, 10264 }} counter drop
    }}
}}
"""

SENDER = """
import contextlib, socket, sys
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sock.bind(("veth", 0))
frame = bytes.fromhex(sys.argv[1])
print("sending", flush=True)
while True:
    with contextlib.suppress(OSError):  # the queue is full
        while True:
            sock.send(frame)
"""


def checksum(data: bytes) -> bytes:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def syn(destination: bytes) -> bytes:
    """A frame to this MAC address: the first packet of a connection to the edge's port 9081."""
    addresses = socket.inet_aton(CALLER) + socket.inet_aton(EDGE)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0x4000, 64, socket.IPPROTO_TCP, 0) + addresses
    tcp = struct.pack("!HHIIBBHHH", 40000, 9081, 1, 0, 0x50, 2, 65535, 0, 0)
    tcp_sum = checksum(addresses + struct.pack("!HH", socket.IPPROTO_TCP, len(tcp)) + tcp)
    ip, tcp = ip[:10] + checksum(ip) + ip[12:], tcp[:16] + tcp_sum + tcp[18:]
    return destination + b"\x02\0\0\0\0\x02" + b"\x08\0" + ip + tcp


def config(*networks: str, host: str = HOSTS[0]) -> InterceptConfig:
    return InterceptConfig(
        caller_networks=tuple(map(ipaddress.ip_network, networks)),
        prerouting_address4=ipaddress.ip_address(host),
    )


def counted(host: Namespace) -> tuple[int, int]:
    """How many got by, and how many were captured."""
    listed = json.loads(host.sh("nft -j list table inet observer"))["nftables"]
    rules = [each["rule"]["expr"] for each in listed if "rule" in each]
    past, captured = (part["counter"]["packets"] for rule in rules for part in rule if "counter" in part)
    return past, captured


@contextlib.contextmanager
def flood() -> Iterator[Namespace]:
    """A host that is sent that packet all the time."""
    with namespaces("host", "caller") as (host, caller):
        host.sh(
            f"ip link add veth type veth peer name veth netns {caller.name}",
            *(f"ip addr add {address}/16 dev veth" for address in HOSTS),
            "ip link set veth up",
        )
        caller.sh("ip link set veth up")
        mac = json.loads(host.sh("ip -j link show veth"))[0]["address"]
        enter = ["ip", "netns", "exec"]
        subprocess.run([*enter, host.name, "nft", "-f", "-"], input=OBSERVER, text=True, check=True)
        frame = syn(bytes.fromhex(mac.replace(":", ""))).hex()
        command = [*enter, caller.name, sys.executable, "-c", SENDER, frame]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sender:
            try:
                assert sender.stdout is not None
                assert sender.stdout.readline()
                yield host
            finally:
                sender.kill()


def test_no_first_packet_gets_by_a_change():
    edge, more = ipaddress.ip_address(EDGE), [ipaddress.ip_address("10.77.3.0") + n for n in range(1, 200)]
    base = ([edge], {9081: 10264}, config("10.77.0.0/24", "10.80.0.0/16"))
    others = {
        "callers": (*base[:2], config("10.77.0.0/16", "10.90.0.0/16", "10.95.0.0/16")),
        "prerouting-address": (*base[:2], config("10.77.0.0/24", host=HOSTS[1])),
        "addresses": ([edge, *more], *base[1:]),
        "ports": ([edge], {9081: 10264} | dict.fromkeys(range(5000, 5200), 10263), base[2]),
        "the port's listener": ([edge], {9081: 10263}, base[2]),
    }

    def change_there_and_back(name: str) -> None:
        for number in range(CHANGES // (5 if name in {"addresses", "ports"} else 1)):
            state.apply(*(base if number % 2 else others[name]))

    past, captured = {}, {}
    with flood() as host:
        state = host.run(lambda: KernelState(base[2]))
        try:
            host.run(lambda: state.apply(*base))
            for name in others:
                before = counted(host)
                host.run(lambda name=name: change_there_and_back(name))
                past[name], captured[name] = (b - a for a, b in zip(before, counted(host), strict=True))
        finally:
            host.run(state.remove)
    assert past == dict.fromkeys(others, 0)
    assert all(captured.values()), captured
