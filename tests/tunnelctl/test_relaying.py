"""Bytes, ends and resets go through, in both directions, and never one for the other."""

import errno
import select
import socket
import threading

import pytest
import trio

from tests.tunnelctl.pairs import read_to_end, tcp_pair, unix_pair
from tunnel_wire.sockets import close_with_reset
from tunnelctl.ends import SocketEnd
from tunnelctl.relaying import relay

kinds = pytest.mark.parametrize(("near", "far"), [(tcp_pair, tcp_pair), (tcp_pair, unix_pair)])


@kinds
async def test_much_goes_both_ways_at_once(near, far) -> None:
    (caller, near_end), (target, far_end) = near(), far()
    payload = bytes(range(256)) * 40_000
    received = {}

    def send_and_end(sock: socket.socket) -> None:
        sock.sendall(payload)
        sock.shutdown(socket.SHUT_WR)

    def take(name: str, sock: socket.socket) -> None:
        received[name] = read_to_end(sock)

    with caller, target:
        threads = [threading.Thread(target=send_and_end, args=(sock,)) for sock in (caller, target)]
        threads += [threading.Thread(target=take, args=pair) for pair in (("t", target), ("c", caller))]
        for thread in threads:
            thread.start()
        assert await relay(SocketEnd(near_end), SocketEnd(far_end)) == ""
        for thread in threads:
            await trio.to_thread.run_sync(thread.join)
    assert received == {"t": payload, "c": payload}


@kinds
async def test_an_end_one_way_leaves_the_other_open(near, far) -> None:
    (caller, near_end), (target, far_end) = near(), far()
    with caller, target:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay, SocketEnd(near_end), SocketEnd(far_end))
            caller.sendall(b"request")
            caller.shutdown(socket.SHUT_WR)
            assert await trio.to_thread.run_sync(read_to_end, target) == b"request"
            target.sendall(b"answer")
            target.close()
            assert await trio.to_thread.run_sync(read_to_end, caller) == b"answer"


@kinds
async def test_a_reset_from_the_far_end_reaches_the_caller_behind_what_came_before(near, far) -> None:
    (caller, near_end), (target, far_end) = near(), far()
    with caller:
        target.sendall(b"half a file")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay, SocketEnd(near_end), SocketEnd(far_end))
            assert await trio.to_thread.run_sync(caller.recv, 100) == b"half a file"
            close_with_reset(target)
            with pytest.raises(ConnectionResetError):
                await trio.to_thread.run_sync(caller.recv, 100)


async def test_a_callers_reset_reaches_the_far_end() -> None:
    (caller, near_end), (target, far_end) = tcp_pair(), tcp_pair()
    with target:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay, SocketEnd(near_end), SocketEnd(far_end))
            caller.sendall(b"half an upload")
            assert await trio.to_thread.run_sync(target.recv, 100) == b"half an upload"
            close_with_reset(caller)
            with pytest.raises(ConnectionResetError):
                await trio.to_thread.run_sync(target.recv, 100)


async def test_a_reset_is_noticed_while_both_are_idle_and_one_way_has_ended() -> None:
    (caller, near_end), (target, far_end) = tcp_pair(), tcp_pair()
    with target, trio.fail_after(10):
        caller.shutdown(socket.SHUT_WR)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay, SocketEnd(near_end), SocketEnd(far_end))
            assert await trio.to_thread.run_sync(target.recv, 1) == b""
            close_with_reset(caller)
            # In CLOSE_WAIT the kernel calls a reset a broken pipe (tcp_reset, net/ipv4/tcp_input.c).
            assert await trio.to_thread.run_sync(_failure, target) == errno.EPIPE


def _failure(sock: socket.socket) -> int:
    poll = select.poll()
    poll.register(sock, 0)
    assert poll.poll(5000), "the reset was not passed on"
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


async def test_cancelled_both_are_reset() -> None:
    (caller, near_end), (target, far_end) = tcp_pair(), tcp_pair()
    with caller, target:
        with trio.move_on_after(0.05):
            await relay(SocketEnd(near_end), SocketEnd(far_end))
        for sock in (caller, target):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
