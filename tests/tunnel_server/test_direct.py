"""Dialling from this host: what may never be dialled, whatever name leads there."""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address, ip_network

import pytest
import trio
import trio.testing

from tests.e2e.shortage import descriptors
from tunnel_server import direct
from tunnel_server.direct import MARK, DirectTarget
from tunnel_wire.causes import Cause, OpenFailed

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
EDGE = ip_address("192.168.2.143")
EDGE_NETWORK = ip_network("192.168.0.0/16")


class Edges:
    """Stands where the names and addresses of nodes are."""

    def is_edge(self, address: object) -> bool:
        return address == EDGE

    def may_be_edge(self, address: object) -> bool:
        return address in EDGE_NETWORK  # type: ignore[operator]


def target(host: str, port: int = 80, *, special: tuple[object, ...] = ()) -> DirectTarget:
    return DirectTarget(host, port, special, Edges())  # type: ignore[arg-type]


async def refused(wanted: DirectTarget) -> OpenFailed:
    with trio.fail_after(20), pytest.raises(OpenFailed) as caught:
        await wanted.dial()
    return caught.value


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("127.0.0.1", "a loopback address"),
        ("::1", "a loopback address"),
        ("::ffff:127.0.0.1", "a loopback address"),
        ("localhost", "a loopback address"),
        ("LOCALHOST", "a loopback address"),
        ("127.1.2.3", "a loopback address"),
        ("127.1", "a loopback address"),
        ("2130706433", "a loopback address"),
        ("0x7f000001", "a loopback address"),
        ("017700000001", "a loopback address"),
        ("2852039166", "a cloud metadata service"),
        ("0", "not the address of one machine"),
        ("169.254.169.254", "a cloud metadata service"),
        ("169.254.1.1", "a link-local address"),
        ("fe80::1", "a link-local address"),
        ("100.100.100.200", "a cloud metadata service"),
        ("0.0.0.0", "not the address of one machine"),
        ("::", "not the address of one machine"),
        ("224.0.0.1", "not the address of one machine"),
        ("255.255.255.255", "not the address of one machine"),
        ("192.168.2.143", "is an edge's"),
        ("::ffff:192.168.2.143", "is an edge's"),
        ("64:ff9b::192.168.2.143", "192.168.2.143 is an edge's"),
        ("2002:c0a8:28f::1", "192.168.2.143 is an edge's"),
        ("64:ff9b::127.0.0.1", "stands for 127.0.0.1, a loopback address"),
        ("64:ff9b:1::169.254.169.254", "stands for 169.254.169.254, a cloud metadata service"),
        ("2002:a9fe:a9fe::", "stands for 169.254.169.254, a cloud metadata service"),
        ("::127.0.0.1", "stands for 127.0.0.1, a loopback address"),
        ("192.168.2.9", "192.168.2.9 is no edge's, but inside edge-networks, and not in direct-special"),
        ("64:ff9b::192.168.2.9", "192.168.2.9 is no edge's, but inside edge-networks"),
    ],
)
async def test_what_is_not_dialled(host: str, why: str) -> None:
    failed = await refused(target(host))
    assert failed.cause is Cause.NOT_ALLOWED
    assert why in failed.detail


async def test_this_hosts_own_addresses_are_another_way_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "is_own_address", lambda address: str(address) == "198.51.100.7")
    failed = await refused(target("198.51.100.7", 10264))
    assert failed.cause is Cause.NOT_ALLOWED
    assert "this host's own" in failed.detail
    failed = await refused(target("2002:c633:6407::1", 10264))
    assert failed.detail.startswith("198.51.100.7 is this host's own")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "64:ff9b::127.0.0.1", "2002:a9fe:a9fe::1"])
async def test_what_no_right_opens(host: str) -> None:
    everything = (ip_network("0.0.0.0/0"), ip_network("::/0"))
    assert (await refused(target(host, special=everything))).cause is Cause.NOT_ALLOWED


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
async def test_what_is_named_is_dialled(host: str) -> None:
    family = socket.AF_INET6 if host == "::1" else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        port = listener.getsockname()[1]
        sock, address = await target(host, port, special=LOOPBACK).dial()
        with sock:
            assert str(address) == sock.getpeername()[0]
            assert not sock.getblocking()
            assert sock.getpeername()[1] == port
            if os.geteuid() == 0:
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == MARK


async def test_without_the_privilege_to_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket.setsockopt

    def setsockopt(sock: socket.socket, level: int, option: int, value: int) -> None:
        if (level, option) == (socket.SOL_SOCKET, socket.SO_MARK):
            raise PermissionError(1, "Operation not permitted")
        real(sock, level, option, value)

    monkeypatch.setattr(socket.socket, "setsockopt", setsockopt, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock, _ = await target("127.0.0.1", listener.getsockname()[1], special=LOOPBACK).dial()
        sock.close()


@pytest.mark.parametrize(
    ("named", "dialled"), [("192.168.2.9/32", True), ("192.168.2.0/24", True), ("192.168.3.0/24", False)]
)
async def test_a_machine_among_edges_is_dialled_where_it_is_named(
    named: str, dialled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def connect(address: object, port: int) -> socket.socket:
        return socket.socket()

    monkeypatch.setattr(direct, "_connect", connect)
    special = (ip_network(named),)
    if dialled:
        (await target("192.168.2.9", special=special).dial())[0].close()
    else:
        await refused(target("192.168.2.9", special=special))
    failed = await refused(target("192.168.2.143", special=(ip_network("192.168.0.0/16"),)))
    assert "is an edge's" in failed.detail, "whatever is named"


async def test_out_of_descriptors() -> None:
    wanted = target("192.0.2.7")
    with descriptors(os.getpid()):
        failure = await refused(wanted)
    assert failure.cause is Cause.NO_ROOM
    assert "Too many open files: this process may have " in failure.detail


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    failed = await refused(target("127.0.0.1", port, special=LOOPBACK))
    assert (failed.cause, failed.detail) == (Cause.REFUSED, "127.0.0.1: Connection refused")


async def test_names_without_an_address() -> None:
    failed = await refused(target("no-such-name.invalid"))
    assert failed.cause is Cause.UNRESOLVABLE


async def test_a_dead_address_leaves_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def two(host: str) -> list[object]:
        return [ip_address("192.0.2.1"), ip_address("127.0.0.1")]

    real = direct._connect

    async def connect(address: object, port: int) -> socket.socket:
        if str(address) == "192.0.2.1":
            await trio.sleep_forever()
        return await real(address, port)  # type: ignore[arg-type]

    monkeypatch.setattr(direct, "_resolve", two)
    monkeypatch.setattr(direct, "_connect", connect)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        began = trio.current_time()
        sock, address = await target("name", listener.getsockname()[1], special=LOOPBACK).dial()
        sock.close()
        assert str(address) == "127.0.0.1"
        assert trio.current_time() - began == 5
