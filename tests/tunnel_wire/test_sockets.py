"""What the kernel says about a socket's queue, and how a connection ends in a reset."""

import socket

import pytest
import trio

from tests.tunnel_wire.links import tcp_pair
from tunnel_wire.sockets import (
    NOT_SENT_LOW_WATER,
    close_with_reset,
    from_trio,
    prepare,
    unacknowledged,
    unsent,
)


def fill(sock: socket.socket) -> int:
    total = 0
    try:
        while True:
            total += sock.send(bytes(65536))
    except BlockingIOError:
        return total


def test_prepared_sockets_do_not_block_nor_delay() -> None:
    one, other = tcp_pair()
    with one, other:
        one.setblocking(True)
        assert prepare(one) is one
        assert not one.getblocking()
        assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_a_link_keeps_little_that_is_not_sent() -> None:
    plain, plain_peer = tcp_pair()
    link, link_peer = tcp_pair()
    with plain, plain_peer, link, link_peer:
        prepare(plain)
        prepare(link, link=True)
        assert link.getsockopt(socket.IPPROTO_TCP, 25) == NOT_SENT_LOW_WATER
        fill(plain)
        fill(link)
        # What is not on its way yet is the kernel's granularity over the mark, not a buffer of megabytes.
        assert unsent(link) < NOT_SENT_LOW_WATER + 256 * 1024 < unsent(plain)


def test_unix_sockets_can_be_prepared() -> None:
    one, other = socket.socketpair()
    with one, other:
        prepare(one, link=True)
        assert not one.getblocking()
        assert unsent(one) == 0


def test_queues_are_counted() -> None:
    one, other = tcp_pair()
    with one, other:
        assert unacknowledged(one) == 0
        total = fill(one)
        waiting = unacknowledged(one)
        assert 0 < unsent(one) <= waiting < total
        other.setblocking(True)
        left = total
        while left:
            left -= len(other.recv(1 << 20))
        # The last acknowledgement may be delayed by 40 ms: a byte back carries it.
        other.send(b"x")
        one.setblocking(True)
        assert one.recv(1) == b"x"
        assert unacknowledged(one) == unsent(one) == 0


def test_a_closed_socket_has_no_queue() -> None:
    one, other = tcp_pair()
    other.close()
    one.close()
    assert unacknowledged(one) == unsent(one) == 0


def test_the_peer_of_a_reset_sees_no_clean_end() -> None:
    one, other = tcp_pair()
    with other:
        other.setblocking(True)
        close_with_reset(one)
        with pytest.raises(ConnectionResetError):
            other.recv(1)


def test_resetting_a_closed_socket_is_nothing() -> None:
    one, other = tcp_pair()
    other.close()
    one.close()
    close_with_reset(one)


def test_keepalive_notices_a_silent_peer_within_minutes() -> None:
    one, other = tcp_pair()
    with one, other:
        prepare(one)
        idle, interval, count = (
            one.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + interval * count <= 180


async def test_out_of_trio() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener:
        near = await trio.open_tcp_stream(*listener.socket.getsockname()[:2])
        far = await listener.accept()
        number = near.socket.fileno()
        with from_trio(near.socket) as sock:
            assert sock.fileno() == number
            assert not sock.getblocking()
            await far.send_all(b"hi")
            await trio.lowlevel.wait_readable(sock)
            assert sock.recv(10) == b"hi"
        await far.aclose()
