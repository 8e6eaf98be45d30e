"""Transactions are whole, errors name what was refused, and notifications are heard."""

import errno
import os
import struct
from dataclasses import replace
from ipaddress import ip_address

import pytest

from tests.tunnel_server.intercept.netns import namespaces
from tunnel_server.intercept import messages as nl
from tunnel_server.intercept import table
from tunnel_server.intercept.config import InterceptConfig
from tunnel_server.intercept.netlink import (
    GROUP_NFTABLES,
    HEADER,
    NETLINK_NETFILTER,
    NetlinkError,
    NetlinkSocket,
    split,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root")


def build(port: int) -> list[nl.Message]:
    return table.build(InterceptConfig(), port=port, owned=False)


def test_a_transaction_is_whole_or_nothing_and_the_error_names_the_part():
    def work() -> None:
        with NetlinkSocket(NETLINK_NETFILTER) as sock:
            bad = nl.nftables(nl.DELSETELEM, [("NFTA_SET_ELEM_LIST_TABLE", "nowhere")], "elements of nowhere")
            with pytest.raises(NetlinkError) as raised:
                sock.transact([*build(sock.port), bad])
            assert str(raised.value).startswith("elements of nowhere: ")
            with pytest.raises(NetlinkError) as raised:
                sock.request(table.get())
            assert raised.value.errno == errno.ENOENT
            sock.transact(build(sock.port))
            (reply,) = sock.request(table.get())
            assert nl.decode_table(reply)["NFTA_TABLE_NAME"] == "edge-tunnel"

    with namespaces("host") as (host,):
        host.run(work)


def test_requests_by_the_hundred_are_answered_in_order():
    def work() -> None:
        with NetlinkSocket(NETLINK_NETFILTER) as sock:
            sock.transact(build(sock.port))
            other = replace(table.get(), attributes=[("NFTA_TABLE_NAME", "other")])
            answers = sock.request_each([table.get(), other] * 100)
            assert all(isinstance(answer, list) for answer in answers[::2])
            assert all(isinstance(answer, NetlinkError) for answer in answers[1::2])

    with namespaces("host") as (host,):
        host.run(work)


def test_notifications_say_who_did_it():
    def work() -> None:
        with (
            NetlinkSocket(NETLINK_NETFILTER, [GROUP_NFTABLES]) as ears,
            NetlinkSocket(NETLINK_NETFILTER) as sock,
        ):
            assert ears.heard() == []
            sock.transact(build(sock.port))
            heard = ears.heard()
            assert heard
            assert {port for _kind, port, _payload in heard} == {sock.port}
            assert ears.heard() == []

    with namespaces("host") as (host,):
        host.run(work)


def test_notifications_that_were_lost():
    def work() -> None:
        with (
            NetlinkSocket(NETLINK_NETFILTER, [GROUP_NFTABLES]) as ears,
            NetlinkSocket(NETLINK_NETFILTER) as sock,
        ):
            ears.socket.setsockopt(1, 8, 4096)  # SO_RCVBUF
            sock.transact(build(sock.port))
            addresses = [ip_address(0x0A000000 + number) for number in range(5000)]
            sock.transact(table.difference(((), {}), (addresses, {})))
            assert any(ears.heard() is None for _ in range(3))

    with namespaces("host") as (host,):
        host.run(work)


def test_the_socket_that_is_closed():
    sock = NetlinkSocket(NETLINK_NETFILTER)
    sock.close()
    with pytest.raises(NetlinkError, match="table edge-tunnel"):
        sock.request(table.get())


def test_split_of_what_is_cut_short():
    whole = HEADER.pack(20, 3, 0, 7, 9) + b"abcd"
    assert list(split(whole * 2)) == [(3, 7, 9, b"abcd")] * 2
    assert list(split(whole + whole[:10])) == [(3, 7, 9, b"abcd")]
    assert list(split(struct.pack("=IHHII", 0, 3, 0, 7, 9))) == []
