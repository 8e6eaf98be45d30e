"""A socket that nobody reads or writes still says when it fails."""

import os
import socket

import trio
import trio.testing

from tests.tunnel_wire.links import tcp_pair
from tunnel_wire.failures import forget, watch
from tunnel_wire.sockets import close_with_reset


async def test_a_reset_is_told_once_with_unread_data_before_it() -> None:
    near, far = tcp_pair()
    failed = trio.Event()
    told: list[int] = []
    with near:
        watch(near, lambda: (told.append(1), failed.set()))
        far.send(b"unread")
        await trio.testing.wait_all_tasks_blocked()
        assert not told
        close_with_reset(far)
        with trio.fail_after(5):
            await failed.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert told == [1]
        assert near.recv(10) == b"unread"
        forget(near)


async def test_proper_ends_are_no_failures() -> None:
    near, far = tcp_pair()
    with near, far:
        watch(near, lambda: told.append(1))
        told: list[int] = []
        far.shutdown(socket.SHUT_WR)
        await trio.lowlevel.wait_readable(near)
        assert near.recv(1) == b""
        near.shutdown(socket.SHUT_WR)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert not told
        forget(near)


async def test_forgotten_and_its_number_used_again() -> None:
    told: list[str] = []
    near, far = tcp_pair()
    number = near.fileno()
    watch(near, lambda: told.append("first"))
    forget(near)
    near.close()
    far.close()
    other, far = tcp_pair()
    with other, socket.socket(fileno=os.dup2(other.fileno(), number)) as near:
        failed = trio.Event()
        watch(near, failed.set)
        close_with_reset(far)
        with trio.fail_after(5):
            await failed.wait()
        assert not told
        forget(near)


async def test_many_at_once() -> None:
    pairs = [tcp_pair() for _ in range(100)]
    failed: set[int] = set()
    for index, (near, _) in enumerate(pairs):
        watch(near, lambda index=index: failed.add(index))
    for _, far in pairs[::2]:
        close_with_reset(far)
    with trio.fail_after(5):
        while len(failed) < 50:
            await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()
    assert failed == set(range(0, 100, 2))
    for near, far in pairs:
        forget(near)
        near.close()
        far.close()


def test_each_event_loop_has_its_own() -> None:
    trio.run(test_a_reset_is_told_once_with_unread_data_before_it)
    trio.run(test_a_reset_is_told_once_with_unread_data_before_it)
